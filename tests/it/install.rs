//! The files in `bootstrap/` do what they say on a machine that has no agent: the installer, and the
//! user data of clouds, from the pasted text alone to a revision that was acted upon.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, Sandbox, text};

/// The agent of this build.
pub const AGENT: &str = env!("CARGO_BIN_EXE_agent");

fn bootstrap(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstrap").join(file)
}

/// A file of `bootstrap/`.
pub fn read(file: &str) -> String {
    fs::read_to_string(bootstrap(file)).unwrap()
}

/// Serves the agent over http on the loopback, until the tests end; the address.
pub fn download() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/agent", listener.local_addr().unwrap());
    thread::spawn(move || {
        for line in listener.incoming() {
            let mut line = line.unwrap();
            let mut asked = [0; 4096];
            let _ = line.read(&mut asked);
            let agent = fs::read(AGENT).unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                agent.len()
            );
            let _ = line.write_all(head.as_bytes()).and_then(|()| line.write_all(&agent));
        }
    });
    address
}

/// The checksum of `file`, in hexadecimal digits.
pub fn sha256(file: &str) -> String {
    let ran = Ran::of(std::process::Command::new("sha256sum").arg(file)).ok();
    ran.stdout.split(' ').next().unwrap().to_owned()
}

/// A machine without an agent, and a repository whose scripts write who they are into `/root/runs`.
fn bare() -> MachineCopy {
    let machine = MachineCopy::without_agent();
    let files = [
        ("bin/init/common/init.sh", "echo \"init $HOME\" >> /root/runs\n"),
        ("bin/work/common/work.sh", "echo work >> /root/runs\n"),
        ("bin/work/part/web/work.sh", "echo \"work $AGENT_PART $AGENT_STACK\" >> /root/runs\n"),
    ];
    machine.sandbox.serve("ops", &files);
    machine
}

/// Sure that the machine is live.
#[track_caller]
fn is_live(machine: &MachineCopy, stack: &str, ran: &Ran) {
    assert_eq!(machine.state("ops"), "current", "{ran}");
    let runs = machine.read("/root/runs");
    assert_eq!(runs, format!("init /root\nwork\nwork web {stack}\n"), "{ran}");
    assert!(machine.read("/etc/cron.d/pmpy").contains("/usr/local/bin/agent tick"), "{ran}");
    assert_eq!(machine.sh("readlink /usr/local/bin/pmpy").ok().stdout, "agent\n");
}

/// A script in the copy with an environment as empty as at a first boot.
fn first_boot(machine: &MachineCopy, script: &str) -> Ran {
    machine.write("/tmp/user-data", script);
    Ran::of(&mut machine.command(&[
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "sh",
        "/tmp/user-data",
    ]))
}

/// What PyYAML makes of a file, as JSON; tags such as `!Sub` are taken off.
fn yaml(file: &str) -> serde_json::Value {
    parsed(&read(file))
}

/// What PyYAML makes of a text, likewise.
fn parsed(text: &str) -> serde_json::Value {
    let program = "
import json, sys, yaml
def plain(loader, suffix, node):
    kind = {'scalar': loader.construct_scalar, 'sequence': loader.construct_sequence}
    return kind.get(node.id, loader.construct_mapping)(node)
yaml.SafeLoader.add_multi_constructor('!', plain)
print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let mut python = std::process::Command::new("/usr/bin/python3");
    let ran = Ran::of(python.args(["-c", program, text])).ok();
    serde_json::from_str(&ran.stdout).unwrap()
}

/// `data` with every option taken out of its comment. What is prose has one space behind its `#`, and
/// stays.
pub fn uncommented(data: &str) -> String {
    let mut out = String::new();
    for line in data.lines() {
        let bare = line.trim_start();
        let option = bare.strip_prefix('#').filter(|rest| {
            let prose = rest.starts_with(' ') && !rest.starts_with("  ");
            !prose
                && !rest.is_empty()
                && !rest.starts_with('!')
                && !rest.starts_with("cloud-config")
        });
        let indent = &line[..line.len() - bare.len()];
        out += &option.map_or_else(|| line.to_owned(), |option| format!("{indent}{option}"));
        out.push('\n');
    }
    out
}

/// The script that cloud-init makes of `runcmd`: a text is a line as it stands, a list is a command
/// whose words are quoted.
fn runcmd_script(config: &serde_json::Value) -> String {
    let quoted = |word: &serde_json::Value| {
        let word = word.as_str().expect("cloud-init takes only texts");
        format!("'{}'", word.replace('\'', "'\\''"))
    };
    let mut script = "#!/bin/sh\n".to_owned();
    for line in config["runcmd"].as_array().unwrap() {
        match line.as_array() {
            Some(words) => script += &words.iter().map(quoted).collect::<Vec<_>>().join(" "),
            None => script += line.as_str().unwrap(),
        }
        script.push('\n');
    }
    script
}

/// Puts the files there that cloud-init would write.
fn write_files(machine: &MachineCopy, config: &serde_json::Value) {
    for file in config["write_files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        machine.write(path, file["content"].as_str().unwrap());
        let mode = file["permissions"].as_str().unwrap_or("0644");
        machine.sh(&format!("chmod {mode} {path}")).ok();
    }
}

#[test]
fn shellcheck_has_nothing_to_say_about_the_scripts() {
    let sandbox = Sandbox::new();
    let files = [
        "install.sh",
        "cloud-init/user-data.sh",
        "stage",
        "deb/build",
        "rpm/build",
        "rpm/post_install.sh",
        "rpm/pre_uninstall.sh",
        "image/build",
        "deb/scripts/postinst",
        "deb/scripts/prerm",
        "deb/scripts/postrm",
    ]
    .map(bootstrap);
    Ran::of(sandbox.command("shellcheck").args(["-s", "sh"]).args(files)).ok();
    Ran::of(sandbox.command("shellcheck").args(["release", "book"].map(bootstrap))).ok();
}

#[test]
fn the_installer_installs_replaces_and_says_what_it_does() {
    let machine = MachineCopy::without_agent();
    machine.write("/tmp/install.sh", &read("install.sh"));
    let agent = machine.sandbox.path("agent");
    fs::copy(AGENT, &agent).unwrap();
    let agent = text(&agent);
    let line = format!("sh /tmp/install.sh --from {agent} --sha256 {}", sha256(AGENT));

    let said = machine.sh(&format!("{line} --dry-run")).ok().stdout;
    assert!(said.contains("would run: mv -f "), "{said}");
    assert!(!machine.path("/usr/local/bin/agent").exists(), "a rehearsal does nothing");

    for _ in 0..2 {
        let said = machine.sh(&line).ok().stdout;
        assert!(said.ends_with("next: agent init URL\n"), "{said}");
        machine.sh("pmpy --version").ok();
        let files = machine.sh("ls -A /usr/local/bin | grep -c agent").ok().stdout;
        assert_eq!(files, "1\n", "nothing is left next to it");
    }
}

#[test]
fn the_installer_refuses_what_is_not_what_was_meant_and_leaves_the_old_agent() {
    let machine = MachineCopy::without_agent();
    machine.write("/tmp/install.sh", &read("install.sh"));
    machine.write("/usr/local/bin/agent", "the old one\n");
    machine.write("/tmp/fake", "#!/bin/sh\nexit 1\n");
    let wrong = "0".repeat(64);
    for (arguments, words) in [
        (format!("--from /tmp/fake --sha256 {wrong}"), "is not what was meant"),
        ("--from /tmp/fake".to_owned(), "this machine cannot run it"),
        ("--from /tmp/nothing".to_owned(), "there is no file /tmp/nothing"),
        (String::new(), "there is no agent next to install.sh"),
        (format!("--from {}", download()), "may be changed on the way"),
    ] {
        let ran = machine.sh(&format!("sh /tmp/install.sh {arguments}")).exits(1);
        assert!(ran.stderr.contains(words), "no \"{words}\" in\n{ran}");
        assert_eq!(machine.read("/usr/local/bin/agent"), "the old one\n");
        assert_eq!(machine.sh("ls -A /usr/local/bin | grep -c agent").ok().stdout, "1\n");
    }
    machine.sh("sh /tmp/install.sh --frm x").exits(2);
}

#[test]
fn one_pasted_script_makes_a_bare_server_live() {
    let machine = bare();
    let script = read("cloud-init/user-data.sh");
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = script
        .replace("https://git.example.org/ops.git", &url)
        .replace("https://downloads.example.org/push-me-pull-you/agent", &download())
        .replace("sha256=\n", &format!("sha256={}\n", sha256(AGENT)))
        .replace("stack=\n", "stack=shop\n");
    let script = filled(&script, "token() {\n    cat <<'END'\n", "", "secret\n");
    let ran = first_boot(&machine, &script).ok();
    is_live(&machine, "shop", &ran);
    assert_eq!(machine.sh("stat -c %a /etc/pmpy/ops.token").ok().stdout, "600\n");
    assert!(!ran.stdout.contains("secret") && !ran.stderr.contains("secret"), "{ran}");
    // A machine that boots with the same data again.
    first_boot(&machine, &script).ok();
    is_live(&machine, "shop", &ran);
}

#[test]
fn the_cloud_config_makes_a_bare_server_live() {
    let machine = bare();
    assert!(read("cloud-init/cloud-config.yaml").starts_with("#cloud-config\n"));
    let config = yaml("cloud-init/cloud-config.yaml");
    write_files(&machine, &config);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = runcmd_script(&config)
        .replace("https://git.example.org/ops.git", &url)
        .replace("https://downloads.example.org/push-me-pull-you/agent", &download());
    let ran = first_boot(&machine, &script).ok();
    is_live(&machine, "shop", &ran);
}

#[test]
fn a_download_with_another_checksum_is_neither_installed_nor_run() {
    let (address, wrong) = (download(), "0".repeat(64));
    let config =
        read("cloud-init/cloud-config.yaml").replace("#- echo \"SHA256", "- echo \"SHA256");
    let config = runcmd_script(&parsed(&config)).replace("SHA256", &wrong);
    let script = read("cloud-init/user-data.sh").replace("sha256=\n", &format!("sha256={wrong}\n"));
    let template = template_script("https://git.example.org/ops.git", "shop", &address, &wrong);
    for (form, data) in [("cloud-config", config), ("script", script), ("template", template)] {
        let machine = bare();
        let data = data.replace("https://downloads.example.org/push-me-pull-you/agent", &address);
        assert!(data.contains(&wrong) && data.contains(&address), "{form}");
        let ran = first_boot(&machine, &data).exits(1);
        assert!(!machine.path("/usr/local/bin/agent").exists(), "{form}: {ran}");
        assert!(!machine.path("/etc/cron.d/pmpy").exists(), "{form}: {ran}");
    }
}

#[test]
fn user_data_that_cannot_fetch_the_agent_says_so_and_what_to_do() {
    let machine = bare();
    let waits = "1 2 4 8 15 30 30 30 30 30 0";
    let script = read("cloud-init/user-data.sh");
    assert!(script.contains(waits));
    let script = script.replace(waits, "0").replace(
        "https://downloads.example.org/push-me-pull-you/agent",
        "http://127.0.0.1:9/agent",
    );
    let ran = first_boot(&machine, &script).exits(1);
    assert!(ran.stderr.contains("http://127.0.0.1:9/agent cannot be fetched"), "{ran}");
    assert!(ran.stderr.contains("hint: "), "{ran}");
}

#[test]
fn user_data_that_runs_again_leaves_a_configuration_that_was_changed_since() {
    let machine = bare();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = read("cloud-init/user-data.sh")
        .replace("https://git.example.org/ops.git", &url)
        .replace("https://downloads.example.org/push-me-pull-you/agent", &download());
    first_boot(&machine, &script).ok();
    machine.write("/etc/pmpy/agent.toml", "splay = \"3s\"\n");
    first_boot(&machine, &script).ok();
    assert_eq!(machine.read("/etc/pmpy/agent.toml"), "splay = \"3s\"\n");
}

/// `data` with `value` in the place of `example`, which follows `before` there.
#[track_caller]
fn filled(data: &str, before: &str, example: &str, value: &str) -> String {
    let place = format!("{before}{example}");
    assert_eq!(data.matches(&place).count(), 1, "{place:?} in\n{data}");
    data.replace(&place, &format!("{before}{value}"))
}

/// Secrets that a shell, YAML or TOML would read as something else.
const SECRETS: [&str; 12] = [
    "pa$x", "pa&id", "pa\\word", "a #b", "12345678", "@x", "it's", "a\"b", "`id`", "%s: x", "*a",
    "!b",
];

#[test]
fn a_secret_arrives_as_it_was_filled_in_whatever_is_in_it() {
    let (address, sum) = (download(), sha256(AGENT));
    let config = uncommented(&read("cloud-init/cloud-config.yaml"));
    let script = read("cloud-init/user-data.sh").replace("<<'END'\nEND", "<<'END'\n@FILL@\nEND");
    let installer = uncommented(&read("install.sh"));
    for secret in SECRETS {
        let machine = bare();
        let url = text(&machine.sandbox.server("ops")).to_owned();
        let addressed = |data: &str| {
            data.replace("https://git.example.org/ops.git", &url)
                .replace("https://downloads.example.org/push-me-pull-you/agent", &address)
                .replace("SHA256", &sum)
        };
        let arrived = |form: &str| {
            for (file, expected) in
                [("ops.token", secret.to_owned()), ("bus.login", format!("user:{secret}"))]
            {
                let path = format!("/etc/pmpy/{file}");
                assert_eq!(machine.read(&path), format!("{expected}\n"), "{form}: {file}");
                fs::remove_file(machine.path(&path)).unwrap();
            }
        };
        // cloud-init writes these files itself, with PyYAML's values.
        let data = filled(&config, "    content: |\n      ", "the-token", secret);
        let data =
            filled(&data, "    content: |\n      ", "user:password", &format!("user:{secret}"));
        write_files(&machine, &parsed(&data));
        arrived("cloud-config");

        let data = filled(&script, "token() {\n    cat <<'END'\n", "@FILL@", secret);
        let data =
            filled(&data, "bus_login() {\n    cat <<'END'\n", "@FILL@", &format!("user:{secret}"));
        let data = filled(&data, "username() {\n    cat <<'END'\n", "x-token", secret);
        let data = data.replace("\n@FILL@\n", "\n");
        fs::remove_file(machine.path("/etc/pmpy/agent.toml")).unwrap();
        first_boot(&machine, &addressed(&data)).ok();
        arrived("script");
        let toml: toml::Table = machine.read("/etc/pmpy/agent.toml").parse().unwrap();
        assert_eq!(toml["defaults"]["username"].as_str(), Some(secret), "{secret}");

        machine.write("/etc/pmpy/ops.key", "key material\n");
        let data = filled(&installer, "ops.token) <<'END'\n", "the-token", secret);
        let data =
            filled(&data, "bus.login) <<'END'\n", "user:password", &format!("user:{secret}"));
        machine.write("/tmp/install.sh", &addressed(&data));
        machine.sh(&format!("sh /tmp/install.sh --from {AGENT} || true")).ok();
        arrived("install.sh");

        // The template takes its secrets from a service.
        machine.write("/root/secret", &format!("{secret}\n"));
        machine.write("/usr/local/bin/aws", "#!/bin/sh\ncat /root/secret\n");
        machine.sh("chmod 755 /usr/local/bin/aws").ok();
        let data = uncommented(&template_script(&url, "shop", &address, &sum));
        first_boot(&machine, &data.replace("    aws ", "    /usr/local/bin/aws ")).ok();
        for file in ["ops.token", "bus.login"] {
            assert_eq!(machine.read(&format!("/etc/pmpy/{file}")), format!("{secret}\n"));
        }
    }
}

/// The script of each template, with these addresses.
fn scripts(repository: &str, agent: &str) -> [(&'static str, String); 3] {
    let addressed = |data: String| {
        data.replace("https://git.example.org/ops.git", repository)
            .replace("https://downloads.example.org/push-me-pull-you/agent", agent)
    };
    [
        ("cloud-config", addressed(runcmd_script(&yaml("cloud-init/cloud-config.yaml")))),
        ("script", addressed(read("cloud-init/user-data.sh"))),
        ("template", template_script(repository, "shop", agent, &sha256(AGENT))),
    ]
}

#[test]
fn shellcheck_has_nothing_to_say_about_the_templates() {
    let sandbox = Sandbox::new();
    for (form, script) in scripts("https://git.example.org/ops.git", "https://a.example.org/agent")
    {
        let file = sandbox.path(form);
        fs::write(&file, script).unwrap();
        Ran::of(sandbox.command("shellcheck").args(["-s", "sh", text(&file)])).ok();
    }
}

/// An apt-get whose first `fails` calls meet the lock that unattended-upgrades holds at a first boot. It installs
/// the cron that was hidden before.
fn apt(fails: u32) -> String {
    format!(
        "#!/bin/sh\necho \"$*\" >> /root/apt\n\
         [ \"$(wc -l < /root/apt)\" -gt {fails} ] || {{\n\
         echo 'E: Could not get lock /var/lib/dpkg/lock-frontend' >&2; exit 100; }}\n\
         case $* in *install*) cp /root/cron /usr/sbin/cron ;; esac\n"
    )
}

#[test]
fn a_package_lock_at_the_first_boot_is_waited_for_and_a_machine_that_cannot_tick_is_no_success() {
    let agent = download();
    for fails in [1, 2, 1000] {
        let machine = bare();
        let url = text(&machine.sandbox.server("ops")).to_owned();
        for (form, script) in scripts(&url, &agent) {
            machine.sh("rm -rf /usr/local/bin/*agent /etc/pmpy /etc/cron.d/pmpy /root/apt /root/gitrepo").ok();
            machine.sh("[ -e /root/cron ] || cp /usr/sbin/cron /root; rm -f /usr/sbin/cron").ok();
            machine.write("/usr/bin/apt-get.new", &apt(fails));
            machine
                .sh("chmod 755 /usr/bin/apt-get.new; mv /usr/bin/apt-get.new /usr/bin/apt-get")
                .ok();
            let script = script.replace("1 2 4 8 15 30 30 30 30 30 0", "0.1 0.1 0.1 0");
            let ran = first_boot(&machine, &script);
            if fails < 1000 {
                assert_eq!(ran.code, Some(0), "{form}: {ran}");
                assert!(machine.read("/etc/cron.d/pmpy").contains("agent tick"), "{form}: {ran}");
                assert!(machine.read("/root/apt").contains("DPkg::Lock::Timeout=600"), "{form}");
            } else {
                assert_eq!(ran.code, Some(1), "{form}: {ran}");
                assert!(ran.stderr.contains("this machine is not live"), "{form}: {ran}");
                assert!(!machine.path("/usr/local/bin/agent").exists(), "{form}: {ran}");
            }
        }
    }
}

#[test]
fn a_network_that_comes_late_is_waited_for() {
    let (machine, agent) = (bare(), download());
    let url = text(&machine.sandbox.server("ops")).to_owned();
    for (form, script) in scripts(&url, &agent) {
        machine.sh("rm -rf /usr/local/bin/*agent /etc/pmpy /etc/cron.d/pmpy /root/curl").ok();
        // What curl says of a network that is unreachable, which its own --retry-connrefused does not repeat.
        machine.write(
            "/usr/sbin/curl",
            "#!/bin/sh\necho >> /root/curl\n[ \"$(wc -l < /root/curl)\" -gt 2 ] || exit 7\nexec /usr/bin/curl \"$@\"\n",
        );
        machine.sh("chmod 755 /usr/sbin/curl").ok();
        let script = script.replace("1 2 4 8 15 30 30 30 30 30 0", "0.1 0.1 0.1 0");
        let ran = first_boot(&machine, &script);
        assert_eq!(ran.code, Some(0), "{form}: {ran}");
        assert_eq!(machine.state("ops"), "current", "{form}: {ran}");
    }
}

/// Sure that the agent understands what was configured, all options of a form taken together.
#[track_caller]
fn is_understood(machine: &MachineCopy, form: &str) {
    for file in ["bus.login", "ops.token", "ops.key", "known_hosts"] {
        let path = format!("/etc/pmpy/{file}");
        assert!(machine.path(&path).exists(), "{form}: {path} is named and never written");
    }
    let entry = machine.read("/etc/pmpy/agent.d/ops.toml");
    assert!(entry.contains("ops.key") && entry.contains("known_hosts"), "{form}: {entry}");
    let checked = machine.agent(&["check", "--offline"]).ok().stdout;
    for words in ["/etc/pmpy/agent.toml, /etc/pmpy/agent.d/ops.toml", "its brokers are not asked"] {
        assert!(checked.contains(words), "{form}: no \"{words}\" in\n{checked}");
    }
    let unit = machine.path("/etc/systemd/system/pmpy.service");
    assert!(unit.exists(), "{form}: cron's line would not listen");
}

#[test]
fn with_every_option_the_cloud_config_is_a_configuration_that_the_agent_understands() {
    let machine = bare();
    let config = parsed(&uncommented(&read("cloud-init/cloud-config.yaml")));
    write_files(&machine, &config);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = runcmd_script(&config)
        .replace("SHA256", &sha256(AGENT))
        .replace("https://git.example.org/ops.git", &url)
        .replace("https://downloads.example.org/push-me-pull-you/agent", &download());
    first_boot(&machine, &script).ok();
    is_understood(&machine, "cloud-config");
}

#[test]
fn with_every_option_the_script_is_a_configuration_that_the_agent_understands() {
    let machine = bare();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = uncommented(&read("cloud-init/user-data.sh"))
        .replace("https://git.example.org/ops.git", &url)
        .replace("https://downloads.example.org/push-me-pull-you/agent", &download())
        .replace("stack=\n", "stack=shop\n")
        .replace("<<'END'\nEND", "<<'END'\nuser:key material\nEND");
    first_boot(&machine, &script).ok();
    is_understood(&machine, "script");
    assert_eq!(machine.sh("stat -c %a /etc/pmpy/bus.login").ok().stdout, "600\n");
}

#[test]
fn with_every_option_the_template_is_a_configuration_that_the_agent_understands() {
    let machine = bare();
    machine.write("/usr/local/bin/aws", "#!/bin/sh\necho user:secret\n");
    machine.sh("chmod 755 /usr/local/bin/aws").ok();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = template_script(&url, "shop", &download(), &sha256(AGENT));
    let script = uncommented(&script).replace("aws secrets", "/usr/local/bin/aws secrets");
    first_boot(&machine, &script).ok();
    is_understood(&machine, "template");
}

#[test]
fn with_every_option_the_installer_makes_the_machine_live() {
    let machine = bare();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let script = uncommented(&read("install.sh")).replace("https://git.example.org/ops.git", &url);
    machine.write("/tmp/install.sh", &script);
    let agent = machine.sandbox.path("agent");
    fs::copy(AGENT, &agent).unwrap();
    machine.write("/etc/pmpy/ops.key", "key material\n");
    machine.sh(&format!("sh /tmp/install.sh --from {}", text(&agent))).ok();
    is_understood(&machine, "install.sh");
}

#[test]
fn an_installer_that_comes_through_a_pipe_takes_nothing_from_the_directory_it_is_run_in() {
    let machine = MachineCopy::without_agent();
    machine.write("/tmp/install.sh", &read("install.sh"));
    machine.write("/srv/agent", "#!/bin/sh\ntouch /root/ran\n");
    // The shell's own name may lie there as well.
    machine.write("/srv/sh", "");
    let ran = machine.sh("cd /srv && chmod 755 agent && cat /tmp/install.sh | sh").exits(1);
    assert!(ran.stderr.contains("name one: install.sh --from FILE|URL"), "{ran}");
    assert!(!machine.path("/root/ran").exists() && !machine.path("/usr/local/bin/agent").exists());
    let ran = machine.sh("cat /tmp/install.sh | sh -s -- --bad").exits(2);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    assert!(ran.stderr.starts_with("usage: install.sh [--from FILE|URL]"), "{ran}");
}

#[test]
fn an_installer_that_cannot_fetch_says_so_and_what_to_do() {
    let machine = MachineCopy::without_agent();
    let waits = "1 2 4 8 15 30 0";
    assert!(read("install.sh").contains(waits));
    let script = read("install.sh").replace(waits, "0");
    machine.write("/tmp/install.sh", &script);
    let line = format!("sh /tmp/install.sh --from http://127.0.0.1:9/a --sha256 {}", sha256(AGENT));
    let ran = machine.sh(&line).exits(1);
    assert!(ran.stderr.contains("http://127.0.0.1:9/a cannot be fetched\nhint: "), "{ran}");
}

/// The user data of the template's servers, with its parameters filled in; the CloudFormation stack is
/// called `shop-v2`.
fn template_script(repository: &str, stack: &str, agent: &str, sum: &str) -> String {
    let template = yaml("cloudformation/servers.yaml");
    let data = &template["Resources"]["Template"]["Properties"]["LaunchTemplateData"]["UserData"];
    let mut script = data["Fn::Base64"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("Repository", repository),
        ("Part", "web"),
        ("Stack", stack),
        ("AgentUrl", agent),
        ("AgentSha256", sum),
        ("AWS::StackName", "shop-v2"),
    ] {
        let open = format!("${{{name}}}");
        assert!(script.contains(&open), "{open} is not used");
        let known = name.starts_with("AWS::") || template["Parameters"][name].is_object();
        assert!(known, "{name} is no parameter");
        script = script.replace(&open, value);
    }
    assert!(!script.contains("${"), "{script}");
    script
}

#[test]
fn the_user_data_of_the_cloudformation_template_makes_a_bare_server_live() {
    for (stack, expected) in [("", "shop-v2"), ("shop", "shop")] {
        let machine = bare();
        let url = text(&machine.sandbox.server("ops")).to_owned();
        let script = template_script(&url, stack, &download(), &sha256(AGENT));
        let ran = first_boot(&machine, &script).ok();
        is_live(&machine, expected, &ran);
    }
}
