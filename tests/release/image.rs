//! The images, as buildah loads them: the agent is PID 1 in namespaces of its own, deploys what is pushed, is healthy
//! by its own check, and ends when it is asked to.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::dist;
use crate::sandbox::{Ran, Sandbox, text, wait_until};

/// A loaded image that is unpacked into a directory, and its configuration.
struct Container<'sandbox> {
    sandbox: &'sandbox Sandbox,
    root: PathBuf,
    config: serde_json::Value,
}

impl<'sandbox> Container<'sandbox> {
    fn of(sandbox: &'sandbox Sandbox, archive: &str) -> Self {
        let storage = sandbox.path("storage");
        let run = sandbox.path("run");
        let buildah = |arguments: &[&str]| {
            let mut command = sandbox.command("buildah");
            command.args(["--root", text(&storage), "--runroot", text(&run)]);
            Ran::of(command.args(["--storage-driver", "vfs"]).args(arguments)).ok().stdout
        };
        let archive = format!("docker-archive:{}", text(&dist().join(archive)));
        let image = buildah(&["pull", "--quiet", &archive]);
        let described = buildah(&["inspect", "--type", "image", image.trim()]);
        let described: serde_json::Value = serde_json::from_str(&described).unwrap();
        let container = buildah(&["from", "--pull-never", image.trim()]);
        let root = PathBuf::from(buildah(&["mount", container.trim()]).trim());
        let config = described["Docker"]["config"].clone();
        // What a runtime mounts, and a volume of the person who publishes.
        for dir in ["proc", "dev", "data"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        Self { sandbox, root, config }
    }

    /// The command line of the image, in namespaces of its own; what is on the host's side of `/srv` is seen inside.
    fn command(&self, key: &str) -> Vec<String> {
        let words = |key: &str| -> Vec<String> {
            serde_json::from_value(self.config[key].clone()).unwrap_or_default()
        };
        [words("Entrypoint"), words(key)].concat()
    }

    fn start(&self) -> RunningContainer {
        let script = "
            root=$1; shared=$2; shift 2
            mount --bind $root $root; mount -t proc proc $root/proc
            mount -t tmpfs tmpfs $root/dev; touch $root/dev/null; mount --bind /dev/null $root/dev/null
            mkdir -p $root/srv; mount --bind $shared $root/srv
            exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot $root \"$@\"";
        let mut command = self.sandbox.command("unshare");
        command
            .args([
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-euc",
                script,
            ])
            .args(["sh", text(&self.root), text(&self.sandbox.path("server"))])
            .args(self.command("Cmd"));
        RunningContainer(command.spawn().unwrap())
    }

    /// The process that is PID 1 in the container.
    fn first(running: &RunningContainer) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", running.0.id());
        let mut first = None;
        wait_until("the first process is there", || {
            let read = fs::read_to_string(&children).unwrap_or_default();
            first = read.split_whitespace().next().and_then(|pid| pid.parse().ok());
            first.is_some_and(|pid: u32| {
                fs::read_link(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe.ends_with("usr/bin/agent"))
            })
        });
        first.unwrap()
    }

    /// A program in the namespaces of `first`.
    fn inside(&self, first: u32, line: &[String]) -> Ran {
        let mut command = self.sandbox.command("nsenter");
        command
            .arg(format!("--target={first}"))
            .args(["--mount", "--pid", "--root", "--wd"])
            .args(line);
        Ran::of(&mut command)
    }
}

/// The process outside of the namespaces; with it, everything inside ends.
struct RunningContainer(Child);

impl Drop for RunningContainer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lives(archive: &str, config: &str, files: &[(&str, &str)], shown: &str) {
    let sandbox = Sandbox::new();
    sandbox.serve("ops", files);
    let container = Container::of(&sandbox, archive);
    for volume in ["/root/gitrepo", "/var/lib/pmpy", "/var/log/pmpy"] {
        assert!(container.config["Volumes"][volume].is_object(), "{:#}", container.config);
    }
    fs::write(container.root.join("etc/pmpy/agent.toml"), config).unwrap();
    let mut running = container.start();
    let first = Container::first(&running);
    let page = container.root.join(shown);
    wait_until("the first revision is deployed", || {
        fs::read_to_string(&page).is_ok_and(|text| text == "one\n")
    });
    sandbox.push("ops", &[("page", "two\n")]);
    wait_until("a push is deployed", || {
        fs::read_to_string(&page).is_ok_and(|text| text == "two\n")
    });
    let health: Vec<String> =
        serde_json::from_value(container.config["Healthcheck"]["Test"].clone()).unwrap();
    assert_eq!(health[0], "CMD");
    // The page is there a moment before the action has ended.
    wait_until("it is healthy, and says so", || {
        let ran = container.inside(first, &health[1..]);
        ran.code == Some(0) && ran.stdout.contains("ops  current")
    });

    Ran::of(Command::new("kill").arg(first.to_string())).ok();
    assert_eq!(running.0.wait().unwrap().code(), Some(0), "it ends as it was asked to");
}

const LISTEN: &str = "[listen]\nevery = \"1s\"\n";

#[test]
fn the_agent_alone_publishes_what_is_pushed_as_the_first_process() {
    let config = format!(
        "{LISTEN}[repo.ops]\nurl = \"/srv/ops.git\"\nmode = \"checkout\"\ntarget = \"/data/site\"\n"
    );
    lives("agent-image-amd64.tar", &config, &[("page", "one\n")], "data/site/page");
}

#[test]
fn with_a_debian_it_runs_scripts_as_the_first_process() {
    let config = format!("{LISTEN}[repo.ops]\nurl = \"/srv/ops.git\"\n");
    let files = [("page", "one\n"), ("work.sh", "set -o pipefail; cp page /root/deployed\n")];
    lives("agent-debian-amd64.tar", &config, &files, "root/deployed");
}
