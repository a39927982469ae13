//! The configuration: where it is looked for, how files are laid over one another, and what is
//! said when something in them is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pmpy::config::{
    self, AgentDirs, ConfigLocations, ConfigTexts, NamedAddress, RepoMode, Settings, TreeSettings,
    known_keys,
};
use pmpy::domain::bus::broker::RetryPolicy;
use pmpy::domain::bus::message::Topic;
use pmpy::domain::repository::observed::{OnRewrite, RerunPolicy, UpdateMethod};
use tempfile::TempDir;

mod overlays;
mod reactions;

const EXAMPLE: &str = include_str!("../../examples/agent.toml");

fn root_world() -> AgentDirs {
    AgentDirs::of(&ConfigLocations { is_root: true, ..ConfigLocations::default() }).unwrap()
}

fn parse(text: &str) -> Result<Settings, config::ConfigError> {
    let mut source = ConfigTexts::default();
    source.add("agent.toml", text);
    Settings::parse(root_world(), &source)
}

/// The faults of everything, or of the last repository that has some.
fn complaint(text: &str) -> String {
    match parse(text) {
        Err(error) => error.to_string(),
        Ok(settings) => settings.faults.values().next_back().expect(text).to_string(),
    }
}

/// A world of its own, with `files` written below `.pmpy`.
fn world_with(files: &[(&str, &str)]) -> (TempDir, ConfigLocations) {
    let root = TempDir::new().unwrap();
    for (name, text) in files {
        let path = root.path().join(".pmpy").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, text.as_bytes());
    }
    let sources =
        ConfigLocations { root: Some(root.path().to_owned()), ..ConfigLocations::default() };
    (root, sources)
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn root_and_others_have_their_usual_directories() {
    let root = root_world();
    assert_eq!(root.root, PathBuf::from("/root/gitrepo"));
    assert_eq!(root.config_file, PathBuf::from("/etc/pmpy/agent.toml"));
    assert_eq!(root.logs, PathBuf::from("/var/log/pmpy"));

    let home = Some(PathBuf::from("/home/ann"));
    let ann = AgentDirs::of(&ConfigLocations { home, ..ConfigLocations::default() }).unwrap();
    assert_eq!(ann.root, PathBuf::from("/home/ann/gitrepo"));
    assert_eq!(ann.config_dir, PathBuf::from("/home/ann/.config/pmpy/agent.d"));
    assert_eq!(ann.state, PathBuf::from("/home/ann/.local/state/pmpy"));

    let nobody = AgentDirs::of(&ConfigLocations::default()).unwrap_err().to_string();
    // It is read again by what cron and systemd start, in another directory.
    let config = Some("own.toml".into());
    let own =
        AgentDirs::of(&ConfigLocations { config, is_root: true, ..ConfigLocations::default() })
            .unwrap();
    assert_eq!(own.config_file, std::env::current_dir().unwrap().join("own.toml"));
    let home = Some("rel".into());
    let rel = AgentDirs::of(&ConfigLocations { home, ..ConfigLocations::default() })
        .unwrap_err()
        .to_string();
    assert!(rel.starts_with("HOME is \"rel\", which is not an absolute path\nhint: "), "{rel}");
    assert!(nobody.contains("\nhint: set HOME"), "{nobody}");
}

#[test]
fn a_named_root_is_a_world_of_its_own() {
    let root = Some(PathBuf::from("/srv/w"));
    let world =
        AgentDirs::of(&ConfigLocations { root, is_root: true, ..ConfigLocations::default() })
            .unwrap();
    assert!(world.own);
    for dir in [&world.config_file, &world.config_dir, &world.nodeinfo, &world.state, &world.logs] {
        assert!(dir.starts_with("/srv/w/.pmpy"), "{}", dir.display());
    }

    let mut source = ConfigTexts::default();
    source.add("agent.toml", "root = \"/root/gitrepo\"");
    let settings = Settings::parse(world, &source).unwrap();
    assert_eq!(settings.world.root, PathBuf::from("/srv/w"), "the command line wins");
}

#[test]
fn a_machine_without_any_file_has_the_defaults() {
    let (root, sources) = world_with(&[]);
    let settings = Settings::load(&sources).unwrap();
    assert_eq!(settings.world.root, root.path());
    assert_eq!(settings.splay, Duration::ZERO);
    assert!(settings.repos.is_empty());
    let repo = settings.unlisted;
    assert_eq!(repo.mode, RepoMode::Work);
    assert_eq!(repo.policy.rewritten, OnRewrite::Refuse);
    assert_eq!(repo.timeout, Duration::from_secs(3600));
    assert_eq!(repo.reach.limit, Duration::from_secs(120));
    assert!(repo.policy.active && repo.poll && !repo.reach.insecure);
}

#[test]
fn a_repository_wins_over_the_defaults_and_they_over_ours() {
    let settings = parse(
        r#"
        root = "/srv/git/"
        [node]
        part = "web"
        [defaults]
        timeout = "10m"
        update = "merge"
        env = { A = "1", B = "1" }
        when = "1h"
        [repo.spog]
        url = "https://git.example.org/spog.git"
        update = "reset"
        env = { B = "2" }
        [repo.away]
        url = ["git@a:x", "/srv/b.git"]
        path = "/data//away/"
        mode = "dangerous"
        paths = ["**", "!**/*.md"]
        "#,
    )
    .unwrap();
    assert_eq!(settings.part.as_deref(), Some("web"));
    let spog = &settings.repos["spog"];
    assert_eq!(spog.path.as_deref(), Some(Path::new("/srv/git/spog")));
    assert_eq!(spog.timeout, Duration::from_secs(600));
    assert_eq!(spog.policy.update, UpdateMethod::Reset);
    assert_eq!(spog.env["A"], "1");
    assert_eq!(spog.env["B"], "2");
    assert_eq!(spog.policy.when, RerunPolicy::Every(Duration::from_secs(3600)));
    assert!(!spog.fixed.when, "[defaults] gives way to .pmpy.toml");
    let away = &settings.repos["away"];
    assert_eq!(away.path.as_deref(), Some(Path::new("/data/away")));
    assert_eq!(away.urls.len(), 2);
    assert_eq!(away.mode, RepoMode::InPlace);
    assert_eq!(away.policy.rewritten, OnRewrite::Refuse);
    assert!(away.fixed.paths);
    assert_eq!(settings.unlisted.policy.update, UpdateMethod::Merge);
    assert_eq!(settings.unlisted.path, None);
}

#[test]
fn a_bus_needs_no_more_than_a_broker() {
    let settings = parse("[bus]\nbrokers = \"stomps://amq1.example.org\"").unwrap();
    let bus = settings.bus.unwrap();
    let listed: Vec<_> = bus.brokers.list.iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["stomps://amq1.example.org:61614"]);
    assert_eq!((bus.brokers.host.as_str(), bus.brokers.heartbeat.as_secs()), ("/", 30));
    assert_eq!(bus.brokers.retry, RetryPolicy::default());
    assert_eq!(bus.listen_topics, [Topic::default()]);
    assert_eq!(bus.announce_topic.destination(), "/topic/future.git.commits");
    assert_eq!((bus.report_topic, bus.spread), (None, Duration::ZERO));
    assert!(parse("").unwrap().bus.is_none());
}

#[test]
fn a_repository_may_listen_elsewhere_and_under_another_name() {
    let settings = parse(
        r#"
        [bus]
        brokers = "failover:(stomp://u:hush@h1,stomp://u:hush@h2)?MaxReconnectDelay=30"
        listen_topic = ["commits", "/queue/mine"]
        report_topic = "events"
        [repo.spog]
        topic_name = "sites/spog"
        listen_topic = "builds.good"
        "#,
    )
    .unwrap();
    let spog = &settings.repos["spog"];
    assert_eq!(spog.topic_name.as_deref(), Some("sites/spog"));
    assert_eq!(spog.listen_topics, ["builds.good".parse().unwrap()]);
    assert!(settings.unlisted.listen_topics.is_empty());
    assert!(!format!("{settings:?}").contains("hush"), "nothing shows a password");
    let bus = settings.bus.unwrap();
    let destinations: Vec<_> = bus.listen_topics.iter().map(Topic::destination).collect();
    assert_eq!(destinations, ["/topic/commits", "/queue/mine"]);
    assert_eq!((bus.brokers.list.len(), bus.ignored.len()), (2, 1));
}

#[test]
fn agent_d_is_read_by_name_and_laid_over_agent_toml() {
    let (_root, sources) = world_with(&[
        ("agent.toml", "[defaults]\ntimeout = \"5m\"\n"),
        ("agent.d/b.toml", "[repo.b]\nurl = \"/srv/b\"\n"),
        ("agent.d/a.toml", "[repo.a]\nurl = \"/srv/a\"\n[defaults]\nnetwork_timeout = \"1m\"\n"),
        ("agent.d/notes.txt", "not ours"),
        ("agent.d/.#a.toml", "an editor's"),
    ]);
    let settings = Settings::load(&sources).unwrap();
    assert_eq!(settings.repos.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(settings.repos["b"].timeout, Duration::from_secs(300));
    assert_eq!(settings.repos["b"].reach.limit, Duration::from_secs(60));
}

#[test]
fn a_wrong_value_in_a_later_file_is_found_in_that_file() {
    let (root, sources) = world_with(&[
        ("agent.toml", "# ünïcode\nsplay = \"1s\"\n"),
        ("agent.d/a.toml", "[repo.a]\n"),
        ("agent.d/b.toml", "[repo.b]\nenv = { \"Ä\" = \"é\", B = 3 }\n"),
    ]);
    let error = Settings::load(&sources).unwrap().faults["b"].to_string();
    let file = root.path().join(".pmpy/agent.d/b.toml");
    assert!(error.starts_with(&format!("{}:2:", file.display())), "{error}");
}

#[test]
fn a_named_file_is_read_alone_and_must_exist() {
    let (root, mut sources) = world_with(&[
        ("agent.toml", "nonsense"),
        ("agent.d/a.toml", "nonsense"),
        ("other.toml", "splay = \"7s\""),
    ]);
    sources.config = Some(root.path().join(".pmpy/other.toml"));
    assert_eq!(Settings::load(&sources).unwrap().splay, Duration::from_secs(7));

    sources.config = Some(root.path().join("missing.toml"));
    let error = Settings::load(&sources).unwrap_err().to_string();
    assert!(error.contains("missing.toml: there is no such file\nhint: "), "{error}");
}

#[test]
fn what_is_no_plain_text_file_is_refused_at_once() {
    let (root, sources) = world_with(&[("agent.toml", "")]);
    let path = root.path().join(".pmpy/agent.toml");
    let refused = || Settings::load(&sources).unwrap_err().to_string();

    put(&path, b"splay = \"\xff\"");
    assert!(refused().contains("agent.toml: is not UTF-8 text: byte 10"), "{}", refused());
    put(&path, &vec![b'#'; (1 << 20) + 1]);
    assert!(refused().contains("larger than 1 MiB"), "{}", refused());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().contains("not a regular file"), "{}", refused());
    fs::remove_dir(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(refused().contains("not a regular file"), "{}", refused());
    // A loop of links cannot be read by anybody, root included.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(refused().contains("agent.toml: cannot be read: "), "{}", refused());
}

#[test]
fn every_complaint_names_its_place_and_what_to_write_instead() {
    for (text, place, what, hint) in [
        // Not TOML.
        ("root = ", "1:8", "not valid TOML", "double quotes"),
        (
            "splay = \"1s\"\nsplay = \"2s\"",
            "2:1",
            "duplicate key \"splay\"; first at line 1",
            "keep one",
        ),
        ("[repo.a]\n[repo.a]", "2:7", "duplicate section [repo.a]; first at line 1", "keep one"),
        // Keys.
        ("\n  sply = \"1s\"", "2:3", "unknown key \"sply\"", "did you mean \"splay\"?"),
        ("timeout = \"1s\"", "1:1", "\"timeout\"", "it belongs in [defaults] or [repo.NAME]"),
        ("[repo.a]\nbrokers = []", "2:1", "\"brokers\"", "it belongs in [bus]"),
        (
            "[node]\nzzz = 1",
            "2:1",
            "unknown key \"zzz\"",
            "write one of name, part, rollout_position, stack",
        ),
        ("[defaults]\nurl = \"/a\"", "2:7", "\"url\"", "it belongs in [repo.NAME]"),
        ("[defaults]\npath = \"/a\"", "2:8", "\"path\"", "it belongs in [repo.NAME]"),
        ("[defaults]\ntarget = \"/a\"", "2:10", "\"target\"", "it belongs in [repo.NAME]"),
        // Kinds of values.
        ("splay = 30", "1:9", "expected a string in double quotes, found integer 30", ""),
        (
            "[defaults]\nactive = \"yes\"",
            "2:10",
            "expected true or false, found string \"yes\"",
            "",
        ),
        (
            "[defaults]\nscripts = \"a\"",
            "2:11",
            "expected a list, such as [\"a\", \"b\"], found string",
            "",
        ),
        ("[defaults]\nwhen = [1]", "2:8", "expected a string in double quotes, found sequence", ""),
        ("[repo.a]\nurl = 1", "2:7", "or a list of them, found integer", ""),
        (
            "[defaults]\ndepth = -1",
            "2:9",
            "expected a whole number, 0 or above, found integer -1",
            "",
        ),
        ("[defaults]\nmode = 1", "2:8", "expected one word in double quotes", ""),
        ("node = 1", "1:8", "expected a section or a table", ""),
        // Times.
        ("splay = \"5\"", "1:9", "\"5\" is not a time", "a number and its unit"),
        ("splay = \"2years\"", "1:9", "longer than a year", "shorter"),
        ("[defaults]\ntimeout = \"0s\"", "2:11", "longer than nothing", "above 0"),
        ("[defaults]\nwhen = \"change\"", "2:8", "\"change\"", "\"changed\", \"always\""),
        ("[defaults]\nwhen = \"0s\"", "2:8", "\"0s\"", "\"changed\", \"always\""),
        // Sizes.
        ("[defaults]\nmax_file = \"1 Gig\"", "2:12", "\"1 Gig\" is not a size", "\"1GiB\""),
        ("[repo.a]\nmax_file = \"0\"", "2:12", "\"0\" is not a size", "above 0"),
        (
            "[repo.a]\nmax_file = 5",
            "2:12",
            "expected a string in double quotes, found integer 5",
            "",
        ),
        ("[repo.a]\nmax_file = \"99999999TiB\"", "2:12", "is not a size", "\"512MiB\""),
        // Words.
        ("[defaults]\nupdate = \"fastforward\"", "2:10", "\"fastforward\"", "\"fast-forward\"?"),
        ("[defaults]\nrewritten = \"no\"", "2:13", "\"no\"", "follow, refuse"),
        ("[defaults]\nmode = \"puppet\"", "2:8", "\"puppet\"", "\"puppetmaster\"?"),
        ("[defaults]\nnames = \"exakt\"", "2:9", "\"exakt\"", "\"exact\"?"),
        // Paths.
        ("root = \"git\"", "1:8", "not an absolute path", "beginning with \"/\""),
        ("root = \"~/git\"", "1:8", "not an absolute path", "home directory"),
        ("root = \"/a/../b\"", "1:8", "\"..\"", "the resulting path"),
        ("metrics_file = \"m\"", "1:16", "not an absolute path", "beginning with"),
        ("on_change = []", "1:13", "empty", "a program"),
        ("[repo.a]\npassword_command = []", "2:20", "the list is empty", "a program"),
        (
            "[repo.a]\npassword_command = [\"token\"]",
            "2:20",
            "not an absolute path",
            "beginning with",
        ),
        ("[repo.a]\npassword_command = [\"/bin/t\"]", "2:20", "none is named", "url = "),
        (
            "[repo.a]\nurl = \"git@h:x\"\npassword_command = [\"/bin/t\"]",
            "3:20",
            "https://",
            "leave it out",
        ),
        (
            "[repo.a]\nurl = \"https://h/x\"\npassword_file = \"/p\"\npassword_command = [\"/bin/t\"]",
            "4:20",
            "contradict each other",
            "keep the one",
        ),
        (
            "[defaults]\npassword_command = [\"/bin/t\"]\npassword_file = \"/p\"",
            "2:20",
            "contradict each other",
            "keep the one",
        ),
        ("[repo.a]\npassword_ttl = \"1h\"", "2:16", "does nothing without", "leave it out"),
        ("[defaults]\npassword_ttl = \"0s\"", "2:16", "longer than nothing", "above 0"),
        ("[repo.a]\non_action = []", "2:13", "on_action: the list is empty", "a program"),
        ("[repo.a]\non_action = [\"page\"]", "2:13", "not an absolute path", "beginning with"),
        ("[defaults]\non_action = \"page\"", "2:13", "expected a list", "a list"),
        ("on_action = [\"/bin/true\"]", "1:1", "\"on_action\"", "[defaults] or [repo.NAME]"),
        ("on_change = [\"page\"]", "1:13", "not an absolute path", "beginning with"),
        ("[repo.a]\nenv_file = \"x\"", "2:12", "not an absolute path", "beginning"),
        ("[repo.a]\nkey_file = \"x\"", "2:12", "not an absolute path", "beginning"),
        ("[repo.a]\ntarget = \"x\"", "2:10", "not an absolute path", "beginning"),
        ("[repo.a]\npath = \"/\"", "2:8", "holds the root", "/root/gitrepo/a"),
        ("[repo.a]\npath = \"/root/gitrepo/\"", "2:8", "holds the root", "/root/gitrepo/a"),
        ("[repo.a]\n[repo.b]\npath = \"/root/gitrepo/a/x\"", "3:8", "overlap", "agent.toml:1:7"),
        ("[repo.a]\npath = \"/x\"\n[repo.b]\npath = \"/x/\"", "4:8", "overlap", ":2:8"),
        // Names.
        ("[repo.\"a/b\"]", "1:7", "\"a/b\" cannot be the name of a repository", "letters"),
        ("[repo.\"-a\"]", "1:7", "\"-a\"", "begin with none"),
        ("[repo.\".pmpy\"]", "1:7", "\".pmpy\"", "begin with none"),
        ("[node]\npart = \"../x\"", "2:8", "\"../x\"", "letters"),
        ("[node]\nstack = \"\"", "2:9", "\"\"", "letters"),
        ("[repo.a]\nbranch = \"a..b\"", "2:10", "not a branch name", "such as \"main\""),
        ("[repo.a]\nbranch = \"{role}\"", "2:10", "placeholder", "{part}, {stack} and {host}"),
        // Addresses.
        ("[repo.a]\nurl = \"\"", "2:7", "not the address", "git@git.example.org"),
        ("[repo.a]\nurl = []", "2:7", "empty", "at least one"),
        ("[repo.a]\nurl = [\"/a\", \"-x\"]", "2:14", "not the address", "git@"),
        ("[repo.a]\nurl = \"ext::sh -c id\"", "2:7", "helper program", "git@"),
        ("[repo.a]\nurl = \"gopher://a/b\"", "2:7", "scheme that git does not know", "git@"),
        ("[repo.a]\nurl = \"../a.git\"", "2:7", "not an absolute path", "beginning with"),
        ("[repo.a]\nurl = \"https://a/\\u0007\"", "2:7", "\\u{7}", "git@"),
        // Scripts, patterns, variables.
        ("[repo.a]\nscripts = [\"a\", \"../b\"]", "2:17", "leaves the repository", "from the top"),
        ("[repo.a]\nscripts = [\"/b\"]", "2:12", "leaves the repository", "from the top"),
        ("[repo.a]\nscripts = [\"\"]", "2:12", "not the path of a script", "from the top"),
        ("[repo.a]\nscripts = []", "2:11", "empty", "leave the key out"),
        ("[repo.a]\nshared = []", "2:10", "empty", "leave the key out"),
        ("[repo.a]\nshared = [\"\"]", "2:11", "not the path of a directory", "uploads"),
        ("[repo.a]\nshared = [\"/srv\"]", "2:11", "not a plain relative path", "uploads"),
        ("[repo.a]\nshared = [\"a/\"]", "2:11", "not a plain relative path", "uploads"),
        ("[repo.a]\nshared = [\"a\", \"b/../c\"]", "2:16", "\"..\" in it", "uploads"),
        ("[repo.a]\nshared = [\"./a\"]", "2:11", "\"..\" in it", "uploads"),
        ("[repo.a]\nshared = [\"a/.GIT\"]", "2:11", "keep for themselves", "uploads"),
        ("[repo.a]\nshared = [\"a/.pmpy-tmp-1\"]", "2:11", "keeps for itself", "uploads"),
        ("[defaults]\nshared = [\"a/b\", \"c\", \"a\"]", "2:23", "in each other", "outer one"),
        ("[repo.a]\nshared = [\"a\"]", "2:10", "does nothing in mode \"work\"", "leave it out"),
        (
            "[repo.a]\nmode = \"branches\"\ntarget = \"/srv/a\"\nkeep = 0\non_failure = \"rollback\"",
            "4:8",
            "leaves no release to go back to",
            "keep one",
        ),
        (
            "[defaults]\non_failure = \"rollback\"\n[repo.a]\nmode = \"tags\"\ntarget = \"/srv/a\"\nkeep = 0",
            "6:8",
            "leaves no release to go back to",
            "keep one",
        ),
        ("[repo.a]\npaths = [\"a[\"]", "2:10", "\"a[\" is not a pattern", "web/**"),
        ("[repo.a]\npaths = [\"!\"]", "2:10", "empty", "web/**"),
        ("[repo.a]\npaths = [\"/web/\"]", "2:10", "never matches", "write \"web/**\""),
        ("[repo.a]\npaths = [\"!a\"]", "2:9", "none is left", "\"**\""),
        ("[repo.a]\nenv = { \"A-B\" = \"x\" }", "2:9", "\"A-B\"", "letters"),
        ("[repo.a]\nenv = { AGENT_X = \"x\" }", "2:9", "AGENT_", "another name"),
        ("[repo.a]\nenv = { A = \"\\u0000\" }", "2:13", "NUL", "leave it out"),
        // The message bus.
        ("[bus]\nheartbeat = \"x\"", "2:13", "not a time", "unit"),
        ("[bus]\nbrokers = \"stomp://a\"\nheartbeat = \"100ms\"", "3:13", "a second", "\"30s\""),
        ("[bus]\nhost = \"/\"", "1:1", "names no broker", "brokers = ["),
        ("[bus]\nbrokers = []", "2:11", "empty", "at least one"),
        ("[bus]\nbrokers = \"amq1\"", "2:11", "neither stomp:// nor stomps://", "stomps://amq1"),
        ("[bus]\nbrokers = [\"stomp://a\", \"stomp://u:p@\"]", "2:25", "a host", "login_file"),
        (
            "[bus]\nbrokers = [\"failover:(stomp://a)\", \"stomp://b\"]",
            "2:11",
            "in a list",
            "write it alone",
        ),
        ("[bus]\nlisten_topic = [\"a\", \"b c\"]", "2:22", "\"b c\"", "future.git.commits"),
        ("[repo.a]\nlisten_topic = \"a\"", "2:16", "no [bus]", "add one"),
        ("[webhook]\nbind = \"9419\"", "2:8", "\"9419\"", "127.0.0.1:9419"),
        ("[webhook]", "1:1", "no secret", "secret_file = "),
        ("[presence]", "1:1", "names no repository", "url = "),
        ("[presence]\nurl = \"git://h/status.git\"", "2:7", "no login", "https or ssh"),
        ("[presence]\nurl = \"\"", "2:7", "not the address", "git@git.example.org"),
        ("[presence]\nurl = \"/a\"\nevery = \"9m\"", "3:9", "at least ten minutes", "4h"),
        (
            "[presence]\nurl = \"/a\"\npassword_command = [\"/bin/x\"]",
            "3:20",
            "for a url that begins with https://",
            "leave it out",
        ),
        ("[webhook]\nsecret_file = \"/a\"\nannounce = true", "3:12", "no [bus]", "add one"),
    ] {
        let error = complaint(text);
        let (message, hints) = error.split_once("\nhint: ").unwrap_or((&error, ""));
        assert!(message.starts_with(&format!("agent.toml:{place}: ")), "{text}\n{error}");
        assert!(message.contains(what), "{text}\n{error}");
        assert!(hints.contains(hint), "{text}\n{error}");
    }
}

#[test]
fn a_complaint_about_an_address_does_not_show_its_password() {
    for broker in ["stomp://u:hush@", "failover:(stomp://u:hush@h"] {
        let error = complaint(&format!("[bus]\nbrokers = \"{broker}\""));
        assert!(!error.contains("hush"), "{error}");
    }
    for url in ["gopher://u:hush@h/a", "https://u:hush@h/\\u0007"] {
        for section in ["repo.a", "presence"] {
            let error = complaint(&format!("[{section}]\nurl = \"{url}\""));
            assert!(!error.contains("hush"), "{error}");
        }
    }
}

#[test]
fn a_web_hook_listens_on_this_machine_alone_unless_it_is_said() {
    let text = "[webhook]\nsecret_file = \"/etc/pmpy/webhook.secret\"\n";
    let webhook = parse(text).unwrap().webhook.unwrap();
    assert_eq!(webhook.bind.to_string(), "127.0.0.1:9419");
    assert!(!webhook.announce);
    assert_eq!(parse("").unwrap().webhook, None);
}

#[test]
fn a_revision_sets_what_the_machine_did_not_fix() {
    let tree = TreeSettings::parse("when = \"always\"\ntimeout = \"2h\"\npaths = [\"a/**\"]\n");
    let settings = parse("[defaults]\nwhen = \"5m\"\n[repo.a]\npaths = [\"b/**\"]\n").unwrap();
    let merged = settings.repos["a"].with_tree(&tree.unwrap());
    assert_eq!(merged.policy.when, RerunPolicy::Always);
    assert_eq!(merged.paths, ["b/**"]);
    assert_eq!(merged.timeout, Duration::from_secs(3600), "only ever shorter");

    let hold = TreeSettings::parse("hold = \"moving house\"").unwrap().hold;
    assert_eq!(hold.as_deref(), Some("moving house"));
}

#[test]
fn an_invalid_pmpy_toml_says_where() {
    for (text, reported) in [
        ("hold = true", ".pmpy.toml:1:8: expected a string in double quotes"),
        ("\npaths = \"web/**\"", ".pmpy.toml:2:9: expected a list"),
        ("scripts = [\"../x\"]", ".pmpy.toml:1:12: \"../x\" leaves the repository"),
    ] {
        let error = TreeSettings::parse(text).unwrap_err();
        assert!(error.starts_with(reported), "{error}");
    }
    // A key of a later version.
    let unknown = TreeSettings::parse("\nuser = \"root\"").unwrap().unknown;
    assert_eq!(unknown, ["user"]);
}

#[test]
fn init_names_a_repository_by_its_address_unless_a_name_is_given() {
    for (text, name) in [
        ("git@git.example.org:ops.git", "ops"),
        ("https://git.example.org/team/spog/", "spog"),
        ("/srv/git/a=b/x.git", "x"),
        ("web=https://git.example.org/x?a=b", "web"),
    ] {
        assert_eq!(text.parse::<NamedAddress>().unwrap().name, name, "{text}");
    }
    for text in ["https://git.example.org/.git", "web=", "ext::x"] {
        assert!(text.parse::<NamedAddress>().is_err(), "{text}");
    }
}

#[test]
fn the_example_copied_as_it_is_changes_nothing() {
    let copied = parse(EXAMPLE).unwrap();
    assert_eq!(format!("{copied:?}"), format!("{:?}", parse("").unwrap()));
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    let set = uncommented(EXAMPLE);
    assert_eq!(parse(&set).expect("it is in order").faults, BTreeMap::new());
    let table: toml::Table = set.parse().unwrap();
    let mut shown: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (key, value) in &table {
        shown.entry("").or_default().insert(key.clone());
        let (otherwise, sections) = match (key.as_str(), value.as_table()) {
            ("repo", Some(repos)) => ("[repo.NAME]", repos.values().collect()),
            _ => ("", vec![value]),
        };
        let title = known_keys()
            .into_iter()
            .map(|(known, _)| known)
            .find(|known| *known == format!("[{key}]"))
            .unwrap_or(otherwise);
        let tables = sections.into_iter().filter_map(toml::Value::as_table);
        for key in tables.flat_map(toml::Table::keys) {
            shown.entry(title).or_default().insert(key.clone());
        }
    }
    // The keys of a repository are shown once: in [defaults] or in [repo.NAME].
    let defaults = shown.remove("[defaults]").unwrap();
    shown.entry("[repo.NAME]").or_default().extend(defaults);
    // So are those of a remote.
    let of_repositories = shown["[repo.NAME]"].clone();
    let of_presence = known_keys().into_iter().find(|(title, _)| *title == "[presence]").unwrap().1;
    let of_presence = of_presence.iter().map(|&key| key.to_owned());
    let of_a_remote = of_presence.filter(|key| of_repositories.contains(key));
    shown.entry("[presence]").or_default().extend(of_a_remote);
    for (title, keys) in known_keys().into_iter().filter(|(title, _)| *title != "[defaults]") {
        let keys: BTreeSet<String> = keys.iter().map(|&key| key.to_owned()).collect();
        assert_eq!(shown.remove(title).unwrap_or_default(), keys, "{title}");
    }
}

#[test]
fn the_documentation_lists_every_key() {
    let text = include_str!("../../docs/configuration.md");
    for (title, keys) in known_keys() {
        assert!(text.contains(title), "{title}");
        for key in keys {
            assert!(
                text.contains(&format!("`{key}`")) || text.contains(&format!("[{key}")),
                "{key}"
            );
        }
    }
}

/// The text with every setting that stands behind a lone `#` switched on.
fn uncommented(text: &str) -> String {
    let set = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).is_some();
    text.lines()
        .map(|line| if set(line) { &line[1..] } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}
