//! The sentence and the hint for each kind of wrong configuration.

use std::path::PathBuf;

use pmpy::config::{AgentDirs, ConfigLocations, ConfigTexts, Settings, TreeSettings};

use crate::Sheet;

const WRONG: [&str; 35] = [
    "splay = 5",
    "splay = \"soon\"",
    "splya = \"5s\"",
    "[repo.site]\nmode = \"wrok\"",
    "[repo.site]\nmode = \"branches\"",
    "[repo.site]\nmode = \"checkout\"\ntarget = \"sites/site\"",
    "[repo.site]\ntarget = \"/data/site\"",
    "[repo.site]\nurl = \"\"",
    "[repo.site]\nurl = []",
    "[repo.site]\nurl = \"git@git.example.org\"",
    "[repo.site]\nurl = \"https://user:secret@git.example.org/site.git\"\nbranch = \"a..b\"",
    "[repo.site]\nbranch = \"{role}\"",
    "[repo.site]\nupdate = \"rebase\"",
    "[repo.site]\nrewritten = \"ask\"",
    "[repo.site]\nwhen = \"sometimes\"",
    "[repo.site]\nwhen = \"0s\"",
    "[repo.site]\npaths = [\"!docs/**\"]",
    "[repo.site]\npaths = [\"docs/[\"]",
    "[repo.site]\ntimeout = \"0s\"",
    "[repo.site]\nscripts = [\"../work.sh\"]",
    "[repo.site]\nmax_file = \"lots\"",
    "[repo.site]\nactive = \"yes\"",
    "[repo.site]\nkeep = -1",
    "[repo.site]\nkey_file = \"site.key\"",
    "[repo.site]\nenv = { AGENT_REPO = \"x\" }",
    "[repo.\"a/b\"]\nbranch = \"main\"",
    "[node]\npart = \"-web\"",
    "[bus]\nbrokers = []",
    "[bus]\nbrokers = [\"amqp://mq.example.org\"]",
    "[webhook]\nbind = \"9419\"",
    "[listen]\nevery = \"0s\"",
    "on_change = []",
    "[repo.site\n",
    "[repo.site]\nmode = \"wrok\"\nkeep = -1\nbranche = \"main\"",
    "[repo.site]\n[repo.site]",
];

fn world() -> AgentDirs {
    let root = Some(PathBuf::from("/srv/git"));
    AgentDirs::of(&ConfigLocations { root, ..ConfigLocations::default() }).unwrap()
}

#[test]
fn a_wrong_value_is_named_with_its_place_and_what_to_write() {
    let mut sheet = Sheet::default();
    let mut accepted = Vec::new();
    for text in WRONG {
        let mut texts = ConfigTexts::default();
        texts.add("agent.toml", text);
        let told = match Settings::parse(world(), &texts) {
            Ok(settings) => match settings.faults.values().next() {
                Some(fault) => fault.to_string(),
                None => {
                    accepted.push(text);
                    continue;
                }
            },
            Err(error) => error.to_string(),
        };
        assert!(!told.contains("secret"), "{told}");
        sheet.add(text.trim_end(), &told);
    }
    assert!(accepted.is_empty(), "{accepted:#?}");
    sheet.same("configuration");
}

#[test]
fn a_wrong_value_in_the_tree_is_named() {
    let mut sheet = Sheet::default();
    for text in [
        "when = \"sometimes\"",
        "paths = []\ntimeout = \"never\"",
        "scripts = [\"/bin/sh\"]",
        "hold = 1",
        "hold = \"\"",
        "when",
    ] {
        let told = match TreeSettings::parse(text) {
            Ok(_) => "accepted".to_owned(),
            Err(reason) => reason,
        };
        sheet.add(text, &told);
    }
    sheet.same("tree-settings");
}
