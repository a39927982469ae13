//! From the keys of `[webhook]` to its settings.

use std::net::{Ipv4Addr, SocketAddr};

use super::Webhook;
use super::file::File;
use super::source::{Error, Source};

/// Where it is listened unless it is said: only this machine reaches it.
const USUAL_BIND: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9419);

/// What `[webhook]` says, if it is there.
pub fn webhook(source: &Source, file: &File) -> Result<Option<Webhook>, Error> {
    let Some(section) = &file.webhook else { return Ok(None) };
    let keys = section.get_ref();
    let Some(secret_file) = &keys.secret_file else {
        let reason = "[webhook] has no secret, and everybody could make the agent look\n\
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
    Ok(Some(Webhook {
        bind: keys.bind.as_ref().map_or_else(|| SocketAddr::from(USUAL_BIND), |bind| bind.0),
        secret_file: secret_file.0.clone(),
        announce: keys.announce.as_ref().is_some_and(|announce| *announce.get_ref()),
    }))
}
