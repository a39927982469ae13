//! The command line: what can be typed, and its help. Nothing here acts; arguments are judged by
//! the grammar of the configuration.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config;
use crate::domain::git::Commit;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::hold::HoldEnd;
use crate::system::git::libgit2_version;

mod fleet;
pub mod help;
mod hidden;

pub use fleet::{FleetAct, FleetArgs, FleetForgetArgs};
pub use hidden::{HelperArgs, IndexPackArgs, PackObjectsArgs, WorkerArgs};

/// Who builds a package says of which commit it is; a tarball does not know.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("PMPY_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map_or_else(String::new, |commit| format!("commit {commit}, "));
    format!(
        "{} ({commit}{}, {LIBC}, libgit2 {})",
        env!("CARGO_PKG_VERSION"),
        env!("PMPY_TARGET"),
        libgit2_version()
    )
});

/// The C library of this build.
const LIBC: &str = match (cfg!(target_env = "gnu"), cfg!(target_feature = "crt-static")) {
    (true, _) => "glibc",
    (false, true) => "static musl",
    (false, false) => "musl",
};

/// Pulls this machine's git repositories and applies each new revision, once.
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version = VERSION.as_str(),
    arg_required_else_help = true,
    after_help = "\
Examples:
  agent init /srv/git/ops.git --part web  make this machine live
  agent status                            what runs here, and why
  agent tick                              poll once, apply what is new
  agent log ops                           what the last action printed
  agent rollback ops                      back to the last good revision
  agent hold --all --until 2h             apply nothing for two hours

Exit codes: 0 fine, 1 something needs attention, 2 wrong usage or configuration, 70 a bug."
)]
pub struct Cli {
    /// Options that go with every command
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Options that go with every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options for every command")]
pub struct GlobalArgs {
    /// Read this file instead of the usual agent.toml and agent.d
    #[arg(long, global = true, env = "AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Use DIR as a self-contained instance, with all else in DIR/.pmpy
    #[arg(long, global = true, env = "AGENT_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Log what is being done
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// How the log on stderr is written
    #[arg(long, global = true, value_name = "text|json", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub log_format: LogFormat,
}

/// How the log on stderr is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object for each line
    Json,
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine live: configure, clone, run the scripts once, print the status
    Init(Box<InitArgs>),
    /// Poll every repository once, and apply new revisions
    Tick(TickArgs),
    /// Keep running, and tick at messages, web hooks and a timer
    Listen,
    /// Show the applied revision of each repository, since when, and why it is not newer
    Status(StatusArgs),
    /// Explain the current state of a repository and the next step
    Explain(ExplainArgs),
    /// Show how the files here differ from the applied revision, as git would
    Diff(DiffArgs),
    /// List what this machine applied and what people did to it, newest first
    History(HistoryArgs),
    /// Print what the last actions printed
    Log(LogArgs),
    /// Apply the same revision again now
    Redo(RedoArgs),
    /// Go back to the last good revision, run its scripts, and stay there until unhold
    Rollback(RollbackArgs),
    /// Put a branch, tag or revision into its target, or into a directory, now
    Checkout(CheckoutArgs),
    /// Stop applying revisions, until unhold or a time
    Hold(HoldArgs),
    /// Lift the caller's holds and pin, and say what is applied next
    Unhold(UnholdArgs),
    /// Take one rewritten upstream revision that was refused
    Accept(AcceptArgs),
    /// Stop working on a repository, and on request remove what belongs to it
    Forget(ForgetArgs),
    /// Install, show or remove the schedule of ticks
    Schedule(ScheduleArgs),
    /// Check configuration, remotes and permissions: a verdict each, and what to do
    Check(CheckArgs),
    /// Announce a push on the message bus: the post-receive hook of a git server
    Notify(NotifyArgs),
    /// Show what every machine runs, as the machines publish it; wait until all run a revision
    Fleet(Box<FleetArgs>),
    /// Show the whole story in a temporary directory, in seconds
    Demo,
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(ManArgs),
    /// Work on one repository
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Become another user and do what root asks for there
    #[command(hide = true)]
    Helper(HelperArgs),
    /// Answer what a helper was sent out for
    #[command(hide = true)]
    HelperRequest,
    /// Take in a pack
    #[command(hide = true)]
    IndexPack(IndexPackArgs),
    /// Make a pack of what a clone lacks
    #[command(hide = true)]
    PackObjects(PackObjectsArgs),
    /// Publish what a tick found
    #[command(hide = true)]
    PublishPresence,
    /// Run the program of on_change where other machines changed
    #[command(hide = true)]
    ReactToPresence,
}

/// `init [NAME=]URL… [--branch B] [--key FILE] [--known-hosts FILE] [--username U] [--password-file FILE]
/// [--ca-file FILE] [--allowed-signers FILE] [--since COMMIT] [--presence URL [--presence-key FILE]] [--part P] [--stack S]
/// [--schedule HOW] [--again]`
#[derive(Args, Debug)]
pub struct InitArgs {
    // Judged by the command: what clap refuses it prints, and this may hold a password.
    /// Where the repositories come from; NAME is the address's last part unless given
    #[arg(required = true, value_name = "[NAME=]URL")]
    pub repos: Vec<String>,
    /// Follow this branch; {part}, {stack} and {host} are filled in
    #[arg(long, value_parser = config::branch)]
    pub branch: Option<String>,
    /// The key for ssh; the user's own OpenSSH set-up decides by default
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The known_hosts file for ssh; the user's own OpenSSH set-up decides by default
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,
    /// The user name for https
    #[arg(long, value_name = "USER")]
    pub username: Option<String>,
    /// The file that holds the password or token for https; others must not be able to read it
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The certificates of the authorities to trust for https; the system's by default
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The keys of those who may sign: only what they signed is applied
    #[arg(long, value_name = "FILE")]
    pub allowed_signers: Option<PathBuf>,
    /// The whole id of a commit that the first revision must descend from, signed all the way
    #[arg(long, value_name = "COMMIT", value_parser = config::revision)]
    pub since: Option<Commit>,
    // Judged by the command, as the repositories.
    /// Publish the status in this git repository, with --known-hosts and --ca-file as they are given here
    #[arg(long, value_name = "URL")]
    pub presence: Option<String>,
    /// The key for ssh that may write there, and is for nothing else
    #[arg(long, value_name = "FILE", requires = "presence")]
    pub presence_key: Option<PathBuf>,
    /// Which part this machine is, such as "web"
    #[arg(long, value_parser = config::token)]
    pub part: Option<String>,
    /// Which stack this machine belongs to, such as "shop-v2"
    #[arg(long, value_parser = config::token)]
    pub stack: Option<String>,
    /// What is installed to call the tick; by default cron, for root
    #[arg(long, value_name = "cron|systemd|none", hide_possible_values = true)]
    pub schedule: Option<ScheduleKind>,
    /// Run the init scripts of an existing clone again
    #[arg(long)]
    pub again: bool,
}

/// What calls the tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScheduleKind {
    /// A line in a crontab: /etc/cron.d/pmpy for root, for others their own
    Cron,
    /// A service that stays up: pmpy.service
    Systemd,
    /// Nothing
    None,
}

/// `schedule [cron|systemd|none] [--replace] [--print]`
#[derive(Args, Debug)]
pub struct ScheduleArgs {
    /// What is to call the tick; without it, what does is shown
    #[arg(value_name = "cron|systemd|none")]
    pub how: Option<ScheduleKind>,
    /// Comment out crontab lines that pull the same repositories
    #[arg(long, conflicts_with = "print", requires = "how")]
    pub replace: bool,
    /// Only print the file that would be installed; for "none", where what is installed lies
    #[arg(long, requires = "how")]
    pub print: bool,
}

/// `tick [REPO…] [--splay DURATION] [--dry-run] [--wait [--timeout DURATION]] [--trigger T]`
#[derive(Args, Debug)]
pub struct TickArgs {
    /// Only these repositories (names or patterns), and without waiting for a failed one's next try
    #[arg(value_name = "REPO")]
    pub repos: Vec<String>,
    /// First sleep for a fixed, per-machine share of this time
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub splay: Option<Duration>,
    /// Ask the remotes, fetch nothing, and print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Wait for a repository that is busy
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "DURATION", value_parser = config::duration, requires = "wait")]
    pub timeout: Option<Duration>,
    /// Apply the newest revision now, whatever window, min_age and rollout say; recorded with this reason
    #[arg(
        long = "override",
        value_name = "REASON",
        requires = "repos",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub override_reason: Option<String>,
    /// The trigger that scripts and records get
    #[arg(long)]
    pub trigger: Option<Trigger>,
}

/// `status [REPO…] [--problems] [-w] [--json|--oneline|--nagios]`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only these repositories; names, or quoted patterns such as 'app*'
    #[arg(value_name = "REPO")]
    pub repos: Vec<String>,
    /// List only what is not as it should be
    #[arg(long, conflicts_with_all = ["json", "oneline", "nagios"])]
    pub problems: bool,
    /// Show it again every two seconds, until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["json", "oneline", "nagios"])]
    pub watch: bool,
    /// How it is written
    #[command(flatten)]
    pub form: StatusForm,
}

/// At most one of the forms besides the table.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct StatusForm {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// One line for the whole machine
    #[arg(long)]
    pub oneline: bool,
    /// One line and an exit code for Nagios and its kin
    #[arg(long)]
    pub nagios: bool,
}

/// `explain REPO [REVISION]`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Its name, as in status
    pub repo: String,
    /// Whether this one is here, and if not, why
    pub revision: Option<String>,
}

/// `diff REPO`
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Its name, as in status
    pub repo: String,
}

/// `history [REPO] [-n N] [--json]`
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Only this repository
    pub repo: Option<String>,
    /// How many to list
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = config::count)]
    pub count: usize,
    /// One JSON array, newest first
    #[arg(long)]
    pub json: bool,
}

/// `log REPO [-n N] [-f]`
#[derive(Args, Debug)]
pub struct LogArgs {
    /// Its name, as in status
    pub repo: String,
    /// How many actions to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = config::count)]
    pub count: usize,
    /// Keep printing what a running action writes
    #[arg(short, long)]
    pub follow: bool,
}

/// `redo REPO`
#[derive(Args, Debug)]
pub struct RedoArgs {
    /// Its name, as in status
    pub repo: String,
}

/// `rollback REPO [REVISION]`
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// Its name, as in status
    pub repo: String,
    /// Go to this one instead
    pub revision: Option<String>,
}

/// `checkout REPO REF [--to DIR]`
#[derive(Args, Debug)]
pub struct CheckoutArgs {
    /// Its name, as in status
    pub repo: String,
    /// A branch, a tag or a revision
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Into this directory, which becomes a link, instead of the repository's target
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// `hold [REPO|--all] [REASON] [--until WHEN]`
#[derive(Args, Debug)]
#[command(override_usage = "agent hold [REPO|--all] [REASON] [--until WHEN]")]
pub struct HoldArgs {
    /// Which repository, and why it is to stop; after --all only why
    #[arg(value_names = ["REPO", "REASON"], num_args = 0..)]
    words: Vec<String>,
    /// Every repository
    #[arg(long)]
    pub all: bool,
    /// End the hold then: 2h, 14:30 (the next such time), 2026-12-24 or 2026-12-24T18:00, local time
    #[arg(long, value_name = "WHEN", value_parser = hold_end)]
    pub until: Option<HoldEnd>,
}

fn hold_end(text: &str) -> Result<HoldEnd, String> {
    if let Some(end) = HoldEnd::parse_moment(text) {
        return Ok(end);
    }
    config::positive_duration(text).map(HoldEnd::After).map_err(|error| {
        let sentence = error.lines().next().unwrap_or_default();
        format!(
            "{sentence}\nhint: write a number and its unit, such as \"2h\", a time such as \"14:30\", or a day such \
             as \"2026-12-24\" or \"2026-12-24T18:00\""
        )
    })
}

impl HoldArgs {
    /// Which repository is to stop; `None` with `--all`, or when none is named.
    pub fn repo(&self) -> Option<&str> {
        self.words.first().filter(|_| !self.all).map(String::as_str)
    }

    /// Why. Somebody in a hurry leaves out the quotes: all further words belong to it.
    pub fn reason(&self) -> Option<String> {
        let reason = if self.all { self.words.as_slice() } else { self.words.get(1..)? };
        (!reason.is_empty()).then(|| reason.join(" "))
    }
}

/// `unhold [REPO|--all] [N|--everybody]`
#[derive(Args, Debug)]
#[command(override_usage = "agent unhold [REPO [N|--everybody]|--all]")]
pub struct UnholdArgs {
    /// Its name, as in status
    #[arg(conflicts_with = "all")]
    pub repo: Option<String>,
    /// Only the hold with this number; without it, what the caller set
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
    /// The holds and the pin of everybody
    #[arg(long, conflicts_with_all = ["all", "number"])]
    pub everybody: bool,
    /// What hold --all set, in every repository
    #[arg(long)]
    pub all: bool,
}

/// `accept REPO REVISION [REASON]`
#[derive(Args, Debug)]
pub struct AcceptArgs {
    /// Its name, as in status
    pub repo: String,
    /// The revision, as status prints it
    pub revision: String,
    /// Why, for the history
    #[arg(value_name = "REASON")]
    words: Vec<String>,
}

impl AcceptArgs {
    /// Why. All words belong to it.
    pub fn reason(&self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.join(" "))
    }
}

/// `forget REPO [--purge]`
#[derive(Args, Debug)]
pub struct ForgetArgs {
    /// Its name, as in status
    pub repo: String,
    /// Also remove its clone, targets, releases, state and logs, after a question
    #[arg(long)]
    pub purge: bool,
    /// Do not ask
    #[arg(long, requires = "purge")]
    pub yes: bool,
}

/// `check [--offline]`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Leave out what needs the network
    #[arg(long)]
    pub offline: bool,
}

/// `notify [--name NAME]`
#[derive(Args, Clone, Debug)]
pub struct NotifyArgs {
    /// What the repository is called in messages, when that is neither its name in gitolite nor that
    /// of its directory
    #[arg(long)]
    pub name: Option<String>,
}

/// `completions SHELL`, or `completions --names`
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(required_unless_present = "names")]
    pub shell: Option<Shell>,
    /// Print the names of the repositories instead, a line each
    #[arg(long, conflicts_with = "shell")]
    pub names: bool,
}

/// `man DIR`
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The directory
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_hold_takes_its_reason_without_quotes_and_needs_no_repository_with_all() {
        for (line, repo, reason) in [
            ("agent hold", None, None),
            ("agent hold spog", Some("spog"), None),
            ("agent hold spog db migration --until 2h", Some("spog"), Some("db migration")),
            ("agent hold --all db migration", None, Some("db migration")),
            ("agent hold --all", None, None),
        ] {
            let Ok(Command::Hold(hold)) = parsed(line) else { panic!("{line}") };
            assert_eq!(hold.repo(), repo, "{line}");
            assert_eq!(hold.reason().as_deref(), reason, "{line}");
        }
    }

    #[test]
    fn contradictions_and_bad_values_are_wrong_usage() {
        for line in [
            "agent",
            "agent -v -q tick",
            "agent status --json --nagios",
            "agent unhold spog --all",
            "agent tick --splay 20",
            "agent tick --trigger moon",
            "agent hold spog --until 0s",
            "agent init",
            "agent init /srv/a.git --part ../x",
            "agent init /srv/a.git --branch a..b",
        ] {
            assert_eq!(parsed(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn options_for_every_command_may_stand_behind_it() {
        let line = "agent status -v --root /srv/w --log-format json";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(cli.global.verbose);
        assert_eq!(cli.global.root, Some(PathBuf::from("/srv/w")));
        assert_eq!(cli.global.log_format, LogFormat::Json);
    }
}
