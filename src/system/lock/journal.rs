//! The journal of a run: its phase with all that recovery needs in that phase, and its reading, also of
//! the format of older agents. Does not know the other files of a run.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, ObjectFormat, RefName};
use crate::domain::repository::action::{Outcome, Trigger};
use crate::system::host;
use crate::system::pid::Process;
use crate::system::repo_state::ids::ContainsIds;
use crate::system::repo_state::{RepoRecords, is_newer};

/// Name of the journal's file.
pub(super) const JOURNAL: &str = "journal";
/// Format version of the journal. Format 1 is read as well: [`JournalV1`].
const FORMAT: u32 = 2;
/// Name of the file with the last phase of a run, next to the journal.
pub(super) const ENDED: &str = "ended";

/// Phase of a run, and all that is needed to repair it after a crash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Format version of the journal.
    pub format: u32,
    /// Id that every record of this run shares.
    pub id: String,
    /// Reason for the run.
    pub trigger: Trigger,
    /// Start of the run.
    pub since: DateTime<Utc>,
    /// Boot id of the run: after a reboot none of its processes is alive.
    pub boot_id: String,
    /// Worker process.
    pub worker: Process,
    /// Identity of the `currentaction.txt` that this run wrote; `None` in `Fetch` and `Before`.
    pub current: Option<FileIdentity>,
    /// Current phase of the run.
    #[serde(flatten)]
    pub phase: RunPhase,
}

/// Phase of a run, with its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum RunPhase {
    /// Fetches; the worktree and the branch are unchanged.
    Fetch,
    /// Asks `before`; nothing on the machine changed yet.
    Before {
        /// The revision that is asked about.
        revision: Commit,
        /// Running program.
        script: Option<RunningScript>,
    },
    /// Writes the worktree, the index and the branch. Recovery must complete it.
    Apply {
        /// Deployment that is applied.
        step: JournalStep,
    },
    /// Runs the scripts; the worktree and the branch are at the target.
    Run {
        /// Deployment whose scripts run.
        step: JournalStep,
        /// Running script; `None`: root's tick runs it for this worker.
        script: Option<RunningScript>,
        /// The scripts have ended; the health is checked.
        #[serde(default, skip_serializing_if = "is_false")]
        checks_health: bool,
        /// The other deployments whose health is checked at the same time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<RunningCheck>,
    },
    /// The scripts ended; their result is yet to be recorded.
    Done {
        /// Deployment whose scripts ended.
        step: JournalStep,
        /// Result of the scripts.
        ending: ScriptEnding,
    },
}

/// One of several health checks that run side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningCheck {
    /// Deployment whose health is checked.
    pub step: JournalStep,
    /// Running program; `None`: the next check is not due yet.
    pub script: Option<RunningScript>,
}

/// The deployment that a run makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalStep {
    /// The local branch that moves; where trees are published, the followed branch.
    pub branch: RefName,
    /// The followed branch, where its name is another one.
    #[serde(default)]
    pub followed: Option<RefName>,
    /// Full name of the ref, where each of several refs is deployed separately.
    #[serde(default)]
    pub reference: Option<String>,
    /// Short name of the tag by which the commit was chosen; `None`: by none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Commit before the deployment; `None` when there is none.
    pub head: Option<Commit>,
    /// Commit to deploy.
    pub target: Commit,
    /// Content of `lastaction.txt` before the deployment.
    pub previous: Option<Commit>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Whether an earlier run of the same revision was interrupted.
    pub resumed: bool,
    /// Name of the log file; `None` until a script runs.
    pub log: Option<String>,
    /// The revision to go back to if this one turns out bad; `None`: the machine stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<Commit>,
    /// The bad revision that this deployment leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<Commit>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(it: &bool) -> bool {
    !it
}

impl JournalStep {
    /// The branch that is followed.
    pub fn upstream(&self) -> &RefName {
        self.followed.as_ref().unwrap_or(&self.branch)
    }
}

/// A running script in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningScript {
    /// Process of the script.
    pub process: Process,
    /// Timeout of the script, as time since boot.
    pub deadline: Duration,
}

/// Result of the scripts in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScriptEnding {
    /// Outcome of the scripts.
    pub outcome: Outcome,
    /// Name of the script that failed; `None` when none did, or it is unknown.
    #[serde(default)]
    pub failed_script: Option<String>,
    /// Duration in seconds.
    pub seconds: f64,
    /// End of the last script.
    pub at: DateTime<Utc>,
}

/// Identity of our `currentaction.txt`, as distinct from another writer's file: a person's `echo` or
/// `touch` changes the time. Device and inode are left out because they change when a disk is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Seconds of the modification time.
    pub seconds: i64,
    /// Nanoseconds of the modification time.
    pub nanoseconds: i64,
    /// Content of the file.
    pub text: String,
}

impl Journal {
    /// The journal of this process's new run.
    pub(super) fn new(trigger: Trigger, boot_id: &str, now: DateTime<Utc>) -> Self {
        let worker = Process::current();
        Self {
            format: FORMAT,
            id: format!("{}-{}", now.format("%Y%m%dT%H%M%S%.9fZ"), worker.pid),
            trigger,
            since: now,
            boot_id: boot_id.to_owned(),
            worker,
            current: None,
            phase: RunPhase::Fetch,
        }
    }

    /// What a damaged journal is read as: a run that died while fetching.
    fn damaged() -> Self {
        Self {
            format: FORMAT,
            id: "damaged".to_owned(),
            trigger: Trigger::Cron,
            since: host::now(),
            boot_id: String::new(),
            worker: Process { pid: 0, start: 0 },
            current: None,
            phase: RunPhase::Fetch,
        }
    }

    fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        if is_newer(bytes, 1) {
            return serde_json::from_slice(bytes);
        }
        serde_json::from_slice(bytes).map(JournalV1::upgrade)
    }
}

impl RunPhase {
    /// The deployment; `None` in `Fetch` and `Before`.
    pub fn step(&self) -> Option<&JournalStep> {
        match self {
            Self::Fetch | Self::Before { .. } => None,
            Self::Apply { step } | Self::Run { step, .. } | Self::Done { step, .. } => Some(step),
        }
    }

    /// The deployments whose scripts run, or have run.
    pub fn steps(&self) -> impl Iterator<Item = &JournalStep> {
        self.step().into_iter().chain(self.others().iter().map(|other| &other.step))
    }

    /// The running scripts: mostly none or one.
    pub fn scripts(&self) -> impl Iterator<Item = RunningScript> {
        let script = match self {
            Self::Run { script, .. } | Self::Before { script, .. } => *script,
            _ => None,
        };
        script.into_iter().chain(self.others().iter().filter_map(|other| other.script))
    }

    fn others(&self) -> &[RunningCheck] {
        match self {
            Self::Run { others, .. } => others,
            _ => &[],
        }
    }
}

impl fmt::Display for RunPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch => "Fetch",
            Self::Before { .. } => "Before",
            Self::Apply { .. } => "Apply",
            Self::Run { .. } => "Run",
            Self::Done { .. } => "Done",
        })
    }
}

impl ContainsIds for Journal {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.phase.steps().all(|step| {
            let JournalStep { head, target, previous, way_back, leaves, .. } = step;
            let others = [head, previous, way_back, leaves];
            target.are_of(format) && others.iter().all(|it| it.are_of(format))
        })
    }
}

/// The journal in format 1, whose step has the data of every phase. A run of an older agent may have
/// died, or may still work, when this agent is installed.
#[derive(Deserialize)]
struct JournalV1 {
    id: String,
    phase: PhaseV1,
    trigger: Trigger,
    since: DateTime<Utc>,
    boot_id: String,
    worker: Process,
    step: Option<StepV1>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PhaseV1 {
    Fetch,
    Apply,
    Run,
    Done,
}

#[derive(Deserialize)]
struct StepV1 {
    #[serde(flatten)]
    step: JournalStep,
    current: Option<FileIdentity>,
    script: Option<RunningScript>,
    culprit: Option<String>,
    ended: Option<ScriptEnding>,
}

impl JournalV1 {
    fn upgrade(self) -> Journal {
        let (current, phase) = match self.step {
            None => (None, RunPhase::Fetch),
            Some(StepV1 { step, current, script, culprit, ended }) => {
                let phase = match (self.phase, ended) {
                    (PhaseV1::Fetch, _) => RunPhase::Fetch,
                    (PhaseV1::Apply, _) => RunPhase::Apply { step },
                    (PhaseV1::Done, Some(ended)) => RunPhase::Done {
                        step,
                        ending: ScriptEnding { failed_script: culprit, ..ended },
                    },
                    (PhaseV1::Run | PhaseV1::Done, _) => {
                        RunPhase::Run { step, script, checks_health: false, others: Vec::new() }
                    }
                };
                (current, phase)
            }
        };
        let Self { id, trigger, since, boot_id, worker, .. } = self;
        Journal { format: FORMAT, id, trigger, since, boot_id, worker, current, phase }
    }
}

/// Reads the journal of a running or dead run; `None` when there is none.
///
/// # Errors
/// When it is not a regular file, or a newer agent wrote it. A damaged one counts as a run that died
/// while fetching: the lock, not the journal, keeps runs apart.
pub fn journal(records: &RepoRecords) -> Result<Option<Journal>> {
    let path = records.private.join(JOURNAL);
    let Some(bytes) = records.read(JOURNAL)? else { return Ok(None) };
    if is_newer(&bytes, FORMAT) {
        bail!("{} was written by a newer agent\nhint: let that one finish its run", path.display());
    }
    let found = Journal::parse(&bytes).map_err(Into::into);
    let found = found.and_then(|journal| records.belonging(journal));
    let found = found.unwrap_or_else(|_: anyhow::Error| Journal::damaged());
    Ok(Some(ended(records, &found)?.unwrap_or(found)))
}

/// The last phase of the run of `journal`; `None`: it was not reached, or a power cut took what was written
/// about it.
///
/// # Errors
/// When it is there and cannot be read: then the scripts must not run again.
fn ended(records: &RepoRecords, journal: &Journal) -> Result<Option<Journal>> {
    let Some(bytes) = records.read(ENDED)? else { return Ok(None) };
    let ended = Journal::parse(&bytes).map_err(Into::into);
    let ended = ended.and_then(|ended| records.belonging(ended));
    Ok(ended.ok().filter(|ended| ended.id == journal.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::files;
    use crate::system::lock::CurrentAction;

    /// The journal of an agent that has format 1, when a script has failed. `PHASE` is the phase.
    const OLDER: &str = r#"{"format":1,"id":"20261122T090000.718092508Z-2883","phase":"PHASE",
        "trigger":"cron","since":"2026-11-22T09:00:00.718092508Z","boot_id":"boot",
        "worker":{"pid":2883,"start":2867471},"step":{"branch":"main",
        "reference":"refs/heads/main","head":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "target":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","previous":null,"attempt":2,
        "resumed":true,"current":{"seconds":1795914830,"nanoseconds":876846447,"text":"bb\n"},
        "script":{"process":{"pid":2892,"start":2867499},"deadline":{"secs":32274,"nanos":9}},
        "culprit":"work.sh","log":"a.log","ended":{"outcome":{"kind":"failed","code":3},
        "seconds":0.5,"at":"2026-11-22T09:00:01Z"}}}"#;

    fn read_older(phase: &str) -> Journal {
        Journal::parse(OLDER.replace("PHASE", phase).as_bytes()).unwrap()
    }

    #[test]
    fn the_journal_of_an_older_agent_keeps_the_data_of_its_phase() {
        let step = JournalStep {
            branch: "main".parse().unwrap(),
            followed: None,
            reference: Some("refs/heads/main".to_owned()),
            tag: None,
            head: Some("a".repeat(40).parse().unwrap()),
            target: "b".repeat(40).parse().unwrap(),
            previous: None,
            attempt: 2,
            resumed: true,
            log: Some("a.log".to_owned()),
            way_back: None,
            leaves: None,
        };
        let script = Some(RunningScript {
            process: Process { pid: 2892, start: 2_867_499 },
            deadline: Duration::new(32_274, 9),
        });
        let ending = ScriptEnding {
            outcome: Outcome::Failed { code: 3 },
            failed_script: Some("work.sh".to_owned()),
            seconds: 0.5,
            at: "2026-11-22T09:00:01Z".parse().unwrap(),
        };
        let current = Some(FileIdentity {
            seconds: 1_795_914_830,
            nanoseconds: 876_846_447,
            text: "bb\n".to_owned(),
        });
        let phases = [
            ("fetch", RunPhase::Fetch),
            ("apply", RunPhase::Apply { step: step.clone() }),
            (
                "run",
                RunPhase::Run {
                    step: step.clone(),
                    script,
                    checks_health: false,
                    others: Vec::new(),
                },
            ),
            ("done", RunPhase::Done { step, ending }),
        ];
        for (word, phase) in phases {
            let journal = read_older(word);
            assert_eq!(journal.phase, phase);
            assert_eq!(journal.current, current);
            assert_eq!(journal.id, "20261122T090000.718092508Z-2883");
            assert_eq!(journal.worker, Process { pid: 2883, start: 2_867_471 });
            // In the present format it is read as it was written.
            let written = serde_json::to_vec(&journal).unwrap();
            assert_eq!(Journal::parse(&written).unwrap(), journal);
        }
    }

    #[test]
    fn the_end_of_a_run_counts_where_it_is_whole_and_of_that_run() {
        let dir = tempfile::tempdir().unwrap();
        let records = RepoRecords::of(dir.path(), dir.path());
        std::fs::create_dir(&records.private).unwrap();
        let put = |name: &str, bytes: &[u8]| {
            files::put(&records.private, name, bytes, 0o600).unwrap();
        };
        let (running, done) = (read_older("run"), read_older("done"));
        put(JOURNAL, &serde_json::to_vec(&running).unwrap());
        assert_eq!(journal(&records).unwrap().as_ref(), Some(&running));
        let whole = serde_json::to_vec(&done).unwrap();
        put(ENDED, &whole);
        assert_eq!(journal(&records).unwrap().as_ref(), Some(&done));
        let of_another = Journal { id: "another".to_owned(), ..done };
        for taken in [&[][..], &whole[..whole.len() / 2], &serde_json::to_vec(&of_another).unwrap()]
        {
            put(ENDED, taken);
            assert_eq!(journal(&records).unwrap().as_ref(), Some(&running));
        }
    }

    #[test]
    fn our_own_current_action_is_known_although_a_power_cut_took_its_content() {
        let run = read_older("run");
        let ours = run.current.clone().unwrap();
        let found = |text: &str, seconds: i64| CurrentAction {
            identity: Some(FileIdentity { text: text.to_owned(), seconds, nanoseconds: 0 }),
            text: text.to_owned(),
            uid: 0,
            since: host::now(),
        };
        assert!(found("", ours.seconds).is_of(&run));
        assert!(!found("stop", ours.seconds).is_of(&run), "a person wrote it");
        assert!(!found("", ours.seconds + 60).is_of(&run), "a person touched it later");
        let of_this_boot = Journal { boot_id: host::boot_id(), ..run };
        assert!(!found("", ours.seconds).is_of(&of_this_boot), "there was no power cut");
    }
}
