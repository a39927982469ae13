//! Converts the keys of `[webhook]` to its settings. Does not know HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::faults::ConfigError;
use super::file::ConfigFile;
use super::source::ConfigTexts;

/// The default address: only this machine reaches it.
const USUAL_BIND: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9419);

/// The settings of the HTTP listener for web hooks, metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// `bind`: the address to listen on, with plain HTTP.
    pub bind: SocketAddr,
    /// `secret_file`: the file of the secret that signs web hooks.
    pub secret_file: PathBuf,
    /// `announce`: whether web hooks are announced on the bus.
    pub announce: bool,
}

/// The settings that `[webhook]` contains; `None`: there is no such section.
pub fn webhook(
    source: &ConfigTexts,
    file: &ConfigFile,
) -> Result<Option<WebhookSettings>, ConfigError> {
    let Some(section) = &file.webhook else { return Ok(None) };
    let keys = section.get_ref();
    let Some(secret_file) = &keys.secret_file else {
        let reason = "[webhook] has no secret, so that any client could start a tick\n\
                      hint: secret_file = \"/etc/pmpy/webhook.secret\"";
        return Err(source.error(section.span(), reason));
    };
    if let (Some(announce), None) = (&keys.announce, &file.bus)
        && *announce.get_ref()
    {
        let reason = "there is no [bus] to announce on\n\
                      hint: add one with its brokers, or leave the key out";
        return Err(source.error(announce.span(), reason));
    }
    Ok(Some(WebhookSettings {
        bind: keys.bind.as_ref().map_or_else(|| SocketAddr::from(USUAL_BIND), |bind| bind.0),
        secret_file: secret_file.0.clone(),
        announce: keys.announce.as_ref().is_some_and(|announce| *announce.get_ref()),
    }))
}
