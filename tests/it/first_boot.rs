//! The first boot of a bare Debian with nothing but the user data of `bootstrap/cloud-init`: cloud-init
//! itself reads it, from its seed to the revision that was acted upon. The machine is a debootstrap'ed
//! Debian 12 in memory, with a network, a host name and processes of its own; the agent and the git
//! server, which speaks TLS, are on its loopback.
//!
//! debootstrap takes about a minute and a mirror of Debian's once; what it made stays in cargo's target
//! directory.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::install::{AGENT, download, read, sha256, uncommented};
use crate::machine_copy::{MachineCopy, debootstrapped};
use crate::sandbox::{Ran, text};
use crate::servers::{Face, Https};

/// What is installed beforehand, as in an image for clouds: there is no mirror when the machine boots.
/// Who changes it removes the directory that [`debian`] made.
const PACKAGES: &str = "cloud-init,cron,ca-certificates,curl,iproute2,openssh-client,\
                        python3-cffi-backend";

/// Lets cloud-init look for nothing that is not there: no mirror, no locale to be made, no metadata
/// server.
const IMAGE: &str =
    "datasource_list: [NoCloud]\napt: {preserve_sources_list: true}\nlocale: false\n";
const SEED: &str = "/var/lib/cloud/seed/nocloud";

/// What an init system runs at boot, one stage after the other.
const BOOT: &str = "
date +%s.%N > /root/booted
for stage in 'init --local' init 'modules --mode=config' 'modules --mode=final'; do
    cloud-init $stage
done
cloud-init status --long
";

const FILES: [(&str, &str); 3] = [
    ("bin/init/common/init.sh", "echo \"init $HOME\" >> /root/runs\n"),
    ("bin/work/common/work.sh", "date +%s.%N > /root/acted\necho work >> /root/runs\n"),
    ("bin/work/part/web/work.sh", "echo \"web in $AGENT_STACK on $AGENT_HOST\" >> /root/runs\n"),
];

/// The disk of the bare machine.
fn debian() -> PathBuf {
    debootstrapped("debian-12", "bookworm", PACKAGES)
}

/// A machine with cloud-init that has never booted.
fn machine() -> MachineCopy {
    let machine = MachineCopy::over(&debian());
    machine.write("/etc/apt/sources.list", "");
    machine.write("/etc/cloud/cloud.cfg.d/99_image.cfg", IMAGE);
    machine.write(&format!("{SEED}/meta-data"), "instance-id: one\nlocal-hostname: web01\n");
    machine
}

/// Sure that a machine with this user data, which gets its addresses from `filled`, is live after its
/// first boot.
fn lives_after_its_first_boot(form: &str, filled: fn(&str, &str) -> String) {
    let machine = machine();
    let revision = machine.sandbox.serve("ops", &FILES);
    // A thread has a network of its own, and whatever it starts is in there.
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own takes root");
            machine.sh("ip link set lo up").ok();
            let server = Https::of(&machine.sandbox);
            let authority = fs::read_to_string(server.ca_file()).unwrap();
            machine.write("/usr/local/share/ca-certificates/tests.crt", &authority);
            machine.sh("update-ca-certificates").ok();
            let repository = format!("https://127.0.0.1:{}/ops.git", server.port(Face::Good));
            machine.write(&format!("{SEED}/user-data"), &filled(&repository, &download()));

            let (disk, proc) = (machine.path("/"), machine.path("/proc"));
            let mut boot = machine.sandbox.command("unshare");
            boot.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"])
                .arg(format!("--mount-proc={}", text(&proc)))
                .args(["chroot", text(&disk), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
                .args(["sh", "-euc", BOOT]);
            let booted = Ran::of(&mut boot).ok();
            assert!(booted.stdout.contains("status: done"), "{booted}");
            assert_eq!(machine.state("ops"), "current", "{booted}");
            machine.agent(&["status"]).ok();
        });
    });
    let acted = machine.read("/root/gitrepo/ops/.temp/nodeinfo/lastaction.txt");
    assert_eq!(acted, format!("{revision}\n"));
    assert_eq!(machine.read("/root/runs"), "init /root\nwork\nweb in shop on web01\n");
    assert!(machine.read("/etc/cron.d/pmpy").contains("/usr/local/bin/agent tick"));

    let seconds = |file| machine.read(file).trim().parse::<f64>().unwrap();
    let taken = seconds("/root/acted") - seconds("/root/booted");
    // Past the capture, which shows the words of failed tests only.
    let line = format!("first boot: {taken:.1} s to the first action ({form})\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The user data with the addresses of its own example replaced.
fn with_addresses(data: &str, repository: &str, agent: &str) -> String {
    let filled = data
        .replace("https://git.example.org/ops.git", repository)
        .replace("https://downloads.example.org/push-me-pull-you/agent", agent);
    assert!(filled.contains(repository) && filled.contains(agent), "{filled}");
    filled
}

#[test]
fn the_cloud_config_alone_makes_a_bare_debian_live() {
    lives_after_its_first_boot("#cloud-config", |repository, agent| {
        with_addresses(&read("cloud-init/cloud-config.yaml"), repository, agent)
    });
}

#[test]
fn the_script_as_user_data_alone_makes_a_bare_debian_live() {
    lives_after_its_first_boot("script", |repository, agent| {
        with_addresses(&read("cloud-init/user-data.sh"), repository, agent)
            .replace("stack=\n", "stack=shop\n")
            .replace("sha256=\n", &format!("sha256={}\n", sha256(AGENT)))
    });
}

#[test]
fn cloud_init_finds_nothing_to_say_about_the_cloud_config() {
    let machine = machine();
    machine.write("/tmp/user-data", &read("cloud-init/cloud-config.yaml"));
    let ran = machine.sh("cloud-init schema --config-file /tmp/user-data").ok();
    assert!(ran.stdout.contains("Valid cloud-config"), "{ran}");
    machine.write("/tmp/user-data", &uncommented(&read("cloud-init/cloud-config.yaml")));
    let ran = machine.sh("cloud-init schema --config-file /tmp/user-data").ok();
    assert!(ran.stdout.contains("Valid cloud-config"), "{ran}");
    machine.write("/tmp/user-data", "#cloud-config\nruncmd: 7\n");
    machine.sh("cloud-init schema --config-file /tmp/user-data").exits(1);
}
