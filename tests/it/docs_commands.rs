//! What the pages of `docs/` tell a person to type, typed as it stands there: a page and the test cannot
//! disagree. Only the addresses of example servers give way to those of the test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine_copy::MachineCopy;
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};
use crate::tutorials::{self, blocks};

/// The address in the pages that stands for the reader's own.
const ADDRESS: &str = "git@git.example.org:ops.git";

/// A machine with a clone of `ops`, made by hand.
fn with_ops(files: &[(&str, &str)]) -> MachineCopy {
    let machine = MachineCopy::new();
    machine.sandbox.serve("ops", files);
    let server = machine.sandbox.server("ops");
    machine.sh(&format!("git clone -q {} /root/gitrepo/ops", text(&server))).ok();
    machine
}

/// A person at the desk who types `block`.
fn at_the_desk(sandbox: &Sandbox, block: &str) {
    let mut shell = sandbox.command("bash");
    Ran::of(shell.current_dir(sandbox.desk("ops")).args(["-euc", block])).ok();
}

/// A machine that is a directory: `block` typed where `agent` is ours and `world` is its root.
fn at(sandbox: &Sandbox, world: &Path, block: &str) -> Ran {
    let dir = Path::new(env!("CARGO_BIN_EXE_agent")).parent().unwrap();
    let path = format!("{}:{}", text(dir), std::env::var("PATH").unwrap());
    let mut shell = sandbox.command("bash");
    shell.env("PATH", path).env("AGENT_ROOT", world);
    let block = block.replace(ADDRESS, text(&sandbox.server("ops")));
    Ran::of(shell.args(["-euc", &block]))
}

#[test]
fn the_tutorial_is_typed_from_its_first_block_to_its_last() {
    tutorials::first_server(&MachineCopy::new());
}

#[test]
fn the_second_tutorial_is_typed_too_and_a_bad_release_never_reaches_production() {
    tutorials::production(&MachineCopy::new(), || {});
}

#[test]
fn from_a_cron_loop_and_back() {
    let machine = with_ops(&[("bin/work/common/work.sh", "echo ran >> /root/runs\n")]);
    let old = "MAILTO=\"\"\n* * * * *  /root/bin/cron_1m.sh\n";
    machine
        .write("/root/bin/cron_1m.sh", "for dir in /root/gitrepo/*; do cd $dir; git pull; done\n");
    machine.write("/tmp/old", old);
    machine.sh("crontab /tmp/old").ok();
    let head = machine.sh("git -C /root/gitrepo/ops rev-parse HEAD").ok().stdout;
    machine.write("/root/gitrepo/ops/.temp/nodeinfo/lastaction.txt", &head);

    let [look, take_over, back] = &blocks("moving.md", "From a cron loop that runs git pull")[..]
    else {
        panic!("three blocks")
    };
    let reported = machine.sh(look).ok().stdout;
    assert!(reported.contains("cron_1m.sh"), "{reported}");
    machine.sh(take_over).ok();
    assert!(machine.path("/etc/cron.d/pmpy").exists());
    assert!(!machine.sh("crontab -l").ok().stdout.contains("\n* *"));
    machine.agent(&["tick"]).ok();
    assert!(!machine.path("/root/runs").exists(), "what the loop acted upon is not run again");
    machine.sandbox.push("ops", &[("page", "new")]);
    machine.agent(&["tick"]).ok();
    assert_eq!(machine.read("/root/runs"), "ran\n");

    machine.sh(back).ok();
    assert_eq!(machine.sh("crontab -l").ok().stdout, old);
    assert!(!machine.path("/etc/cron.d/pmpy").exists());
}

#[test]
fn from_stomp_git_and_back() {
    let machine = MachineCopy::new();
    machine.sandbox.serve("spog", &[("page", "new")]);
    machine.write("/data/sites/spog/page", "old");
    let configuration = format!(
        "[bus]\nbrokers = \"failover://(stomp://u:p@127.0.0.1:9)\"\nlisten_topic = \"x\"\n\
         [repo.spog]\nurl = \"{}\"\npath = \"/data/repos/spog\"\ntarget = \"/data/sites/spog\"\n\
         mode = \"trusting\"\n",
        text(&machine.sandbox.server("spog"))
    );
    machine.write("/etc/pmpy/agent.toml", &configuration);
    let [forth, back] = &blocks("moving.md", "From stomp-git")[..] else { panic!("two blocks") };
    // There is no broker here, and `check` says so.
    machine.sh(&forth.replace("agent check\n", "agent check --offline\n")).ok();
    assert_eq!(machine.read("/data/sites/spog/page"), "new");
    machine.sh(back).ok();
    assert_eq!(machine.read("/data/sites/spog/page"), "old");
}

#[test]
fn from_r10k_and_back() {
    let machine = MachineCopy::new();
    machine.sh("id puppet || useradd --system puppet").ok();
    let [forth, modules, back] = &blocks("moving.md", "From r10k")[..] else {
        panic!("three blocks")
    };
    machine.sandbox.serve("control", &[("page", "new"), ("bin/modules", modules)]);
    let desk = machine.sandbox.desk("control");
    machine.sandbox.git(&desk, &["push", "--quiet", "origin", "HEAD:feature/x", "HEAD:wip/y"]);
    machine.sandbox.git(&desk, &["push", "--quiet", "origin", "HEAD:production"]);
    machine
        .sh(&format!("chmod 755 {0}; chown -R puppet {0}/server", text(&machine.sandbox.path(""))))
        .ok();
    let environments = "/etc/puppetlabs/code/environments";
    machine.write(&format!("{environments}/production/page"), "old");
    let example = include_str!("../../examples/publish-branches/agent.toml")
        .replace(
            "https://git.example.org/control-repo.git",
            text(&machine.sandbox.server("control")),
        )
        .replace("target =", "path = \"/srv/control\"\nbefore = [\"bin/modules\"]\ntarget =");
    machine.write("/etc/pmpy/agent.d/environments.toml", &example);
    machine.sh("install -d -o puppet /srv").ok();
    let reported = machine.sh(forth).ok().stdout;
    assert!(reported.contains("refs/heads/feature/x"), "{reported}");
    for shown in ["production", "production_next", "feature_x"] {
        assert_eq!(machine.read(&format!("{environments}/{shown}/page")), "new");
    }
    assert!(!machine.path(&format!("{environments}/wip_y")).exists());
    machine.sh(back).ok();
    assert_eq!(machine.read(&format!("{environments}/production/page")), "old");
}

#[test]
fn from_ansible_pull_and_back() {
    let machine = MachineCopy::new();
    let [work, begin] = &blocks("moving.md", "From ansible-pull")[..] else { panic!("two blocks") };
    machine.sandbox.serve("ops", &[("work.sh", work), ("local.yml", "- hosts: all\n")]);
    // There is no Ansible here; what stands in for it notes how it was called, and where.
    let ansible = "#!/bin/sh\necho \"$PWD $*\" >> /root/runs; cat local.yml >> /root/runs\n";
    machine.write("/usr/local/bin/ansible-playbook", ansible);
    machine.sh("chmod 755 /usr/local/bin/ansible-playbook").ok();
    machine.sh(&begin.replace(ADDRESS, text(&machine.sandbox.server("ops")))).ok();
    assert_eq!(machine.state("ops"), "current");
    let called = "/root/gitrepo/ops --inventory localhost, --connection local local.yml\n";
    assert_eq!(machine.read("/root/runs"), format!("{called}- hosts: all\n"));
    assert!(machine.path("/etc/cron.d/pmpy").exists());
    machine.agent(&["schedule", "none"]).ok();
    assert!(!machine.path("/etc/cron.d/pmpy").exists());
}

#[test]
fn from_staging_to_production_over_a_canary_and_back() {
    let sandbox = Sandbox::new();
    let tested = sandbox.serve("ops", &[("work.sh", "true\n")]);
    let desk = sandbox.desk("ops");
    for branch in ["staging", "production", "canary"] {
        sandbox.git(&desk, &["push", "--quiet", "origin", &format!("HEAD:{branch}")]);
    }
    let worlds: [PathBuf; 3] =
        ["staging", "canary", "production"].map(|name| sandbox.path("worlds").join(name));
    let machines = blocks("staging.md", "The machines");
    let [stack, configuration, canary] = &machines[..] else { panic!("three blocks") };
    let lines = [stack.clone(), canary.clone(), stack.replace("staging", "production")];
    for (world, line) in worlds.iter().zip(&lines) {
        fs::create_dir_all(world).unwrap();
        at(&sandbox, world, line).ok();
    }
    // What `init` wrote is what the page shows.
    let written = fs::read_to_string(worlds[0].join(".pmpy/agent.d/ops.toml")).unwrap();
    let shown: toml::Table =
        configuration.replace(ADDRESS, text(&sandbox.server("ops"))).parse().unwrap();
    assert_eq!(written.parse::<toml::Table>().unwrap(), shown);

    let heads = || {
        worlds.each_ref().map(|world| {
            at(&sandbox, world, "agent tick").ok();
            sandbox.git(&world.join("ops"), &["rev-parse", "HEAD"])
        })
    };
    assert_eq!(heads(), [tested.clone(), tested.clone(), tested.clone()]);
    sandbox.git(&desk, &["checkout", "--quiet", "-B", "staging"]);
    fs::write(desk.join("page"), "better").unwrap();
    sandbox.git(&desk, &["add", "page"]);
    sandbox.git(&desk, &["commit", "--quiet", "--message", "Better"]);
    sandbox.git(&desk, &["push", "--quiet", "origin", "staging"]);
    let better = sandbox.git(&desk, &["rev-parse", "HEAD"]);
    assert_eq!(heads(), [better.clone(), tested.clone(), tested.clone()]);
    let promotion = blocks("staging.md", "Promotion");
    at_the_desk(&sandbox, &promotion[0]);
    assert_eq!(heads(), [better.clone(), better.clone(), tested]);
    at_the_desk(&sandbox, &promotion[1]);
    assert_eq!(heads(), [better.clone(), better.clone(), better.clone()]);

    at_the_desk(&sandbox, &blocks("staging.md", "Going back")[0]);
    let [_, _, production] = heads();
    assert_eq!(sandbox.git(&desk, &["rev-parse", "HEAD^"]), better);
    assert_eq!(sandbox.git(&desk, &["rev-parse", "HEAD"]), production);
}

#[test]
fn a_machine_from_a_snapshot_acts_once_upon_the_newest() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    let (root, snapshot) = (machine.root(), machine.path("snapshot"));
    Ran::of(machine.command("cp").arg("-a").args([&root, &snapshot])).ok();
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    let third = machine.push("ops", &[("page", "three")]);
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 6);
    fs::remove_dir_all(&root).unwrap();
    fs::rename(&snapshot, &root).unwrap();
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(machine.runs()[6..], [format!("start {third} 1"), format!("end {third}")]);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_git_server_from_a_backup_gets_what_it_lost_from_a_machine() {
    let machine = with_ops(&[("work.sh", "true\n")]);
    let server = machine.sandbox.server("ops");
    let old = machine.sandbox.git(&server, &["rev-parse", "main"]);
    let new = machine.sandbox.push("ops", &[("page", "new")]);
    machine.agent(&["tick"]).ok();
    machine.sandbox.git(&server, &["update-ref", "refs/heads/main", &old]);
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    machine.sh(&blocks("recovery.md", "A git server from a backup")[0]).ok();
    machine.agent(&["tick"]).ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.sandbox.git(&server, &["rev-parse", "main"]), new);
}

#[test]
fn a_machine_of_a_golden_image_runs_everything_as_itself() {
    let machine = MachineCopy::new();
    let says = "echo \"$0 $AGENT_PART\" >> /root/runs\n";
    machine
        .sandbox
        .serve("ops", &[("bin/init/common/init.sh", says), ("bin/work/common/work.sh", says)]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["init", &url, "--part", "image"]).ok();
    let [before, after] = &blocks("recovery.md", "A golden image")[..] else {
        panic!("two blocks")
    };
    machine.sh(before).ok();
    assert!(!machine.path("/etc/cron.d/pmpy").exists());
    machine.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    machine.write("/root/runs", "");
    machine.sh(&after.replace(ADDRESS, &url)).ok();
    let ran = machine.read("/root/runs");
    let who: Vec<&str> = ran.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
    assert_eq!(who, ["init.sh web", "work.sh web"]);
    assert!(machine.path("/etc/cron.d/pmpy").exists());
}

#[test]
fn a_bundle_is_carried_over_an_air_gap() {
    let machine = MachineCopy::new();
    let first = machine.sandbox.serve("ops", &[("work.sh", "true\n")]);
    let outside = text(&machine.sandbox.server("ops")).to_owned();
    machine.sh("mkdir -p /media/stick /srv/git /root/outside").ok();
    let steps = blocks("recovery.md", "Behind an air gap");
    let [clone, carry, receive, again] = &steps[..] else { panic!("four blocks") };
    let type_outside = |block: &str| {
        machine.sh(&format!("cd /root/outside\n{}", block.replace(ADDRESS, &outside))).ok()
    };
    type_outside(clone);
    type_outside(carry);
    machine.sh(receive).ok();
    machine.agent(&["init", "/srv/git/ops.git"]).ok();
    let head = || machine.sh("git -C /root/gitrepo/ops rev-parse HEAD").ok().stdout;
    assert_eq!(head().trim(), first);
    let older = machine.path("/media/stick/older");
    fs::copy(machine.path("/media/stick/ops.bundle"), older).unwrap();

    let second = machine.sandbox.push("ops", &[("page", "new")]);
    type_outside(carry);
    machine.sh(again).ok();
    machine.agent(&["tick"]).ok();
    assert_eq!(head().trim(), second);

    machine.sh(&again.replace("ops.bundle", "older")).ok();
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    machine.sh(again).ok();
    machine.agent(&["tick"]).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_is_removed_leaves_an_ordinary_clone() {
    let machine = with_ops(&[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["init", &url]).ok();
    // The agent of a copy is mounted there; a person's is a file.
    let remove = blocks("removing.md", "Removing it")
        .remove(0)
        .replace("sh install.sh --uninstall", "agent schedule none");
    machine.sh(&remove).ok();
    let found = machine.sh("find /etc /var/lib /var/log /var/spool/cron /run -name '*pmpy*'");
    assert_eq!(found.ok().stdout, "");
    machine.sh(&blocks("removing.md", "What remains")[0]).ok();
    let left = machine
        .sh("cd /root/gitrepo/ops; find . -type f -path '*pmpy*'; ls -A | grep temp || true")
        .ok()
        .stdout;
    assert_eq!(left, "");
    let status = "cd /root/gitrepo/ops; git status --porcelain; git for-each-ref refs/pmpy; \
                  grep -v '^#' .git/info/exclude || true; git fsck";
    assert_eq!(machine.sh(status).ok().stdout, "");
}

#[test]
fn each_block_of_operations_is_typed_or_parsed() {
    let machine = with_ops(&[("work.sh", "echo ran\n")]);
    machine.agent(&["tick"]).ok();
    // The login of a stranger: here it is this machine.
    let typed = |line: &str| machine.sh(&format!("ssh() {{ shift; \"$@\"; }}\n{line}")).ok().stdout;
    let page = include_str!("../../docs/operations.md");
    let mut seen = Vec::new();
    for block in page.split("```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        seen.push(language);
        match language {
            // What a real systemd makes of them is in `service`, and what nginx and a forge do in `web::proxy`.
            "ini" | "nginx" => {}
            "sh" if text.contains("systemctl") || text.contains("X-Pmpy-Signature") => {}
            "toml" => {
                machine.write("/etc/pmpy/agent.toml", text);
                machine.write("/etc/pmpy/webhook.secret", "hush\n");
                machine.sh("chmod 600 /etc/pmpy/webhook.secret").ok();
                let checked = machine.agent(&["check", "--offline"]).ok().stdout;
                assert!(checked.contains("the secret can be read"), "{checked}");
                machine.sh("rm -r /etc/pmpy").ok();
            }
            "sh" if text.contains("unhold --all") => {
                for line in text.lines() {
                    typed(&format!(
                        "agent hold ops one; agent hold ops two; agent hold --all three; {line}"
                    ));
                    machine.sh("agent unhold ops --everybody").ok();
                }
                assert_eq!(machine.state("ops"), "current", "nothing is held");
            }
            "sh" => {
                typed(text);
            }
            other => panic!("no test has a block in {other}"),
        }
    }
    for language in ["sh", "ini", "toml", "nginx"] {
        assert!(seen.contains(&language), "{language}: {seen:?}");
    }
}
