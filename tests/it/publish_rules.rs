//! The configuration of the modes that publish: what they are called, what goes with which, and
//! where a target may be.

use std::path::Path;

use pmpy::config::{
    self, AgentDirs, ConfigLocations, ConfigTexts, PublishSettings, RepoMode, Settings,
};
use pmpy::domain::publish::rules::{NamingRule, RefSelection, TargetLayout};
use pmpy::domain::repository::observed::{OnRewrite, UpdateMethod};

fn parse(text: &str) -> Result<Settings, config::ConfigError> {
    let settings = parsed(text)?;
    match settings.faults.values().next() {
        Some(fault) => Err(fault.clone()),
        None => Ok(settings),
    }
}

fn parsed(text: &str) -> Result<Settings, config::ConfigError> {
    let mut source = ConfigTexts::default();
    source.add("agent.toml", text);
    let world =
        AgentDirs::of(&ConfigLocations { is_root: true, ..ConfigLocations::default() }).unwrap();
    Settings::parse(world, &source)
}

#[test]
fn every_mode_goes_by_all_its_names() {
    use OnRewrite::{Follow, Refuse};
    for (word, mode, layout, refs, rewritten) in [
        ("work", RepoMode::Work, None, None, Refuse),
        ("in-place", RepoMode::InPlace, None, None, Refuse),
        ("dangerous", RepoMode::InPlace, None, None, Refuse),
        ("fetch", RepoMode::Fetch, Some(TargetLayout::Checkout), None, Follow),
        ("normal", RepoMode::Fetch, Some(TargetLayout::Checkout), None, Follow),
        ("checkout", RepoMode::Checkout, Some(TargetLayout::Checkout), None, Refuse),
        ("trusting", RepoMode::Checkout, Some(TargetLayout::Checkout), None, Refuse),
        ("branch", RepoMode::Checkout, Some(TargetLayout::Checkout), None, Refuse),
        (
            "branches",
            RepoMode::Branches,
            Some(TargetLayout::Inside),
            Some(RefSelection::Branches),
            Follow,
        ),
        (
            "puppetmaster",
            RepoMode::Branches,
            Some(TargetLayout::Inside),
            Some(RefSelection::Branches),
            Follow,
        ),
        (
            "atomic",
            RepoMode::Atomic,
            Some(TargetLayout::Sibling),
            Some(RefSelection::Branches),
            Follow,
        ),
        ("tags", RepoMode::Tags, Some(TargetLayout::Inside), Some(RefSelection::Tags), Follow),
    ] {
        let target = layout.map_or("", |_| "target = \"/srv/site\"");
        let settings = parse(&format!("[repo.a]\nmode = \"{word}\"\n{target}")).unwrap();
        let repo = &settings.repos["a"];
        assert_eq!(repo.mode, mode, "{word}");
        assert_eq!(repo.mode.layout(), layout, "{word}");
        assert_eq!(repo.target().map(|target| target.layout), layout, "{word}");
        let rules = repo.target().and_then(|target| repo.rules(&target).unwrap());
        assert_eq!(rules.map(|rules| rules.refs), refs, "{word}");
        assert_eq!(repo.policy.rewritten, rewritten, "{word}");
        assert_eq!(repo.publish.keep, 2);
    }
}

#[test]
fn a_repository_that_publishes_has_all_that_it_was_given() {
    let settings = parse(
        r#"
        [defaults]
        mode = "branches"
        update = "reset"
        rewritten = "refuse"
        names = "puppet"
        rename = { main = "production" }
        after_user = "root"
        keep = 5
        [repo.env]
        target = "/etc/puppet//environments/"
        match = ["**", "!wip/**"]
        before = ["bin/validate"]
        after = ["systemctl", "reload", "puppetserver"]
        keep = 0
        [repo.ops]
        mode = "work"
        "#,
    )
    .unwrap();
    let env = &settings.repos["env"];
    assert_eq!(env.policy.rewritten, OnRewrite::Refuse);
    assert_eq!(
        env.publish,
        PublishSettings {
            target: Some("/etc/puppet/environments".into()),
            names: NamingRule::Puppet,
            rename: [("main".to_owned(), "production".to_owned())].into(),
            matching: vec!["**".to_owned(), "!wip/**".to_owned()],
            keep: 0,
            before: vec!["bin/validate".to_owned()],
            after: ["systemctl", "reload", "puppetserver"].map(str::to_owned).to_vec(),
            after_user: Some("root".to_owned()),
            shared: Vec::new(),
        }
    );
    assert_eq!(env.target().unwrap().links_dir, Path::new("/etc/puppet/environments"));
    let ops = &settings.repos["ops"];
    assert_eq!(ops.target(), None);
    assert_eq!(ops.policy.update, UpdateMethod::Reset, "[defaults] is for those whom it suits");
    assert_eq!(settings.unlisted.mode, RepoMode::Fetch, "without an entry there is no target");
}

#[test]
fn a_repository_s_settings_are_handed_over_whole() {
    let text = "[repo.a]\nmode = \"puppetmaster\"\ntarget = \"/srv/a\"\nrename = { b = \"c\" }";
    let before = &parse(text).unwrap().repos["a"];
    let handed: config::RepoSettings =
        serde_json::from_str(&serde_json::to_string(before).unwrap()).unwrap();
    assert_eq!(format!("{handed:?}"), format!("{before:?}"));
}

#[test]
fn what_does_not_go_together_is_refused_at_its_place() {
    let branches = "[repo.a]\nmode = \"branches\"\ntarget = \"/srv/a\"\n";
    let checkout = "[repo.a]\nmode = \"checkout\"\ntarget = \"/srv/a\"\n";
    let fetch = "[repo.a]\nmode = \"fetch\"\n";
    let in_place = "[repo.a]\nmode = \"in-place\"\n";
    let work = "[repo.a]\n";
    for (head, key, place, what, hint) in [
        // Targets.
        ("", "[repo.a]\nmode = \"branches\"", "2:8", "none is named", "target = \"/srv/site\""),
        ("", "[repo.a]\nmode = \"trusting\"", "2:8", "mode \"checkout\" publishes", "target ="),
        ("", "[defaults]\nmode = \"tags\"\n[repo.a]", "3:7", "none is named", "target ="),
        (work, "target = \"/srv/a\"", "2:10", "mode \"work\" has no target", "\"checkout\""),
        (in_place, "target = \"/srv/a\"", "3:10", "mode \"in-place\" has no target", "leave it"),
        // Keys and modes.
        (
            work,
            "rename = { a = \"b\" }",
            "2:10",
            "\"rename\" does nothing",
            "\"branches\", \"atomic\"",
        ),
        (work, "keep = 1", "2:8", "\"keep\" does nothing in mode \"work\"", "\"checkout\""),
        (in_place, "scripts = [\"x\"]", "3:11", "\"scripts\" does nothing", "for mode \"work\""),
        (in_place, "after = [\"x\"]", "3:9", "\"after\" does nothing", "leave it out"),
        (checkout, "match = [\"v*\"]", "4:9", "\"match\" does nothing", "\"tags\""),
        (checkout, "names = \"puppet\"", "4:9", "\"names\" does nothing", "\"tags\""),
        (
            checkout,
            "update = \"reset\"",
            "4:10",
            "\"update\" does nothing",
            "\"work\", \"in-place\"",
        ),
        (branches, "scripts = [\"x\"]", "4:11", "\"scripts\" does nothing", "for mode \"work\""),
        (branches, "paths = [\"web/**\"]", "4:9", "\"paths\" does nothing", "\"checkout\""),
        (branches, "when = \"always\"", "4:8", "\"when\" does nothing", "\"checkout\""),
        (fetch, "match = [\"v*\"]", "3:9", "\"match\" does nothing", "\"tags\""),
        (fetch, "keep = 3", "3:8", "about what appears at a target", "or leave it out"),
        (fetch, "after_user = \"root\"", "3:14", "about what appears at a target", "target ="),
        // Values.
        (branches, "keep = -1", "4:8", "expected a whole number, 0 or above, found integer -1", ""),
        (branches, "before = [\"../x\"]", "4:11", "leaves the repository", "from the top"),
        (branches, "before = []", "4:10", "empty", "leave the key out"),
        (branches, "after = []", "4:9", "empty", "a program"),
        (branches, "after = \"systemctl reload nginx\"", "4:9", "expected a list", ""),
        (branches, "after = [\"bin/x\"]", "4:9", "\"bin/x\" is not an absolute path", "whole path"),
        (branches, "after_user = \"\"", "4:14", "empty", "leave the key out"),
        (branches, "match = []", "4:9", "empty", "leave the key out"),
        (branches, "match = [\"a\", \"b[\"]", "4:15", "\"b[\" is not a pattern", "\"v*\""),
        (
            branches,
            "match = [\"refs/heads/v*\"]",
            "4:10",
            "never matches a branch",
            "without refs/",
        ),
        (branches, "match = [\"!\"]", "4:10", "a pattern is empty", "\"v*\""),
        // Names.
        (branches, "rename = { a = \"x/y\" }", "4:16", "\"x/y\" cannot be", "letters"),
        (branches, "rename = { a = \".x\" }", "4:16", "\".x\" cannot be", "begin with a letter"),
        (branches, "rename = { a = \"..\" }", "4:16", "\"..\" cannot be", "begin with a letter"),
        (branches, "rename = { a = \"-x\" }", "4:16", "\"-x\" cannot be", "begin with a letter"),
        (branches, "rename = { a = \"\" }", "4:16", "\"\" cannot be", "letters"),
        (branches, "rename = { \"a..b\" = \"x\" }", "4:12", "not the name of a branch", "\"main\""),
        (
            branches,
            "rename = { b = \"x\", a = \"x\" }",
            "4:25",
            "both be renamed to \"x\"",
            ":4:16",
        ),
        (
            branches,
            "names = \"puppet\"\nrename = { a = \"x-y\" }",
            "5:16",
            "called \"x-y\"",
            "digits",
        ),
        (
            branches,
            "names = \"puppet\"\nrename = { a = \"user\" }",
            "5:16",
            "called \"user\"",
            "master",
        ),
    ] {
        let text = format!("{head}{key}");
        let error = parse(&text).expect_err(&text).to_string();
        let (message, hints) = error.split_once("\nhint: ").unwrap_or((&error, ""));
        assert!(message.starts_with(&format!("agent.toml:{place}: ")), "{text}\n{error}");
        assert!(message.contains(what), "{text}\n{error}");
        assert!(hints.contains(hint), "{text}\n{error}");
    }
    // What is done anyway may be asked for.
    for (head, keys) in [
        (
            checkout,
            "update = \"fast-forward\"\nnames = \"exact\"\nwhen = \"1h\"\npaths = [\"a/**\"]",
        ),
        (branches, "when = \"changed\"\nmatch = [\"!wip\"]\nafter = [\"/bin/true\", \"a b\"]"),
        (fetch, "target = \"/srv/a\"\nkeep = 1\nafter = [\"true\"]"),
        (in_place, "when = \"always\"\npaths = [\"a/**\"]\nnames = \"exact\""),
    ] {
        parse(&format!("{head}{keys}")).unwrap();
    }
}

#[test]
fn a_target_has_its_place_for_itself() {
    for (one, other, blamed) in [
        // The root and repositories.
        (("checkout", "/root/gitrepo"), None, "2"),
        (("branches", "/root"), None, "2"),
        (("tags", "/root/gitrepo/a/public"), None, "2"),
        (("atomic", "/root/git"), Some(("work", "/srv/b")), ""),
        (("atomic", "/roo"), None, ""),
        (("branches", "/srv"), Some(("work", "/srv/git/b")), "2"),
        (("checkout", "/srv/b/public"), Some(("work", "/srv/b")), "2"),
        (("checkout", "/srv/a"), Some(("in-place", "/srv/a")), "2"),
        (("atomic", "/srv/a"), Some(("work", "/srv/a_b/c")), "2"),
        (("atomic", "/srv/a"), Some(("work", "/srv/a")), ""),
        (("checkout", "/srv/a"), Some(("work", "/srv/.a.pmpy")), "2"),
        (("checkout", "/srv/a"), Some(("work", "/srv/ab")), ""),
        // Other targets.
        (("checkout", "/srv/a"), Some(("checkout", "/srv/a")), "3"),
        (("checkout", "/srv/a"), Some(("fetch", "/srv/a/")), "3"),
        (("branches", "/srv"), Some(("checkout", "/srv/b")), "3"),
        (("checkout", "/srv/a"), Some(("tags", "/srv/a/b")), "3"),
        (("atomic", "/srv/a"), Some(("checkout", "/srv/a_b")), "3"),
        (("atomic", "/srv/a"), Some(("atomic", "/srv/a_b")), "3"),
        (("atomic", "/srv/a"), Some(("checkout", "/srv/a")), "3"),
        (("atomic", "/srv/a"), Some(("branches", "/srv/a")), ""),
        (("atomic", "/srv/a"), Some(("checkout", "/srv/ab")), ""),
        (("branches", "/srv/a"), Some(("branches", "/srv/b")), ""),
        (("checkout", "/srv/a"), Some(("checkout", "/srv/b")), ""),
        (("checkout", "/"), None, "2"),
        (("branches", "/"), None, "2"),
    ] {
        let entry = |name: &str, (mode, place): (&str, &str)| {
            let key = if ["work", "in-place"].contains(&mode) { "path" } else { "target" };
            format!("repo.{name} = {{ mode = \"{mode}\", {key} = \"{place}\" }}")
        };
        let other = other.map(|other| entry("b", other)).unwrap_or_default();
        let text = format!("\n{}\n{other}\n", entry("a", one));
        let faults = parsed(&text).unwrap().faults;
        let told = faults.values().map(ToString::to_string);
        match told.clone().find(|it| it.starts_with(&format!("agent.toml:{blamed}:"))) {
            None => assert_eq!((blamed, faults.len()), ("", 0), "{text}\n{faults:?}"),
            Some(error) => {
                assert!(error.starts_with(&format!("agent.toml:{blamed}:")), "{text}\n{error}");
                assert!(
                    error.contains("overlap") || error.contains("whole file system"),
                    "{error}"
                );
                assert!(error.contains("\nhint: "), "{error}");
            }
        }
    }
    let long = format!("[repo.a]\nmode = \"checkout\"\ntarget = \"/srv/{}\"", "x".repeat(201));
    assert!(parse(&long).unwrap_err().to_string().contains("longer than 200 bytes"));
}
