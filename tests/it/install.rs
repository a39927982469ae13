//! The files in `bootstrap/` do what they say on a machine that has no agent: the installer, and the
//! user data of clouds, from the pasted text alone to a revision that was acted upon.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use crate::sandbox::{Ran, Sandbox, text};
use crate::throwaway::Throwaway;

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
fn bare() -> Throwaway {
    let machine = Throwaway::without_agent();
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
fn is_live(machine: &Throwaway, stack: &str, ran: &Ran) {
    assert_eq!(machine.state("ops"), "current", "{ran}");
    let runs = machine.read("/root/runs");
    assert_eq!(runs, format!("init /root\nwork\nwork web {stack}\n"), "{ran}");
    assert!(machine.read("/etc/cron.d/pmpy").contains("/usr/local/bin/agent tick"), "{ran}");
    assert_eq!(machine.sh("readlink /usr/local/bin/pmpy").ok().stdout, "agent\n");
}

/// A script in the copy with an environment as empty as at a first boot.
fn first_boot(machine: &Throwaway, script: &str) -> Ran {
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
    let program = "
import json, sys, yaml
def plain(loader, suffix, node):
    kind = {'scalar': loader.construct_scalar, 'sequence': loader.construct_sequence}
    return kind.get(node.id, loader.construct_mapping)(node)
yaml.SafeLoader.add_multi_constructor('!', plain)
print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut python = std::process::Command::new("/usr/bin/python3");
    let ran = Ran::of(python.args(["-c", program, text(&bootstrap(file))])).ok();
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn shellcheck_has_nothing_to_say_about_the_scripts() {
    let sandbox = Sandbox::new();
    let files = [
        "install.sh",
        "cloud-init/user-data.sh",
        "deb/build",
        "deb/scripts/postinst",
        "deb/scripts/prerm",
        "deb/scripts/postrm",
    ]
    .map(bootstrap);
    Ran::of(sandbox.command("shellcheck").args(["-s", "sh"]).args(files)).ok();
}

#[test]
fn the_installer_installs_replaces_and_says_what_it_does() {
    let machine = Throwaway::without_agent();
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
        assert!(said.ends_with("next: agent init URL --part PART\n"), "{said}");
        machine.sh("pmpy --version").ok();
        let files = machine.sh("ls -A /usr/local/bin | grep -c agent").ok().stdout;
        assert_eq!(files, "1\n", "nothing is left beside it");
    }
}

#[test]
fn the_installer_refuses_what_is_not_what_was_meant_and_leaves_the_old_agent() {
    let machine = Throwaway::without_agent();
    machine.write("/tmp/install.sh", &read("install.sh"));
    machine.write("/usr/local/bin/agent", "the old one\n");
    machine.write("/tmp/fake", "#!/bin/sh\nexit 1\n");
    let wrong = "0".repeat(64);
    for (arguments, words) in [
        (format!("--from /tmp/fake --sha256 {wrong}"), "is not what was meant"),
        ("--from /tmp/fake".to_owned(), "this machine cannot run it"),
        ("--from /tmp/nothing".to_owned(), "there is no file /tmp/nothing"),
        (String::new(), "there is no agent beside install.sh"),
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
        .replace("stack=\n", "stack=shop\n")
        .replace("token=\n", "token=secret\n");
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
    for file in config["write_files"].as_array().unwrap() {
        machine.write(file["path"].as_str().unwrap(), file["content"].as_str().unwrap());
    }
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let agent = download();
    let filled = |word: &serde_json::Value| {
        word.as_str()
            .expect("cloud-init takes only texts")
            .replace("https://git.example.org/ops.git", &url)
            .replace("https://downloads.example.org/push-me-pull-you/agent", &agent)
    };
    let mut last = None;
    for line in config["runcmd"].as_array().unwrap() {
        let words: Vec<String> = line.as_array().unwrap().iter().map(filled).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let bare =
            [&["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"], words.as_slice()].concat();
        last = Some(Ran::of(&mut machine.command(&bare)).ok());
    }
    is_live(&machine, "shop", &last.unwrap());
}

#[test]
fn the_user_data_of_the_cloudformation_template_makes_a_bare_server_live() {
    let machine = bare();
    let template = yaml("cloudformation/servers.yaml");
    let data = &template["Resources"]["Template"]["Properties"]["LaunchTemplateData"]["UserData"];
    let mut script = data["Fn::Base64"].as_str().unwrap().to_owned();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    for (name, value) in [
        ("Repository", url.as_str()),
        ("Part", "web"),
        ("AgentUrl", &download()),
        ("AgentSha256", &sha256(AGENT)),
        ("AWS::StackName", "shop-v2"),
    ] {
        let open = format!("${{{name}}}");
        assert!(script.contains(&open), "{open} is not used");
        let known = name.starts_with("AWS::") || template["Parameters"][name].is_object();
        assert!(known, "{name} is no parameter");
        script = script.replace(&open, value);
    }
    assert!(!script.contains("${"), "{script}");
    let ran = first_boot(&machine, &script).ok();
    is_live(&machine, "shop-v2", &ran);
}
