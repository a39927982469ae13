//! Files that are laid over one another, and what a fault in them costs: one repository, or everything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use pmpy::config::Settings;
use tempfile::TempDir;

use super::{parse, world_with};

#[test]
fn a_later_file_wins_key_by_key_and_it_is_known_which() {
    let (root, sources) = world_with(&[
        (
            "agent.toml",
            "splay = \"1s\"\n[defaults]\ntimeout = \"1m\"\nenv = { A = \"1\", B = \"1\" }\n",
        ),
        ("agent.d/10-site.toml", "[repo.a]\nurl = \"/srv/a\"\nbranch = \"main\"\nkeep = 5\n"),
        ("agent.d/20-role.toml", "splay = \"2s\"\n[repo.a]\nbranch = \"role\"\n"),
        (
            "agent.d/30-host.toml",
            "[defaults.env]\nB = \"2\"\n[repo.a]\nbranch = \"host\"\nmode = \"checkout\"\ntarget = \"/srv/w\"\n",
        ),
    ]);
    let settings = Settings::load(&sources).unwrap();
    assert!(settings.faults.is_empty(), "{:?}", settings.faults);
    let a = &settings.repos["a"];
    assert_eq!((a.branch.as_deref(), a.publish.keep, a.urls.len()), (Some("host"), 5, 1));
    assert_eq!((a.env["A"].as_str(), a.env["B"].as_str()), ("1", "2"));
    assert_eq!(settings.splay, Duration::from_secs(2));
    let own = root.path().join(".pmpy").display().to_string();
    let told = [
        "agent.d/20-role.toml:1 splay overrides agent.toml:1",
        "agent.d/20-role.toml:3 repo.a.branch overrides agent.d/10-site.toml:3",
        "agent.d/30-host.toml:2 defaults.env.B overrides agent.toml:4",
        "agent.d/30-host.toml:4 repo.a.branch overrides agent.d/20-role.toml:3",
    ];
    let told =
        told.map(|it| format!("{own}/{}", it.replace("overrides ", &format!("overrides {own}/"))));
    assert_eq!(BTreeSet::from_iter(settings.overrides), BTreeSet::from(told));
}

#[test]
fn a_fault_is_where_the_value_that_wins_stands() {
    let own =
        |root: &TempDir, file: &str| root.path().join(".pmpy").join(file).display().to_string();
    let (root, sources) = world_with(&[
        ("agent.toml", "splay = \"soon\"\n[repo.a]\nmode = \"wrok\"\n[repo.b]\nkeep = 1\n"),
        ("agent.d/x.toml", "splay = \"1s\"\n[repo.a]\nmode = \"work\"\n[repo.b]\n\nkeep = -1\n"),
    ]);
    let settings = Settings::load(&sources).unwrap();
    let faults: Vec<_> = settings.faults.iter().map(|(name, it)| format!("{name} {it}")).collect();
    let [fault] = faults.as_slice() else {
        panic!("a value that is replaced is no fault: {faults:?}")
    };
    assert!(
        fault.starts_with(&format!("b {}:6:8: keep: ", own(&root, "agent.d/x.toml"))),
        "{fault}"
    );
}

#[test]
fn all_faults_are_told_in_the_order_of_lines() {
    let text = "\
        root = \"git\"\n\
        [repo.z]\nkeep = -1\nnames = \"exakt\"\ntimout = \"1s\"\n\
        [repo.a]\nurl = 1\n\
        [defaults]\nenv = { A = 1, \"B-\" = \"x\" }\n\
        [listen]\nevry = \"1m\"\n";
    let error = parse(text).unwrap_err().to_string();
    let places: Vec<_> = error.lines().filter_map(|line| line.split(": ").next()).collect();
    let lines = ["1:8", "3:8", "4:9", "5:1", "7:7", "9:13", "9:16", "11:1"];
    assert_eq!(places, lines.map(|line| format!("agent.toml:{line}")), "{error}");
    // A reader of the log sees which remedy belongs to which line.
    assert!(error.lines().nth(3).unwrap().contains("did you mean \"timeout\"?"), "{error}");
}

#[test]
fn an_entry_at_fault_costs_one_repository() {
    for (entry, key) in [
        ("kep = 2", "\"kep\""),
        ("keep = -1", "keep"),
        ("active = \"no\"", "active"),
        ("path = \"srv/a\"", "path"),
        ("mode = \"tags\"", "target"),
        ("after = [\"true\"]", "\"after\""),
        ("timeout = \"1m\"\ntimeout = \"2m\"", "\"timeout\""),
        ("[repo.a]", "[repo.a]"),
        ("active = false\nkeep = \"x\"", "keep"),
    ] {
        let text = format!(
            "[repo.b]\nurl = \"/srv/b\"\n[repo.a]\n{entry}\n[repo.c]\nkeep = 9\nmode = \"fetch\"\ntarget = \"/srv/c\""
        );
        let settings = parse(&text).unwrap();
        let names: Vec<_> = settings.faults.keys().map(String::as_str).collect();
        assert_eq!(names, ["a"], "{text}");
        assert_eq!(settings.repos["c"].publish.keep, 9, "{text}");
        let reason = settings.repos["a"].broken.as_deref().unwrap();
        let (told, hint) = reason.split_once("\nhint: ").expect(reason);
        assert!(
            told.starts_with("agent.toml:") && told.contains(key) && !hint.is_empty(),
            "{reason}"
        );
        assert!(settings.repos["a"].policy.active, "what is not understood is not switched off");
        assert!(settings.repos["b"].broken.is_none() && settings.repos["c"].broken.is_none());
    }
    for name in ["a/b", ".a", "../a", ""] {
        let settings = parse(&format!("[repo.{name:?}]\n[repo.b]\n")).unwrap();
        assert_eq!(settings.faults.keys().collect::<Vec<_>>(), [name]);
        assert_eq!(settings.repos[name].path.as_deref(), Some(Path::new("/root/gitrepo")));
    }
}

#[test]
fn repositories_that_are_in_each_others_way_are_both_at_fault() {
    let target = |name: &str, path: &str| {
        format!("[repo.{name}]\nmode = \"checkout\"\ntarget = \"{path}\"\n")
    };
    for (text, names) in [
        (target("a", "/srv/x") + &target("b", "/srv/x"), vec!["a", "b"]),
        (target("a", "/srv/x") + &target("b", "/srv/y") + &target("c", "/srv/x/y"), vec!["a", "c"]),
        (
            target("a", "/srv") + &target("b", "/srv/x") + &target("c", "/srv/y"),
            vec!["a", "b", "c"],
        ),
        ("[repo.a]\npath = \"/srv/a\"\n[repo.b]\npath = \"/srv/a\"\n".to_owned(), vec!["a", "b"]),
        (
            "[repo.a]\npath = \"/srv/a\"\nkep = 1\n[repo.b]\npath = \"/srv/a/b\"\n".to_owned(),
            vec!["a", "b"],
        ),
        (target("a", "/srv/x") + "mod = 1\n" + &target("b", "/srv/x"), vec!["a", "b"]),
        (target("a", "/root/gitrepo/x") + &target("b", "/srv/x"), vec!["a"]),
    ] {
        let settings = parse(&text).unwrap();
        assert_eq!(settings.faults.keys().collect::<Vec<_>>(), names, "{text}");
        let told = settings.faults.values().map(ToString::to_string).collect::<String>();
        assert!(names.len() == 1 || told.contains("agent.toml:"), "{told}");
    }
}

#[test]
fn outside_of_the_entries_nothing_is_used() {
    for text in [
        "splay = 1",
        "[defaults]\nkeep = -1",
        "[defaults]\ntarget = \"/srv/x\"",
        "[bus]\nbrokers = []",
        "repo = 1",
        "repo.a = 1\n[repo.a.env]\n[node]\n[node]",
        "[defaults]\nkeep = 1\nkeep = 2",
        "[repo.a]\nkeep = [1",
        "[repo.a\nkeep = 1",
        "[node]\nparts = \"x\"",
        "x = \"\"\"\n[repo.a]\n\"\"\"\nx = 1",
    ] {
        let error =
            parse(&format!("{text}\n[repo.b]\n[repo.c]\n")).map(|it| it.faults).unwrap_err();
        assert!(error.to_string().starts_with("agent.toml:"), "{error}");
    }
    let error = parse("metrics_file = \"/srv/m/pmpy.prom\"\n[repo.a\n").unwrap_err();
    assert_eq!(error.metrics_file(), Some(Path::new("/srv/m/pmpy.prom")));
}
