//! The way things go, in the order they go: [`roster`] (which repositories), [`observe`] (what is),
//! [`tick`] (all of them once: [`rounds`] asks, [`look`] decides, a [`crew`] works), [`reconcile`] (one of them, once, by its worker), [`clone`] and
//! [`fetch`] (what upstream has), [`recover`] (what a dead run left), [`repair`] (what is damaged),
//! [`housekeeping`] (what piles up), [`publish`] (what appears at targets), [`steer`] and [`checkout`]
//! (what people ask for), [`bootstrap`] and [`schedule`] (how a machine becomes live), [`rivals`] (who
//! else pulls), [`check`] (what a person should put right before it shows), [`announce`] (what a git
//! server tells the others). Never prints; knows no library.

use std::fs::File;

use crate::config::Settings;
use crate::system::node::{Node, runtime_folder};
use crate::system::remote::Wire;

pub mod afterwards;
pub mod announce;
pub mod apply;
pub mod bootstrap;
pub mod check;
pub mod checkout;
pub mod clone;
pub mod crew;
pub mod delegate;
pub mod fetch;
pub mod housekeeping;
pub mod listen;
pub mod look;
pub mod observe;
pub mod poll;
pub mod publish;
pub mod reconcile;
pub mod record;
pub mod recover;
pub mod repair;
pub mod rivals;
pub mod roster;
pub mod rounds;
pub mod schedule;
pub mod scripts;
pub mod steer;
pub mod tick;

/// What every step needs to know: the settings and who we are.
#[derive(Debug)]
pub struct Here {
    /// What is configured.
    pub settings: Settings,
    /// This machine.
    pub node: Node,
    /// Which part it is.
    pub part: Option<String>,
    /// Which stack it belongs to.
    pub stack: Option<String>,
    /// How servers are reached.
    pub wire: Wire,
    /// What root handed over to us, who work for it as another user; `None`: we work for ourselves.
    pub parcel: Option<File>,
    /// Where root's tick runs `after` for us, who cannot become its user.
    pub requests: Option<String>,
}

impl Here {
    /// Completes the settings with what the machine says of itself.
    ///
    /// # Errors
    /// When `nodeinfo` holds something that is no part or stack.
    pub fn new(settings: Settings, node: Node) -> anyhow::Result<Self> {
        use crate::system::node::word;
        let nodeinfo = &settings.world.nodeinfo;
        let part = match &settings.part {
            Some(part) => Some(part.clone()),
            None => word(nodeinfo, &["nodepart.txt"])?,
        };
        let stack = match &settings.stack {
            Some(stack) => Some(stack.clone()),
            None => word(nodeinfo, &["stacktype.txt", "stackkey.txt"])?,
        };
        Ok(Self { part, stack, ..Self::bare(settings, node) })
    }

    /// Without what the machine says of itself.
    pub fn bare(settings: Settings, node: Node) -> Self {
        // What belongs to a world of its own lies within it; else sockets belong where they vanish
        // with the machine.
        let state = settings.world.state.join("ssh");
        let runtime = runtime_folder().filter(|_| !settings.world.own).map(|it| it.join("ssh"));
        let wire = Wire::new(runtime.into_iter().chain([state]).collect());
        Self { settings, node, part: None, stack: None, wire, parcel: None, requests: None }
    }
}
