//! Converts the keys of `[page]` to its settings. Does not know HTTP.

use std::net::SocketAddr;

use super::faults::ConfigError;
use super::file::ConfigFile;
use super::source::ConfigTexts;
use super::webhook::WebhookSettings;
use crate::domain::page::hosts::PageHosts;

/// The settings of the page that `agent listen` serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// `bind`: the address to listen on, with plain HTTP.
    pub bind: SocketAddr,
    /// `allowed_hosts`: the names by which browsers may ask for it, besides the address.
    pub allowed_hosts: Vec<String>,
}

impl PageSettings {
    /// The hosts that browsers may ask for.
    pub fn hosts(&self) -> PageHosts {
        PageHosts::new(self.bind.ip(), &self.allowed_hosts)
    }
}

/// The settings that `[page]` contains; `None`: there is no such section.
pub fn page(
    source: &ConfigTexts,
    file: &ConfigFile,
    webhook: Option<&WebhookSettings>,
) -> Result<Option<PageSettings>, ConfigError> {
    let Some(section) = &file.page else { return Ok(None) };
    let keys = section.get_ref();
    let Some(bind) = &keys.bind else {
        let reason = "[page] has no address to listen on\nhint: bind = \"127.0.0.1:9420\"";
        return Err(source.error(section.span(), reason));
    };
    let address = bind.get_ref().0;
    // Port 0 is any free one.
    if address.port() != 0 && webhook.is_some_and(|webhook| webhook.bind == address) {
        let reason = "the page and [webhook] cannot have the same address\n\
                      hint: bind = \"127.0.0.1:9420\"";
        return Err(source.error(bind.span(), reason));
    }
    let allowed_hosts = keys.allowed_hosts.iter().map(|host| host.0.clone()).collect();
    Ok(Some(PageSettings { bind: address, allowed_hosts }))
}
