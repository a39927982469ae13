//! Any text as `agent.toml`: an answer or an error that names its place and can be shown on a
//! terminal, never a panic.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use pmpy::config::{AgentDirs, ConfigLocations, ConfigTexts, Settings};

fuzz_target!(|text: &str| {
    let sources =
        ConfigLocations { root: Some(PathBuf::from("/srv/repos")), ..ConfigLocations::default() };
    let world = AgentDirs::of(&sources).expect("a root of its own needs nothing else");
    let mut source = ConfigTexts::default();
    source.add("agent.toml", text);
    match Settings::parse(world, &source) {
        Ok(settings) => {
            for repo in settings.repos.values() {
                let path = repo.path.as_ref().expect("a configured repository has a path");
                assert!(path.is_absolute(), "{path:?}");
                assert!(!settings.world.root.starts_with(path), "{path:?} holds the root");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message:?}");
        }
    }
});
