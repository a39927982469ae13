//! What the machines of a fleet publish of themselves, as one reader sees it: who runs what, who is silent, and what
//! needs a person. Knows no remote and no file.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::git::Commit;
use super::report::presence::{Presence, PresenceRef, PresenceRow, PresenceState};
use super::repository::gate::{Gate, GateWait};
use super::repository::state::{Condition, Severity, State, Tone};

pub mod forget;
pub mod reaction;
pub mod wait;

/// After this time without a sign a machine no longer counts for the exit code: it is retired, and its ref was forgotten.
const RETIRED: Duration = Duration::days(14);

/// What a reader keeps of one ref between two looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// The commit at which the ref is.
    pub id: Commit,
    /// When this reader saw the ref for the first time.
    pub first_seen: DateTime<Utc>,
    /// When this reader found it moved since the look before; `None`: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<DateTime<Utc>>,
    /// What the commit says.
    pub said: Said,
}

/// What a commit in the status repository says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The state of the machine.
    Presence(Box<Presence>),
    /// Nothing that can be read, and why.
    Unreadable(String),
}

/// One machine, or one user's world on it, at a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its ref.
    pub name: PresenceRef,
    /// What is known of it.
    pub sighting: Sighting,
}

/// How long a machine gave no sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Silence {
    /// The last sign.
    pub since: DateTime<Utc>,
    /// Whose clock says that.
    pub clock: SignClock,
}

/// The clock by which a sign has its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignClock {
    /// The reader's: it saw the ref before.
    Reader,
    /// The machine's own, which may be wrong.
    Machine,
}

/// What a machine counts as: the word in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Two machines publish under one name.
    Contested,
    /// What it published cannot be read.
    Unreadable,
    /// It gave no sign for longer than twice the time that it promised.
    Silent,
    /// The state of the repository that needs a person most.
    In(State),
    /// Its state is one that only a newer agent has.
    Unknown,
    /// It has no repository, or none of those that were asked for.
    Empty,
}

impl Verdict {
    /// The word for people, JSON and `--state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contested => "contested",
            Self::Unreadable => "unreadable",
            Self::Silent => "silent",
            Self::In(state) => state.as_str(),
            Self::Unknown => "unknown",
            Self::Empty => "empty",
        }
    }

    /// Every verdict, for the words that `--state` takes.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [Self::Contested, Self::Unreadable, Self::Silent, Self::Unknown, Self::Empty];
        others.into_iter().chain(State::ALL.map(Self::In))
    }
}

/// Which machines and repositories somebody asks for.
#[derive(Clone, Debug, Default)]
pub struct FleetFilter {
    /// Only repositories of these names or patterns; empty: all.
    pub repos: Vec<NamePattern>,
    /// Only machines of these names or patterns; empty: all.
    pub hosts: Vec<NamePattern>,
    /// Only machines with one of these verdicts; empty: all.
    pub verdicts: BTreeSet<Verdict>,
}

/// A name, or a pattern with `*`, `?` and `[…]`.
#[derive(Clone, Debug)]
pub struct NamePattern {
    text: String,
    /// `None`: only the name itself counts.
    matcher: Option<GlobMatcher>,
}

impl NamePattern {
    /// Reads a name or a pattern.
    ///
    /// # Errors
    /// When it is no pattern; says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let matcher = GlobBuilder::new(text).build().map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), matcher: Some(matcher.compile_matcher()) })
    }

    /// Selects only what is called `text`.
    pub fn exactly(text: &str) -> Self {
        Self { text: text.to_owned(), matcher: None }
    }

    /// What was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it can select one name only.
    pub fn is_name(&self) -> bool {
        self.matcher.is_none() || !self.text.contains(['*', '?', '[', '{', '\\'])
    }

    fn selects(&self, name: &str) -> bool {
        self.text == name || self.matcher.as_ref().is_some_and(|it| it.is_match(name))
    }
}

impl FleetFilter {
    fn has_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|one| one.selects(host))
    }

    fn has_repo(&self, repo: &str) -> bool {
        self.repos.is_empty() || self.repos.iter().any(|one| one.selects(repo))
    }

    /// The names and patterns that select nothing of `members`, hosts first.
    pub fn idle<'a>(&'a self, members: &[Member]) -> Vec<&'a str> {
        let hosts = self.hosts.iter();
        let hosts = hosts.filter(|one| !members.iter().any(|it| one.selects(it.name.host())));
        let repos = self
            .repos
            .iter()
            .filter(|one| !members.iter().flat_map(Member::rows).any(|row| one.selects(&row.name)));
        hosts.chain(repos).map(NamePattern::as_str).collect()
    }
}

/// The machines of a look, judged at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// The moment, by the reader's clock.
    pub at: DateTime<Utc>,
    /// The machines, the worst first.
    pub machines: Vec<JudgedMember>,
}

/// One machine with what it counts as.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedMember {
    /// The machine, without its repositories.
    pub member: Member,
    /// The selected repositories, the worst first.
    pub rows: Vec<PresenceRow>,
    /// What it counts as.
    pub verdict: Verdict,
    /// How long it gave no sign; `None`: it is not silent.
    pub silence: Option<Silence>,
    /// What that means to a person.
    pub tone: Tone,
    /// What monitoring makes of it.
    pub severity: Severity,
}

impl Member {
    /// What it published; `None`: it cannot be read.
    pub fn presence(&self) -> Option<&Presence> {
        match &self.sighting.said {
            Said::Presence(presence) => Some(presence),
            Said::Unreadable(_) => None,
        }
    }

    fn rows(&self) -> impl Iterator<Item = &PresenceRow> {
        self.presence().into_iter().flat_map(|it| &it.repositories)
    }

    /// How long it gave no sign at `now`: for more than twice the time after which it promised one. By the reader's
    /// clock where the reader saw enough of it, else by the machine's own.
    pub fn silence(&self, now: DateTime<Utc>) -> Option<Silence> {
        let presence = self.presence()?;
        let patience = i64::try_from(presence.every).ok()?.checked_mul(2)?;
        let patience = Duration::try_seconds(patience).filter(|it| !it.is_zero())?;
        let seen = self.sighting.moved.unwrap_or(self.sighting.first_seen);
        if now - seen > patience {
            let claimed = presence.at.min(self.sighting.first_seen);
            let since = self.sighting.moved.unwrap_or(claimed);
            return Some(Silence { since, clock: SignClock::Reader });
        }
        let is_old = self.sighting.moved.is_none() && now - presence.at > patience;
        is_old.then_some(Silence { since: presence.at, clock: SignClock::Machine })
    }
}

impl JudgedMember {
    fn of(mut member: Member, filter: &FleetFilter, now: DateTime<Utc>) -> Self {
        let mut rows = match &mut member.sighting.said {
            Said::Presence(presence) => std::mem::take(&mut presence.repositories),
            Said::Unreadable(_) => Vec::new(),
        };
        rows.retain(|row| filter.has_repo(&row.name));
        rows.sort_by_cached_key(|row| (row.tone(now), row.state.clone(), row.name.clone()));
        let silence = member.silence(now);
        let (verdict, tone, severity) = match (member.presence(), &silence, rows.first()) {
            (None, ..) => (Verdict::Unreadable, Tone::Bad, Severity::Warning),
            (Some(it), ..) if it.contested.is_some() => {
                (Verdict::Contested, Tone::Bad, Severity::Critical)
            }
            (_, Some(silence), _) if now - silence.since > RETIRED => {
                (Verdict::Silent, Tone::Dim, Severity::Ok)
            }
            (_, Some(_), _) => (Verdict::Silent, Tone::Bad, Severity::Critical),
            (.., Some(worst)) => {
                let severity = rows.iter().map(|row| row.severity(now)).max();
                let verdict = worst.state.known().map_or(Verdict::Unknown, Verdict::In);
                (verdict, worst.tone(now), severity.unwrap_or(Severity::Ok))
            }
            (.., None) => (Verdict::Empty, Tone::Dim, Severity::Ok),
        };
        Self { member, rows, verdict, silence, tone, severity }
    }

    /// Whether it makes the exit code 1.
    pub fn needs_attention(&self) -> bool {
        self.tone == Tone::Bad
    }
}

impl PresenceRow {
    /// The state as a condition of a repository here; `None`: only a newer agent has it. Attempts are not published.
    fn condition(&self) -> Option<Condition> {
        Some(Condition { gate: self.gate_wait(), ..Condition::new(self.state.known()?) })
    }

    /// The gate that is shut, as one of a repository here; `None`: none is, or only a newer agent has it.
    pub fn gate_wait(&self) -> Option<GateWait> {
        let published = self.gate.as_ref()?;
        let gate = *Gate::ALL.iter().find(|gate| gate.as_str() == published.gate)?;
        Some(GateWait { gate, reason: published.reason.clone(), until: published.until })
    }

    /// What the state means to a person.
    pub fn tone(&self, now: DateTime<Utc>) -> Tone {
        match self.condition() {
            None => Tone::Open,
            Some(it) if it.needs_attention(self.since.unwrap_or(now), now) => Tone::Bad,
            Some(it) => it.state.tone(),
        }
    }

    /// What monitoring makes of it.
    fn severity(&self, now: DateTime<Utc>) -> Severity {
        let severity = |it: Condition| it.severity(self.since.unwrap_or(now), now);
        self.condition().map_or(Severity::Warning, severity)
    }
}

impl Fleet {
    /// Judges `members` at `now`, and keeps what `filter` asks for.
    pub fn judged(members: Vec<Member>, filter: &FleetFilter, now: DateTime<Utc>) -> Self {
        let asked = members.into_iter().filter(|one| filter.has_host(one.name.host()));
        let mut machines: Vec<_> =
            asked.map(|member| JudgedMember::of(member, filter, now)).collect();
        if !filter.repos.is_empty() {
            machines.retain(|one| one.verdict != Verdict::Empty);
        }
        if !filter.verdicts.is_empty() {
            machines.retain(|one| filter.verdicts.contains(&one.verdict));
        }
        machines.sort_by(|one, other| {
            let key = |it: &JudgedMember| (it.tone, std::cmp::Reverse(it.severity), it.verdict);
            key(one).cmp(&key(other)).then_with(|| one.member.name.cmp(&other.member.name))
        });
        Self { at: now, machines }
    }

    /// Whether a person should look.
    pub fn needs_attention(&self) -> bool {
        self.machines.iter().any(JudgedMember::needs_attention)
    }

    /// The machines by verdict, the worst first.
    pub fn by_verdict(&self) -> Vec<(Verdict, Vec<&JudgedMember>)> {
        let mut groups: Vec<(Verdict, Vec<&JudgedMember>)> = Vec::new();
        for machine in &self.machines {
            match groups.iter_mut().find(|(verdict, _)| *verdict == machine.verdict) {
                Some((_, group)) => group.push(machine),
                None => groups.push((machine.verdict, vec![machine])),
            }
        }
        groups
    }

    /// Who runs what: the machines of each repository by revision and state, the revision with most machines first.
    pub fn matrix(&self) -> BTreeMap<&str, Vec<MatrixRow<'_>>> {
        let mut cells: BTreeMap<(&str, Option<Commit>, &PresenceState), Vec<&JudgedMember>> =
            BTreeMap::new();
        for machine in &self.machines {
            for row in &machine.rows {
                let revision = row.acted.as_ref().map(|it| it.revision);
                let key = (row.name.as_str(), revision, &row.state);
                cells.entry(key).or_default().push(machine);
            }
        }
        let mut matrix: BTreeMap<&str, Vec<MatrixRow>> = BTreeMap::new();
        for ((repository, revision, state), machines) in cells {
            matrix.entry(repository).or_default().push(MatrixRow { revision, state, machines });
        }
        for rows in matrix.values_mut() {
            let mut totals: BTreeMap<Option<Commit>, usize> = BTreeMap::new();
            for row in rows.iter() {
                *totals.entry(row.revision).or_default() += row.machines.len();
            }
            rows.sort_by_key(|row| (std::cmp::Reverse(totals[&row.revision]), row.revision));
        }
        matrix
    }

    /// What each repository should run, for each branch that is followed (`None`: no branch is): upstream's revision by
    /// the machine that published last.
    pub fn wanted(&self) -> BTreeMap<(&str, Option<&str>), WantedRevision> {
        let mut wanted: BTreeMap<_, WantedRevision> = BTreeMap::new();
        for machine in &self.machines {
            let Some(presence) = machine.member.presence() else { continue };
            for row in &machine.rows {
                let Some(revision) = row.upstream else { continue };
                let said = WantedRevision { revision, at: presence.at };
                let known = wanted.entry((row.name.as_str(), row.branch.as_deref()));
                let known = known.or_insert(said);
                if known.at < said.at {
                    *known = said;
                }
            }
        }
        wanted
    }

    /// The subject of `revision` of `repository`, where some machine runs it.
    pub fn subject(&self, repository: &str, revision: Commit) -> Option<&str> {
        let rows = self.machines.iter().flat_map(|machine| &machine.rows);
        let mut acted =
            rows.filter(|row| row.name == repository).filter_map(|row| row.acted.as_ref());
        acted.find(|acted| acted.revision == revision)?.subject.as_deref()
    }
}

/// The machines that run one revision of a repository in one state.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixRow<'a> {
    /// The revision; `None`: none was applied yet.
    pub revision: Option<Commit>,
    /// The state.
    pub state: &'a PresenceState,
    /// The machines.
    pub machines: Vec<&'a JudgedMember>,
}

/// The revision that a repository should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedRevision {
    /// The revision.
    pub revision: Commit,
    /// When the machine that says so published it, by its own clock.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
mod tests;
