//! `agent demo`: the life of a server in a temporary directory. Each step is a command that a person could
//! type. It really runs, and its result is checked. Touches nothing else on the machine.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::styling::{AnsiColor, Style};

use crate::cmd::format;
use crate::domain::repository::state::State;
use crate::domain::repository::status::MachineStatus;
use crate::domain::text::EscapeControls;
use crate::exit::ExitStatus;
use crate::system::agent_state::AgentState;
use crate::system::process::{DemoShell, InterruptWatch, TypedOutput, WaitOutcome};
use crate::system::temp_dir::TempDir;
use crate::system::{files, host, packages};

/// The time limit for one command on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The script that every machine of the story runs.
const SCRIPT: &str = "desk/bin/work/common/work.sh";

/// `agent demo`
///
/// # Errors
/// When a step has an unexpected result, git is missing, or Ctrl-C stops the demo.
pub fn run() -> Result<ExitStatus> {
    let interrupt = InterruptWatch::watch()?;
    let scratch = TempDir::make("pmpy-demo")?;
    let outcome = DemoSandbox::at(scratch.path(), interrupt).and_then(|demo| story(&demo));
    let left = scratch.path().to_owned();
    if let Err(error) = scratch.remove() {
        let place = format::escaped(&left.display().to_string());
        format::print(&format!(
            "\n{place} stays behind ({error:#}); remove it with: rm -r {place}\n"
        ))?;
    }
    outcome.map(|()| ExitStatus::Fine)
}

/// Runs all steps in order.
fn story(demo: &DemoSandbox) -> Result<()> {
    let began = host::since_boot();
    demo.note(&format!(
        "Push-Me-Pull-You, from the first push on. All of it happens in {}, which is removed at the \
         end; nothing else on this machine is touched.",
        format::escaped(&demo.shell.working_dir.display().to_string())
    ))?;
    go_live(demo)?;
    follow(demo)?;
    fail_and_heal(demo)?;
    edit_by_hand(demo)?;
    hold(demo)?;
    kill(demo)?;
    go_back(demo)?;
    rewrite(demo)?;
    come_back(demo)?;
    wait(demo)?;
    meet(demo)?;
    demo.narrate("What this machine applied, newest first:")?;
    demo.agent("history", 0)?;
    let took = (host::since_boot() - began).as_secs_f64();
    demo.note(&format!(
        "That was all of it, in {}. On a real server, as root:",
        format::seconds(took)
    ))?;
    format::print(
        "  agent init /srv/git/ops.git --part web   this machine is live\n  \
           agent check                              is everything as it should be?\n  \
           agent status                             what runs here, since when, why not newer\n",
    )
}

fn go_live(demo: &DemoSandbox) -> Result<()> {
    demo.narrate("A git server has a repository, with a script that every machine runs.")?;
    demo.types("git init -q --bare --initial-branch=main ops.git", 0)?;
    demo.types("git init -q --initial-branch=main desk", 0)?;
    demo.types("git -C desk remote add origin ../ops.git", 0)?;
    demo.types("mkdir -p desk/bin/work/common", 0)?;
    let first = demo.push("echo \"release 1 is live on $AGENT_HOST\"", "Release 1")?;
    demo.narrate(
        "One command makes a machine live: it clones, runs the script, shows the status.",
    )?;
    demo.agent("init ops=$PWD/ops.git", 0)?;
    demo.must_be(State::Current, &first)?;
    demo.narrate("What the script printed is kept.")?;
    demo.agent("log ops", 0)?;
    Ok(())
}

fn follow(demo: &DemoSandbox) -> Result<()> {
    demo.narrate("A developer pushes.")?;
    let second = demo.push("echo \"release 2 is live on $AGENT_HOST\"", "Release 2")?;
    demo.narrate("Cron calls this each minute. It is silent when all went well.")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Current, &second)?;
    demo.narrate("Nothing new: one question to the server, and nothing is done.")?;
    let before = demo.count_logs()?;
    demo.agent("tick", 0)?;
    ensure!(demo.count_logs()? == before, "a tick without news ran the scripts again");
    demo.must_be(State::Current, &second)
}

fn fail_and_heal(demo: &DemoSandbox) -> Result<()> {
    let good = demo.revision()?;
    demo.narrate("A script that fails: the tick says so once, and cron mails it.")?;
    demo.push("echo \"no such table: bonkles\"; exit 1", "Release 3")?;
    demo.agent("tick", 1)?;
    demo.narrate("The last good revision stays on record; the next try comes by itself.")?;
    demo.agent("status", 1)?;
    demo.must_be(State::Failing, &good)?;
    demo.narrate("A fix is applied at once, without that wait.")?;
    let fixed = demo.push("echo \"release 4 is live on $AGENT_HOST\"", "Release 4, a fix")?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &fixed)
}

fn edit_by_hand(demo: &DemoSandbox) -> Result<()> {
    let good = demo.revision()?;
    let edited = "gitrepo/ops/bin/work/common/work.sh";
    demo.narrate(
        "An administrator edits a file on the server, and the next push changes the same file.",
    )?;
    demo.types(&format!("echo \"# quick fix\" >> {edited}"), 0)?;
    let next = demo.push("echo \"release 5 is live on $AGENT_HOST\"", "Release 5")?;
    demo.narrate("Nothing is touched, and it says which file is in the way.")?;
    demo.agent("tick", 1)?;
    demo.must_be(State::Dirty, &good)?;
    demo.types(&format!("tail -n 1 {edited}"), 0)?;
    demo.narrate("Once the file is restored, the machine continues.")?;
    demo.types("git -C gitrepo/ops checkout -q .", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &next)
}

fn hold(demo: &DemoSandbox) -> Result<()> {
    let before = demo.revision()?;
    demo.narrate("A machine can be held; the status shows who did it and why.")?;
    demo.agent("hold ops \"database migration\"", 0)?;
    let held = demo.push("echo \"release 6 is live on $AGENT_HOST\"", "Release 6")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Held, &before)?;
    demo.narrate("The migration is done.")?;
    demo.agent("unhold ops", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &held)
}

fn kill(demo: &DemoSandbox) -> Result<()> {
    let before = demo.revision()?;
    demo.narrate("The power fails in the middle: this script waits half-way, where it is killed.")?;
    demo.types("mkfifo half-way", 0)?;
    // The script writes its own and its worker's process id, and waits until it is killed; on the next
    // run the pipe is gone.
    let script = "echo \"half of it is copied\"\n\
                  cd ../..; [ ! -p half-way ] || { echo $PPID $$ > half-way; rm half-way; exec sleep 60; }\n\
                  echo \"all of it is copied\"";
    let next = demo.push(script, "Release 7")?;
    let tick = demo.begins("agent --root gitrepo tick")?;
    let victims = demo.types("cat half-way", 0)?;
    let victims: Vec<&str> = victims.split_whitespace().collect();
    let numbers = victims.iter().all(|pid| pid.parse::<u32>().is_ok());
    ensure!(numbers && victims.len() == 2, "the script did not come half-way");
    demo.agent("status", 0)?;
    demo.must_be(State::Acting, &before)?;
    demo.types(&format!("kill -KILL {}", victims.join(" ")), 0)?;
    demo.prints("wait")?;
    demo.shows(&tick.finish(PATIENCE)?)?;
    demo.narrate("The next tick cleans up and runs the script again, to its end.")?;
    demo.agent("tick", 0)?;
    demo.agent("log ops", 0)?;
    demo.must_be(State::Current, &next)
}

fn go_back(demo: &DemoSandbox) -> Result<()> {
    let bad = demo.revision()?;
    let good = demo.hears("git -C desk rev-parse HEAD~1")?;
    demo.narrate("Release 7 was a mistake. Going back needs no server and no push.")?;
    demo.agent("rollback ops", 0)?;
    demo.must_be(State::Pinned, &good)?;
    demo.narrate("It stays there, whatever upstream has.")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Pinned, &good)?;
    demo.narrate("Unhold ends the rollback.")?;
    demo.agent("unhold ops", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &bad)
}

fn rewrite(demo: &DemoSandbox) -> Result<()> {
    let before = demo.revision()?;
    demo.narrate("A force push replaces a pushed commit. No machine follows it without approval.")?;
    demo.types("git -C desk commit -q --amend -m \"Release 7, rewritten\"", 0)?;
    demo.types("git -C desk push -q --force origin main", 0)?;
    let rewritten = demo.revision()?;
    demo.agent("tick", 1)?;
    demo.must_be(State::Rewritten, &before)?;
    demo.narrate("The rewrite was intended: accept it.")?;
    let short: String = rewritten.chars().take(12).collect();
    demo.agent(&format!("accept ops {short}"), 0)?;
    demo.must_be(State::Current, &rewritten)
}

fn come_back(demo: &DemoSandbox) -> Result<()> {
    demo.narrate(
        "A check says whether a release is well. Where one is not, the machine goes back by itself.",
    )?;
    let check = "desk/bin/health/common";
    demo.types(
        &format!("mkdir -p {check}; echo 'grep Welcome ../../page' > {check}/health.sh"),
        0,
    )?;
    let keys = "[repo.ops]\\nhealth_within = \"2s\"\\non_failure = \"rollback\"\\n";
    demo.types(&format!("printf '{keys}' > gitrepo/.pmpy/agent.d/health.toml"), 0)?;
    let good = demo.push("echo Welcome > ../../page", "Release 8, with a check")?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &good)?;
    demo.push("echo Internal Server Error > ../../page", "Release 9")?;
    demo.agent("tick", 1)?;
    demo.agent("status", 1)?;
    demo.must_be(State::RolledBack, &good)?;
    demo.types("cat page", 0)?;
    demo.narrate("A fix is applied like any other release.")?;
    let fixed = demo.push("echo Welcome back > ../../page", "Release 10, a fix")?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &fixed)
}

fn wait(demo: &DemoSandbox) -> Result<()> {
    let before = demo.revision()?;
    demo.narrate(
        "A gate lets a push wait: for the hours of maintenance, for others, or until it is some seconds old.",
    )?;
    demo.types("echo 'min_age = \"2s\"' >> gitrepo/.pmpy/agent.d/health.toml", 0)?;
    let next = demo.push("echo Welcome to release 11 > ../../page", "Release 11")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Behind, &before)?;
    demo.types("sleep 2", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &next)
}

fn meet(demo: &DemoSandbox) -> Result<()> {
    demo.narrate("A second machine. Both publish what they run, in a repository that is there for nothing else.")?;
    demo.types("git init -q --bare status.git", 0)?;
    for (root, name) in [("gitrepo", "web1"), ("second", "web2")] {
        demo.types(&format!("mkdir -p {root}/.pmpy"), 0)?;
        let keys = format!("[node]\\nname = \"{name}\"\\n[presence]\\nurl = \"%s\"\\n");
        demo.types(&format!("printf '{keys}' $PWD/status.git > {root}/.pmpy/agent.toml"), 0)?;
    }
    demo.types("agent --root second init ops=$PWD/ops.git", 0)?;
    demo.agent("tick", 0)?;
    // They publish in processes of their own, which the ticks did not wait for.
    demo.hears("until [ $(git -C status.git for-each-ref | wc -l) = 2 ]; do sleep 0.1; done")?;
    for root in ["gitrepo", "second"] {
        let state = demo.shell.working_dir.join(root).join(".pmpy");
        let ended = AgentState::at(&state).lock_within("presence.lock", PATIENCE)?;
        ensure!(ended.is_some(), "a machine did not publish what it runs");
    }
    demo.narrate("Every reader of that repository sees the fleet, the worst machine first.")?;
    let fleet = demo.agent("fleet", 0)?;
    ensure!(fleet.contains("current  2"), "the fleet has not two machines");
    Ok(())
}

/// The story's directory and its shell.
struct DemoSandbox {
    shell: DemoShell,
    interrupt: InterruptWatch,
}

impl DemoSandbox {
    /// A sandbox in this directory; of the caller's environment it keeps only where programs are.
    fn at(dir: &Path, interrupt: InterruptWatch) -> Result<Self> {
        let mut env: Vec<(OsString, OsString)> = vec![
            ("HOME".into(), dir.into()),
            ("LANG".into(), "C.UTF-8".into()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()),
        ];
        for role in ["AUTHOR", "COMMITTER"] {
            env.push((format!("GIT_{role}_NAME").into(), "Pat Pusher".into()));
            env.push((format!("GIT_{role}_EMAIL").into(), "pat@example.org".into()));
        }
        env.extend(host::search_path().map(|path| ("PATH".into(), path)));
        env.extend(host::time_zone().map(|zone| ("TZ".into(), zone.into())));
        let demo = Self { shell: DemoShell { working_dir: dir.to_owned(), env }, interrupt };
        demo.hears("git --version").with_context(|| {
            format!(
                "the demo needs git to push, and it is not installed (the agent itself does without)\n\
                 hint: {}",
                packages::install_command("git")
            )
        })?;
        Ok(demo)
    }

    /// Prints the sentence that introduces the next step.
    fn narrate(&self, sentence: &str) -> Result<()> {
        ensure!(!self.interrupt.came(), "the demo was stopped by Ctrl-C");
        self.note(sentence)
    }

    fn note(&self, sentence: &str) -> Result<()> {
        let bold = Style::new().bold();
        format::print(&format!("\n{bold}{sentence}{bold:#}\n"))
    }

    /// Prints a line as it is typed at the prompt.
    fn prints(&self, line: &str) -> Result<()> {
        let colour = AnsiColor::Cyan.on_default();
        format::print(&format!("{colour}$ {line}{colour:#}\n"))
    }

    fn shows(&self, said: &TypedOutput) -> Result<()> {
        let lines = said.text.lines().map(|line| format!("{}\n", format::escaped(line)));
        format::print(&lines.collect::<String>())
    }

    /// Types `line`, which has to exit with `code`; returns its output.
    fn types(&self, line: &str, code: i32) -> Result<String> {
        self.prints(line)?;
        let said = self.shell.start(line)?.finish(PATIENCE)?;
        self.shows(&said)?;
        ensure!(!self.interrupt.came(), "the demo was stopped by Ctrl-C");
        match said.ended {
            WaitOutcome::Exited(ended) if ended == code => Ok(said.text),
            WaitOutcome::Exited(ended) => astray(&format!("\"{line}\" exited {ended}, not {code}")),
            WaitOutcome::Signalled(signal) => astray(&format!("signal {signal} ended \"{line}\"")),
            WaitOutcome::TimedOut => astray(&format!("\"{line}\" took more than {PATIENCE:?}")),
        }
    }

    /// Types `agent COMMAND` for the machine of the story.
    fn agent(&self, command: &str, code: i32) -> Result<String> {
        self.types(&format!("agent --root gitrepo {command}"), code)
    }

    /// Types `line` and returns while it runs.
    fn begins(&self, line: &str) -> Result<crate::system::process::TypedLine> {
        self.prints(&format!("{line} &"))?;
        self.shell.start(line)
    }

    /// The output of `line`, for the demo's own checks; not printed.
    fn hears(&self, line: &str) -> Result<String> {
        let said = self.shell.start(line)?.finish(PATIENCE)?;
        match said.ended {
            WaitOutcome::Exited(0) => Ok(said.text.trim_end().to_owned()),
            _ => bail!("\"{line}\" failed: {}", said.text.trim().escape_controls()),
        }
    }

    /// Makes `script` the machines' script, commits it as `subject` and pushes it; returns the revision.
    fn push(&self, script: &str, subject: &str) -> Result<String> {
        self.types(&format!("echo '{script}' > {SCRIPT}"), 0)?;
        self.types(&format!("git -C desk add . && git -C desk commit -qm \"{subject}\""), 0)?;
        self.types("git -C desk push -q origin main", 0)?;
        self.revision()
    }

    /// The revision that was pushed last.
    fn revision(&self) -> Result<String> {
        self.hears("git -C desk rev-parse HEAD")
    }

    fn count_logs(&self) -> Result<String> {
        self.hears("ls gitrepo/.pmpy/log/ops | wc -l")
    }

    /// Fails unless the repository has this state and last deployed this revision with success, by `status`
    /// and by `lastaction.txt`.
    fn must_be(&self, state: State, acted: &str) -> Result<()> {
        // Exit code 1 means that a repository needs attention, which a step may expect.
        let json = self.hears("agent --root gitrepo status --json || [ $? = 1 ]")?;
        let status: MachineStatus =
            serde_json::from_str(&json).context("status --json is no status")?;
        let Some(row) = status.repositories.first() else { return astray("status lists nothing") };
        if row.state != state {
            let reason = row.reason.as_deref().unwrap_or("no reason given").escape_controls();
            return astray(&format!("ops should be {state}, and is {} ({reason})", row.state));
        }
        let record = self.shell.working_dir.join("gitrepo/ops/.temp/nodeinfo/lastaction.txt");
        let recorded = files::read_small(&record, 4096)?.unwrap_or_default();
        let recorded = String::from_utf8_lossy(&recorded);
        let known = row.acted.as_ref().map(|acted| acted.revision.to_string());
        if recorded != format!("{acted}\n") || known.as_deref() != Some(acted) {
            let recorded = recorded.escape_controls();
            return astray(&format!("{acted} should be the last one applied, not {recorded}"));
        }
        Ok(())
    }
}

/// The error of a step with an unexpected result.
fn astray<T>(what: &str) -> Result<T> {
    bail!(
        "the demo failed: {what}\n\
         hint: the cause is printed above; please report it"
    )
}
