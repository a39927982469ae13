//! Servers and proxies that others wrote, each in the configuration that its own manual gives. They know
//! nothing of the agent.

use std::any::Any;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::sandbox::{Ran, Sandbox, set_mode, text};
use crate::servers::{Face, Https, Proxy, Running, free_port};

/// The user whom Debian's web servers run as.
const WEB_USER: &str = "www-data";

/// A way to the repositories of a sandbox's server.
pub struct Route {
    /// The name of its row in docs/servers.md.
    pub name: &'static str,
    /// What was run, with its version.
    pub version: String,
    /// Lines of `[defaults]` that it needs.
    pub settings: String,
    /// The URL of a repository.
    pub url: Box<dyn Fn(&str) -> String>,
    /// How many requests there were since it was last called.
    pub take_requests: Box<dyn Fn() -> u64>,
    /// Whether the server ends at the first request, and comes back.
    pub breaks_at_first: bool,
    /// What has to run meanwhile.
    _keep: Box<dyn Any>,
}

impl Route {
    /// A way over plain HTTP to `port`, whose requests are counted on the line.
    fn plain(name: &'static str, version: String, port: u16, keep: impl Any) -> Self {
        let line = std::rc::Rc::new(Proxy::to(port));
        let counted = std::rc::Rc::clone(&line);
        Self {
            name,
            version,
            settings: "insecure = true\n".to_owned(),
            url: Box::new(move |name| format!("http://127.0.0.1:{}/{name}.git", line.port())),
            take_requests: Box::new(move || {
                let turns = counted.counts().turns;
                counted.forget_counts();
                turns
            }),
            breaks_at_first: false,
            _keep: Box::new(keep),
        }
    }
}

/// The directory of a server, which its own user may enter and write to.
fn dir(machine: &Sandbox, name: &str) -> PathBuf {
    set_mode(&machine.path(""), 0o755);
    let dir = machine.path(name);
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o777);
    dir
}

/// The words of `program`'s output that name its version.
fn version(machine: &Sandbox, program: &str, argument: &str, words: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let ran = Ran::of(machine.command(program).env("PATH", path).arg(argument));
    let output = format!("{}{}", ran.stdout, ran.stderr);
    let mut words_after =
        output.split([' ', '/', '\n', '-']).skip_while(|word| !words.contains(word));
    let found = words_after.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    found.unwrap_or_else(|| panic!("{program} does not tell its version: {output}")).to_owned()
}

fn git_version(machine: &Sandbox) -> String {
    version(machine, "git", "--version", &["version"])
}

/// Apache httpd with the lines of `site` at a port; returns that and the server.
fn apache(machine: &Sandbox, name: &str, site: &str) -> (u16, Running) {
    let (dir, port) = (dir(machine, name), free_port());
    let modules =
        ["mpm_prefork", "authz_core", "authn_core", "authn_file", "authz_user", "auth_basic"];
    let more = ["alias", "cgi", "env", "setenvif", "headers"];
    let modules: String = modules
        .iter()
        .chain(&more)
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let own = text(&dir);
    let configuration = format!(
        "{modules}\
         ServerName localhost\nServerRoot {own}\nDefaultRuntimeDir {own}\nPidFile {own}/pid\n\
         ErrorLog {own}/error.log\nUser {WEB_USER}\nGroup {WEB_USER}\nListen 127.0.0.1:{port}\n\
         SetEnv GIT_CONFIG_COUNT 1\nSetEnv GIT_CONFIG_KEY_0 safe.directory\n\
         SetEnv GIT_CONFIG_VALUE_0 *\n\
         <Directory />\nRequire all granted\nOptions +ExecCGI\n</Directory>\n{site}"
    );
    let file = dir.join("apache.conf");
    fs::write(&file, configuration).unwrap();
    let log = dir.join("output.log");
    let arguments = ["-D", "FOREGROUND", "-f", text(&file)];
    (port, Running::start(machine, "apache2", &arguments, &log).listening_on(port))
}

/// What git-http-backend(1) tells to write into Apache's configuration, and `more`.
fn backend(machine: &Sandbox, more: &str) -> String {
    format!(
        "SetEnv GIT_PROJECT_ROOT {}\nSetEnv GIT_HTTP_EXPORT_ALL\n{more}\
         ScriptAlias / {}/git-http-backend/\n",
        text(&machine.path("server")),
        machine.git(&machine.path(""), &["--exec-path"]),
    )
}

fn apache_version(machine: &Sandbox) -> String {
    let apache = version(machine, "apache2", "-v", &["Apache"]);
    format!("Apache httpd {apache}, git {}", git_version(machine))
}

/// Apache httpd with git-http-backend, protocol v2.
pub fn apache_v2(machine: &Sandbox) -> Route {
    let (port, server) = apache(machine, "apache", &backend(machine, ""));
    Route::plain("Apache httpd, git-http-backend, v2", apache_version(machine), port, server)
}

/// The same, whose operator lets no `Git-Protocol` through: v0.
pub fn apache_v0(machine: &Sandbox) -> Route {
    let site = backend(machine, "RequestHeader unset Git-Protocol early\n");
    let (port, server) = apache(machine, "apache", &site);
    Route::plain("Apache httpd, git-http-backend, v0", apache_version(machine), port, server)
}

/// Apache httpd with gitolite: a user with a password, who may read the repositories that are listed.
pub fn gitolite(machine: &Sandbox) -> Route {
    const RULES: &str = "repo ops site tags short empty\n    R = pat\n";
    let home = dir(machine, "gitolite");
    let run = |line: &[&str]| {
        let mut command = machine.command(line[0]);
        Ran::of(command.env("HOME", &home).args(&line[1..])).ok().stdout
    };
    symlink(machine.path("server"), home.join("repositories")).unwrap();
    run(&["gitolite", "setup", "--admin", "pat"]);
    fs::write(home.join(".gitolite/conf/gitolite.conf"), RULES).unwrap();
    run(&["gitolite", "compile"]);
    // Its hook refuses pushes that come without gitolite, as those of the tests do. It has to be there.
    fs::write(home.join(".gitolite/hooks/common/update"), "#!/bin/sh\n").unwrap();
    for place in [&home, &machine.path("server")] {
        // Its own files are for its user alone, who here is the one of the web server.
        run(&["chmod", "-R", "a+rwX", text(place)]);
    }
    let password = machine.path("password");
    fs::write(&password, "xyzzy\n").unwrap();
    set_mode(&password, 0o600);
    let hash = run(&["openssl", "passwd", "-apr1", "-in", text(&password)]);
    let users = home.join("users");
    fs::write(&users, format!("pat:{hash}")).unwrap();
    let site = format!(
        "SetEnv GITOLITE_HTTP_HOME {home}\nSetEnv GIT_PROJECT_ROOT {home}/repositories\n\
         SetEnv GIT_HTTP_EXPORT_ALL\nScriptAlias / /usr/share/gitolite3/gitolite-shell/\n\
         <Location />\nAuthType Basic\nAuthName git\nAuthBasicProvider file\n\
         AuthUserFile {users}\nRequire valid-user\n</Location>\n",
        home = text(&home),
        users = text(&users),
    );
    let (port, server) = apache(machine, "apache", &site);
    let package = run(&["dpkg-query", "--show", "gitolite3"]);
    let gitolite = package.split(['\t', '-']).nth(1).unwrap().to_owned();
    let version = format!("gitolite {gitolite}, {}", apache_version(machine));
    let route = Route::plain("Apache httpd with gitolite", version, port, server);
    let login = format!("username = \"pat\"\npassword_file = {password:?}\n");
    Route { settings: format!("{}{login}", route.settings), ..route }
}

/// HAProxy before two Apaches.
pub fn haproxy(machine: &Sandbox) -> Route {
    let (first, one) = apache(machine, "apache-1", &backend(machine, ""));
    let (second, other) = apache(machine, "apache-2", &backend(machine, ""));
    let (dir, port) = (dir(machine, "haproxy"), free_port());
    let file = dir.join("haproxy.cfg");
    let configuration = format!(
        "global\n maxconn 100\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\nfrontend git\n bind 127.0.0.1:{port}\n default_backend gits\n\
         backend gits\n balance roundrobin\n server one 127.0.0.1:{first}\n \
         server other 127.0.0.1:{second}\n"
    );
    fs::write(&file, configuration).unwrap();
    let log = dir.join("output.log");
    let server =
        Running::start(machine, "haproxy", &["-db", "-f", text(&file)], &log).listening_on(port);
    let haproxy = version(machine, "haproxy", "-v", &["version"]);
    let version = format!("HAProxy {haproxy}, {}", apache_version(machine));
    Route::plain("HAProxy with two backends", version, port, (one, other, server))
}

/// dulwich's server.
pub fn dulwich(machine: &Sandbox) -> Route {
    let (dir, port) = (dir(machine, "dulwich"), free_port());
    let library = installed("dulwich");
    let file = dir.join("server.py");
    fs::write(&file, include_str!("dulwich_server.py")).unwrap();
    let arguments = [text(&file), text(&library), &port.to_string(), text(&machine.path("server"))]
        .map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let server = Running::start(machine, PYTHON, &arguments, &dir.join("output.log"));
    let ask = format!(
        "import sys; sys.path.insert(0, {library:?}); import dulwich; print(dulwich.__version__)"
    );
    let reported = Ran::of(machine.command(PYTHON).args(["-c", &ask])).ok().stdout;
    let numbers: Vec<&str> =
        reported.split(|c: char| !c.is_ascii_digit()).filter(|it| !it.is_empty()).collect();
    let version = format!("dulwich {}", numbers.join("."));
    Route::plain("dulwich", version, port, server.listening_on(port))
}

/// node-git-server, started again whenever it ends: a request that it does not know and whose client gives
/// up ends its process.
pub fn node_git_server(machine: &Sandbox) -> Route {
    let (dir, port) = (dir(machine, "node"), free_port());
    let library = installed("node-git-server/node_modules/node-git-server");
    let file = dir.join("server.js");
    fs::write(&file, include_str!("node_server.js")).unwrap();
    let arguments = [text(&file), text(&library), &port.to_string(), text(&machine.path("server"))]
        .map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let again = ["-c", "while :; do node \"$@\"; sleep 0.2; done", "sh"];
    let arguments = [again.as_slice(), &arguments].concat();
    let server = Running::start(machine, "sh", &arguments, &dir.join("output.log"));
    let package: serde_json::Value =
        serde_json::from_slice(&fs::read(library.join("package.json")).unwrap()).unwrap();
    let version = format!("node-git-server {}", package["version"].as_str().unwrap());
    let route = Route::plain("node-git-server", version, port, server.listening_on(port));
    Route { breaks_at_first: true, ..route }
}

/// Debian's own, for which tests/run installed the library.
const PYTHON: &str = "/usr/bin/python3";

/// Where tests/run put a library.
fn installed(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_agent")).ancestors().nth(2).unwrap();
    let library = target.join("tmp").join(name);
    assert!(library.is_dir(), "{} is missing: tests/run tools installs it", library.display());
    library
}

/// Squid with `rules`; returns its port, and the server.
fn squid(machine: &Sandbox, rules: &str) -> (u16, Running) {
    let (dir, port) = (dir(machine, "squid"), free_port());
    let (file, own) = (dir.join("squid.conf"), text(&dir));
    let configuration = format!(
        "http_port 127.0.0.1:{port}\n{rules}http_access allow all\ncache deny all\n\
         pid_filename {own}/squid.pid\ncache_log {own}/cache.log\naccess_log none\n\
         coredump_dir {own}\nnetdb_filename none\npinger_enable off\nvisible_hostname localhost\n\
         max_filedescriptors 1024\nshutdown_lifetime 0 seconds\n"
    );
    fs::write(&file, configuration).unwrap();
    let log = dir.join("output.log");
    let server = Running::start(machine, "squid", &["-N", "-f", text(&file)], &log);
    (port, server.listening_on(port))
}

fn squid_version(machine: &Sandbox) -> String {
    format!("Squid {}", version(machine, "squid", "-v", &["Version"]))
}

/// nginx with TLS, through Squid, which connects to it: `CONNECT`.
pub fn squid_tunnel(machine: &Sandbox) -> Route {
    let server = std::rc::Rc::new(Https::of(machine));
    let asked = std::rc::Rc::clone(&server);
    let (port, squid) = squid(machine, "");
    let nginx = version(machine, "nginx", "-v", &["nginx"]);
    let settings =
        format!("ca_file = {:?}\nproxy = \"http://127.0.0.1:{port}\"\n", server.ca_file());
    Route {
        name: "nginx with TLS through Squid (CONNECT)",
        version: format!("{}, nginx {nginx}, git {}", squid_version(machine), git_version(machine)),
        settings,
        url: Box::new(move |name| server.url(name)),
        take_requests: Box::new(move || {
            let count = asked.requests().len() as u64;
            asked.forget_requests();
            count
        }),
        breaks_at_first: false,
        _keep: Box::new(squid),
    }
}

/// Apache without TLS through Squid, which sends the requests on and connects to nothing.
pub fn squid_forward(machine: &Sandbox) -> Route {
    let (server_port, server) = apache(machine, "apache", &backend(machine, ""));
    let (port, squid) = squid(machine, "acl tunnel method CONNECT\nhttp_access deny tunnel\n");
    let version = format!("{}, {}", squid_version(machine), apache_version(machine));
    let name = "Apache httpd without TLS through Squid (no CONNECT)";
    let route = Route::plain(name, version, server_port, (server, squid));
    let proxy = format!("{}proxy = \"http://127.0.0.1:{port}\"\n", route.settings);
    Route { settings: proxy, ..route }
}

/// nginx with TLS and fcgiwrap, as most other tests have it.
pub fn nginx(machine: &Sandbox) -> Route {
    let server = std::rc::Rc::new(Https::of(machine));
    let asked = std::rc::Rc::clone(&server);
    let nginx = version(machine, "nginx", "-v", &["nginx"]);
    assert_ne!(server.port(Face::Good), 0);
    Route {
        name: "nginx, fcgiwrap, git-http-backend, v2",
        version: format!("nginx {nginx}, git {}", git_version(machine)),
        settings: format!("ca_file = {:?}\n", server.ca_file()),
        url: Box::new(move |name| server.url(name)),
        take_requests: Box::new(move || {
            let count = asked.requests().len() as u64;
            asked.forget_requests();
            count
        }),
        breaks_at_first: false,
        _keep: Box::new(()),
    }
}
