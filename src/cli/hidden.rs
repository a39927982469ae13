//! The arguments of commands that no person types: how processes of ours start one another.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::domain::git::Commit;
use crate::domain::repository::action::Trigger;

/// `worker [REPO --trigger T …]`: the process that works on one repository. Without a name it is a tick's,
/// and its job comes over its standard output.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Its name
    pub repo: Option<String>,
    /// Why it works now
    #[arg(long, requires = "repo", default_value_t = Trigger::Manual)]
    pub trigger: Trigger,
    /// A person named the repository
    #[arg(long, requires = "repo")]
    pub named: bool,
    /// Apply the same revision again
    #[arg(long, requires = "repo")]
    pub redo: bool,
    /// Take this rewritten revision
    #[arg(long, value_name = "REVISION", conflicts_with = "redo", requires = "repo")]
    pub accept: Option<Commit>,
}

/// `helper --user NAME COMMAND`: how root does something as another user.
#[derive(Args, Debug)]
pub struct HelperArgs {
    /// Who to become
    #[arg(long)]
    pub user: String,
    /// What to do then: a command line of ours
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// `index-pack --largest BYTES DIR`: the process that takes in the pack in its standard input.
#[derive(Args, Debug)]
pub struct IndexPackArgs {
    /// Bytes of the largest object that may be made from another
    #[arg(long, value_name = "BYTES")]
    pub largest: u64,
    /// The git directory that it is for
    pub git_dir: PathBuf,
}

/// `pack-objects --into DIR DIR`: the process that reads a remote on this machine.
#[derive(Args, Debug)]
pub struct PackObjectsArgs {
    /// The git directory of the clone that the pack is for
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// The repository to read
    pub from: PathBuf,
}
