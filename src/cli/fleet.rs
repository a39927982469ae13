//! The arguments of `agent fleet`. Nothing here acts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config;
use crate::domain::fleet::wait::Absence;
use crate::domain::fleet::{NamePattern, Verdict};

/// `fleet [REPO…] [--hosts GLOB] [--state STATE] [--json|--nagios|--html FILE] [--url URL]`, or
/// `fleet --wait REPO REVISION [--stable DURATION] [--timeout DURATION] [--ignore WHAT] [--in DIR]`, or
/// `fleet forget`. A repository called `forget` is shown by `fleet -- forget`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct FleetArgs {
    /// What to do, other than to look
    #[command(subcommand)]
    pub act: Option<FleetAct>,
    /// Only these repositories; names, or quoted patterns such as 'app*'
    #[arg(value_name = "REPO", value_parser = NamePattern::parse)]
    pub repos: Vec<NamePattern>,
    /// Only machines of this name or pattern; can be given several times
    #[arg(long, value_name = "GLOB", value_parser = NamePattern::parse)]
    pub hosts: Vec<NamePattern>,
    /// Only machines that count as this, such as failing or silent; can be given several times
    #[arg(long = "state", value_name = "STATE", value_parser = verdict, conflicts_with = "wait")]
    pub states: Vec<Verdict>,
    /// One JSON object
    #[arg(long, conflicts_with_all = ["nagios", "wait"])]
    pub json: bool,
    /// One line and an exit code for Nagios and its kin
    #[arg(long, conflicts_with = "wait")]
    pub nagios: bool,
    /// Write the page of the fleet to this file; - is the standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "nagios", "wait"])]
    pub html: Option<PathBuf>,
    /// Read this status repository rather than the configured one
    #[arg(long)]
    pub url: Option<String>,
    /// Wait until all these machines run this revision or a descendant; 1 as soon as one never will
    #[arg(long, num_args = 2, value_names = ["REPO", "REVISION"], conflicts_with = "repos")]
    pub wait: Vec<String>,
    /// Wait until they ran it, as they should, for this time
    #[arg(long, value_name = "DURATION", value_parser = config::duration, requires = "wait", default_value = "0s")]
    #[arg(hide_default_value = true)]
    pub stable: Duration,
    /// Wait no longer than this
    #[arg(long, value_name = "DURATION", value_parser = config::duration, requires = "wait", default_value = "2h")]
    pub timeout: Duration,
    /// Leave out machines that are held or silent, rather than to end with 1
    #[arg(long, value_name = "held,silent", value_parser = absence, value_delimiter = ',', requires = "wait")]
    pub ignore: Vec<Absence>,
    /// The clone that tells what descends from REVISION; by default the one around the current directory
    #[arg(long = "in", value_name = "DIR", requires = "wait")]
    pub clone: Option<PathBuf>,
}

impl FleetArgs {
    /// `--url`, of whatever is to be done.
    pub fn url(&self) -> Option<&str> {
        match &self.act {
            Some(FleetAct::Forget(args)) => args.url.as_deref(),
            None => self.url.as_deref(),
        }
    }
}

/// What `agent fleet` does, other than to look.
#[derive(Debug, Subcommand)]
pub enum FleetAct {
    /// Remove the branches of machines that are retired or renamed from the status repository
    Forget(FleetForgetArgs),
}

/// `fleet forget HOST…|--silent DURATION [--url URL] [--dry-run] [--yes]`
#[derive(Args, Debug)]
pub struct FleetForgetArgs {
    /// The machines: names, quoted patterns such as 'old*', or HOST/USER for what one user publishes
    #[arg(value_name = "HOST", value_parser = NamePattern::parse, required_unless_present = "silent")]
    pub hosts: Vec<NamePattern>,
    /// Those that gave no sign for at least this time, such as 14d
    #[arg(long, value_name = "DURATION", value_parser = config::duration, conflicts_with = "hosts")]
    pub silent: Option<Duration>,
    /// In this status repository rather than the configured one
    #[arg(long)]
    pub url: Option<String>,
    /// Only show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

fn verdict(text: &str) -> Result<Verdict, String> {
    Verdict::all().find(|verdict| verdict.as_str() == text).ok_or_else(|| {
        let words: Vec<_> = Verdict::all().map(Verdict::as_str).collect();
        format!(
            "nothing counts as {}\nhint: possible are {}",
            config::quoted(text),
            words.join(", ")
        )
    })
}

fn absence(text: &str) -> Result<Absence, String> {
    let found = Absence::ALL.into_iter().find(|absence| absence.as_str() == text);
    found.ok_or_else(|| {
        format!("{} cannot be left out\nhint: write held, silent or both", config::quoted(text))
    })
}
