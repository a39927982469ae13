//! `agent demo`: the life of a server in a temporary folder. Each step is a command that a person
//! could type, is really run, and has to lead where the story says: a demo that only prints would
//! show nothing.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::styling::{AnsiColor, Style};

use super::show;
use crate::domain::status::{State, Status};
use crate::exit::Code;
use crate::system::process::{Ended, Interrupt, Said, Shell};
use crate::system::scratch::Scratch;
use crate::system::{files, node};

/// How long one command may take on a slow machine before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every machine runs, in the story's repository.
const SCRIPT: &str = "desk/bin/work/common/work.sh";

/// `agent demo`
///
/// # Errors
/// When a step does not lead where it should, git is missing, or somebody stops it.
pub fn run() -> Result<Code> {
    let interrupt = Interrupt::watch()?;
    let scratch = Scratch::make("pmpy-demo")?;
    let told = Demo::at(scratch.path(), interrupt).and_then(|demo| story(&demo));
    let left = scratch.path().to_owned();
    if let Err(error) = scratch.remove() {
        let place = show::escaped(&left.display().to_string());
        show::print(&format!(
            "\n{place} stays behind ({error:#}); remove it with: rm -r {place}\n"
        ))?;
    }
    told.map(|()| Code::Fine)
}

/// The whole story, in its order.
fn story(demo: &Demo) -> Result<()> {
    let began = node::since_boot();
    demo.note(&format!(
        "Push-Me-Pull-You, from the first push on. All of it happens in {}, which is removed at the \
         end; nothing else on this machine is touched.",
        show::escaped(&demo.shell.folder.display().to_string())
    ))?;
    go_live(demo)?;
    follow(demo)?;
    fail_and_heal(demo)?;
    edit_by_hand(demo)?;
    hold(demo)?;
    kill(demo)?;
    go_back(demo)?;
    rewrite(demo)?;
    demo.tell("What this machine acted upon, newest first:")?;
    demo.agent("history", 0)?;
    let took = (node::since_boot() - began).as_secs_f64();
    demo.note(&format!(
        "That was all of it, in {}. On a real server, as root:",
        show::seconds(took)
    ))?;
    show::print(
        "  agent init /srv/git/ops.git --part web   this machine is live\n  \
           agent check                              is everything as it should be?\n  \
           agent status                             what runs here, since when, why not newer\n",
    )
}

fn go_live(demo: &Demo) -> Result<()> {
    demo.tell("A git server has a repository, with a script that every machine runs.")?;
    demo.types("git init -q --bare --initial-branch=main ops.git", 0)?;
    demo.types("git init -q --initial-branch=main desk", 0)?;
    demo.types("git -C desk remote add origin ../ops.git", 0)?;
    demo.types("mkdir -p desk/bin/work/common", 0)?;
    let first = demo.push("echo \"release 1 is live on $AGENT_HOST\"", "Release 1")?;
    demo.tell(
        "One command makes a machine live: it clones, runs the script, shows where it stands.",
    )?;
    demo.agent("init ops=$PWD/ops.git", 0)?;
    demo.must_be(State::Current, &first)?;
    demo.tell("What the script printed is kept.")?;
    demo.agent("log ops", 0)?;
    Ok(())
}

fn follow(demo: &Demo) -> Result<()> {
    demo.tell("Somebody pushes.")?;
    let second = demo.push("echo \"release 2 is live on $AGENT_HOST\"", "Release 2")?;
    demo.tell("Cron calls this each minute. It is silent when all went well.")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Current, &second)?;
    demo.tell("Nothing new: one question to the server, and nothing is done.")?;
    let before = demo.count_logs()?;
    demo.agent("tick", 0)?;
    ensure!(demo.count_logs()? == before, "a tick without news ran the scripts again");
    demo.must_be(State::Current, &second)
}

fn fail_and_heal(demo: &Demo) -> Result<()> {
    let good = demo.revision()?;
    demo.tell("A script that fails: the tick says so once, and cron mails it.")?;
    demo.push("echo \"no such table: bonkles\"; exit 1", "Release 3")?;
    demo.agent("tick", 1)?;
    demo.tell("The last good revision stays on record; the next try comes by itself.")?;
    demo.agent("status", 1)?;
    demo.must_be(State::Failing, &good)?;
    demo.tell("Nobody has to wait for that: a fix is acted upon at once.")?;
    let fixed = demo.push("echo \"release 4 is live on $AGENT_HOST\"", "Release 4, a fix")?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &fixed)
}

fn edit_by_hand(demo: &Demo) -> Result<()> {
    let good = demo.revision()?;
    let edited = "gitrepo/ops/bin/work/common/work.sh";
    demo.tell("Somebody edits a file on the server, and the next push changes the same file.")?;
    demo.types(&format!("echo \"# quick fix\" >> {edited}"), 0)?;
    let next = demo.push("echo \"release 5 is live on $AGENT_HOST\"", "Release 5")?;
    demo.tell("Nothing is touched, and it says which file is in the way.")?;
    demo.agent("tick", 1)?;
    demo.must_be(State::Dirty, &good)?;
    demo.types(&format!("tail -n 1 {edited}"), 0)?;
    demo.tell("Once the file is put back, the machine goes on.")?;
    demo.types("git -C gitrepo/ops checkout -q .", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &next)
}

fn hold(demo: &Demo) -> Result<()> {
    let before = demo.revision()?;
    demo.tell("Not now: a machine can be held, and everybody sees why.")?;
    demo.agent("hold ops \"database migration\"", 0)?;
    let held = demo.push("echo \"release 6 is live on $AGENT_HOST\"", "Release 6")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Held, &before)?;
    demo.tell("The migration is done.")?;
    demo.agent("unhold ops", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &held)
}

fn kill(demo: &Demo) -> Result<()> {
    let before = demo.revision()?;
    demo.tell("The power fails in the middle: this script waits half-way, where it is killed.")?;
    demo.types("mkfifo half-way", 0)?;
    // It names the worker and itself, and waits until it is killed; when it runs again there is
    // nobody to tell.
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
    demo.tell("The next tick finds out, cleans up, and runs it again to its end.")?;
    demo.agent("tick", 0)?;
    demo.agent("log ops", 0)?;
    demo.must_be(State::Current, &next)
}

fn go_back(demo: &Demo) -> Result<()> {
    let bad = demo.revision()?;
    let good = demo.hears("git -C desk rev-parse HEAD~1")?;
    demo.tell("Release 7 was a mistake. Going back needs no server and no push.")?;
    demo.agent("rollback ops", 0)?;
    demo.must_be(State::Pinned, &good)?;
    demo.tell("It stays there, whatever upstream has.")?;
    demo.agent("tick", 0)?;
    demo.agent("status", 0)?;
    demo.must_be(State::Pinned, &good)?;
    demo.tell("Until somebody lets it go on.")?;
    demo.agent("unhold ops", 0)?;
    demo.agent("tick", 0)?;
    demo.must_be(State::Current, &bad)
}

fn rewrite(demo: &Demo) -> Result<()> {
    let before = demo.revision()?;
    demo.tell("Somebody rewrites what was pushed. No machine follows that by itself.")?;
    demo.types("git -C desk commit -q --amend -m \"Release 7, rewritten\"", 0)?;
    demo.types("git -C desk push -q --force origin main", 0)?;
    let rewritten = demo.revision()?;
    demo.agent("tick", 1)?;
    demo.must_be(State::Rewritten, &before)?;
    demo.tell("It was meant: accept this one.")?;
    let short: String = rewritten.chars().take(12).collect();
    demo.agent(&format!("accept ops {short}"), 0)?;
    demo.must_be(State::Current, &rewritten)
}

/// The place of the story, and who types there.
struct Demo {
    shell: Shell,
    interrupt: Interrupt,
}

impl Demo {
    /// In `folder`, with nothing of the caller's environment but where programs are.
    fn at(folder: &Path, interrupt: Interrupt) -> Result<Self> {
        let mut env: Vec<(OsString, OsString)> = vec![
            ("HOME".into(), folder.into()),
            ("LANG".into(), "C.UTF-8".into()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()),
        ];
        for role in ["AUTHOR", "COMMITTER"] {
            env.push((format!("GIT_{role}_NAME").into(), "Pat Pusher".into()));
            env.push((format!("GIT_{role}_EMAIL").into(), "pat@example.org".into()));
        }
        env.extend(node::search_path().map(|path| ("PATH".into(), path)));
        env.extend(node::time_zone().map(|zone| ("TZ".into(), zone.into())));
        let demo = Self { shell: Shell { folder: folder.to_owned(), env }, interrupt };
        demo.hears("git --version").context(
            "the demo pushes with git, which is not there (the agent itself does without)\n\
             hint: apt-get install git",
        )?;
        Ok(demo)
    }

    /// What comes next, in one sentence.
    fn tell(&self, sentence: &str) -> Result<()> {
        ensure!(!self.interrupt.came(), "the demo was stopped by Ctrl-C");
        self.note(sentence)
    }

    fn note(&self, sentence: &str) -> Result<()> {
        let bold = Style::new().bold();
        show::print(&format!("\n{bold}{sentence}{bold:#}\n"))
    }

    /// A line as it stands behind the prompt.
    fn prints(&self, line: &str) -> Result<()> {
        let colour = AnsiColor::Cyan.on_default();
        show::print(&format!("{colour}$ {line}{colour:#}\n"))
    }

    fn shows(&self, said: &Said) -> Result<()> {
        let lines = said.text.lines().map(|line| format!("{}\n", show::escaped(line)));
        show::print(&lines.collect::<String>())
    }

    /// Types `line`, which has to end with `code`; returns what it printed.
    fn types(&self, line: &str, code: i32) -> Result<String> {
        self.prints(line)?;
        let said = self.shell.start(line)?.finish(PATIENCE)?;
        self.shows(&said)?;
        ensure!(!self.interrupt.came(), "the demo was stopped by Ctrl-C");
        match said.ended {
            Ended::Exited(ended) if ended == code => Ok(said.text),
            Ended::Exited(ended) => astray(&format!("\"{line}\" exited {ended}, not {code}")),
            Ended::Signalled(signal) => astray(&format!("signal {signal} ended \"{line}\"")),
            Ended::TimedOut => astray(&format!("\"{line}\" took more than {PATIENCE:?}")),
        }
    }

    /// Types `agent COMMAND` for the machine of the story.
    fn agent(&self, command: &str, code: i32) -> Result<String> {
        self.types(&format!("agent --root gitrepo {command}"), code)
    }

    /// Types `line` and goes on while it runs.
    fn begins(&self, line: &str) -> Result<crate::system::process::Typed> {
        self.prints(&format!("{line} &"))?;
        self.shell.start(line)
    }

    /// What `line` prints, for the demo's own eyes.
    fn hears(&self, line: &str) -> Result<String> {
        let said = self.shell.start(line)?.finish(PATIENCE)?;
        match said.ended {
            Ended::Exited(0) => Ok(said.text.trim_end().to_owned()),
            _ => bail!("\"{line}\" failed: {}", said.text.trim().escape_debug()),
        }
    }

    /// Makes `script` what machines run, commits that as `subject` and pushes it; the revision.
    fn push(&self, script: &str, subject: &str) -> Result<String> {
        self.types(&format!("echo '{script}' > {SCRIPT}"), 0)?;
        self.types(&format!("git -C desk add . && git -C desk commit -qm \"{subject}\""), 0)?;
        self.types("git -C desk push -q origin main", 0)?;
        self.revision()
    }

    /// What was pushed last.
    fn revision(&self) -> Result<String> {
        self.hears("git -C desk rev-parse HEAD")
    }

    fn count_logs(&self) -> Result<String> {
        self.hears("ls gitrepo/.pmpy/log/ops | wc -l")
    }

    /// The story goes on only where it should be: the repository's state, and the revision that
    /// it last acted upon with success, by `status` and by `lastaction.txt`.
    fn must_be(&self, state: State, acted: &str) -> Result<()> {
        // Trouble of the repository is a state here, and no reason to stop.
        let json = self.hears("agent --root gitrepo status --json || [ $? = 1 ]")?;
        let status: Status = serde_json::from_str(&json).context("status --json is no status")?;
        let Some(row) = status.repositories.first() else { return astray("status lists nothing") };
        if row.state != state {
            let reason = row.reason.as_deref().unwrap_or("no reason given").escape_debug();
            return astray(&format!("ops should be {state}, and is {} ({reason})", row.state));
        }
        let record = self.shell.folder.join("gitrepo/ops/.temp/nodeinfo/lastaction.txt");
        let recorded = files::read_small(&record, 4096)?.unwrap_or_default();
        let recorded = String::from_utf8_lossy(&recorded);
        let known = row.acted.as_ref().map(|acted| acted.revision.to_string());
        if recorded != format!("{acted}\n") || known.as_deref() != Some(acted) {
            let recorded = recorded.escape_debug();
            return astray(&format!("{acted} should be the last one acted upon, not {recorded}"));
        }
        Ok(())
    }
}

/// A step that did not lead where it should.
fn astray<T>(what: &str) -> Result<T> {
    bail!(
        "the demo went astray: {what}\n\
         hint: what led there is printed above; please report it"
    )
}
