//! Looks at a status repository: one request for its refs, and one fetch of those that moved. Knows nothing of the
//! repositories of this machine.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::context::Context;
use crate::domain::fleet::{Member, Said, Sighting};
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::remote::{ConnectionSettings, RefTip, RemoteHints};
use crate::domain::report::presence::{MOST_BYTES, PRESENCE_FILE, Presence, PresenceRef};
use crate::domain::text::{EscapeControls, hexadecimal};
use crate::system::fleet_cache::FleetCache;
use crate::system::git::{FileError, Git};
use crate::system::remote::{FetchGoal, FetchOrder, FetchedRef};

pub mod forget;

/// The version of the cache's format. With another one all is fetched anew.
const FORMAT: u32 = 1;
/// The most machines that are shown. A status repository with more is no fleet's.
const MOST_MEMBERS: usize = 100_000;
/// The most bytes of all publications together that are kept; what comes after them counts as unreadable.
const MOST_KEPT: usize = 192 << 20;

/// A status repository, and how to reach it.
#[derive(Clone, Debug)]
pub struct StatusRepository {
    /// Its address.
    pub remote: Remote,
    /// The connection settings.
    pub reach: ConnectionSettings,
}

/// What is kept between two looks.
#[derive(Default, Serialize, Deserialize)]
struct FleetRecord {
    format: u32,
    remote: String,
    /// How the server answered last; `None`: it never did.
    way: Option<RemoteHints>,
    /// What is known of each ref.
    refs: BTreeMap<String, Sighting>,
}

/// The beginnings that select every machine.
pub fn everyone() -> [String; 1] {
    [String::new()]
}

/// What a look found.
#[derive(Debug)]
pub struct FleetLook {
    /// The machines.
    pub members: Vec<Member>,
    /// How many other branches the repository has.
    pub others: usize,
}

/// Looks at the machines of `status` whose refs, without `refs/heads/`, begin with one of `beginnings`, at `now` by the
/// reader's clock.
///
/// # Errors
/// When the repository cannot be reached, what moved cannot be fetched, or the cache cannot be written.
pub fn look(
    context: &Context,
    status: &StatusRepository,
    beginnings: &[String],
    now: DateTime<Utc>,
) -> Result<FleetLook> {
    let StatusRepository { remote, reach } = status;
    let cache = cache(context, remote, beginnings);
    let mut record = read(&cache, remote);
    let answer = context
        .wire
        .branches(remote, beginnings, reach, record.way.as_ref())
        .with_context(|| format!("cannot read presence from {remote}"))?;
    let all = answer.refs.len();
    let tips: Vec<(PresenceRef, RefTip)> = answer
        .refs
        .into_iter()
        .filter_map(|tip| Some((PresenceRef::parse(&tip.name)?, tip)))
        .collect();
    let others = all - tips.len();
    ensure!(
        tips.len() <= MOST_MEMBERS,
        "{remote} lists {} machines; at most {MOST_MEMBERS} are read",
        tips.len()
    );
    let before = record.refs.len();
    record.refs.retain(|name, _| tips.binary_search_by(|(_, tip)| tip.name.cmp(name)).is_ok());
    let mut is_news = before != record.refs.len() || record.way.is_none();
    record.way = Some(answer.way);
    let is_moved = |tip: &RefTip| record.refs.get(&tip.name).is_none_or(|it| it.id != tip.id);
    let moved: Vec<_> = tips.iter().filter(|(_, tip)| is_moved(tip)).cloned().collect();
    if !moved.is_empty() {
        fetch(context, status, &cache, &mut record, &moved, now)?;
        is_news = true;
    }
    if is_news {
        cache.put(&record).context("cannot keep what was seen of the fleet")?;
    }
    let members = tips
        .into_iter()
        .filter_map(|(name, tip)| Some(Member { name, sighting: record.refs.remove(&tip.name)? }))
        .collect();
    Ok(FleetLook { members, others })
}

/// The machines as the last look at all of `remote` found them; none where there was no look.
pub fn kept(context: &Context, remote: &Remote) -> Vec<Member> {
    let refs = read(&cache(context, remote, &everyone()), remote).refs;
    let member = |(name, sighting): (String, Sighting)| {
        Some(Member { name: PresenceRef::parse(&name)?, sighting })
    };
    refs.into_iter().filter_map(member).collect()
}

/// Each selection has a record of its own: what it did not ask for is not gone.
fn cache(context: &Context, remote: &Remote, beginnings: &[String]) -> FleetCache {
    let text = format!("{remote}\n{}", beginnings.join("\n"));
    let hash = hexadecimal(digest(&SHA256, text.as_bytes()).as_ref());
    FleetCache::of(&context.settings.world.state, hash.get(..16).unwrap_or(&hash))
}

fn read(cache: &FleetCache, remote: &Remote) -> FleetRecord {
    let remote = remote.to_string();
    let record = cache.read::<FleetRecord>();
    let record = record.filter(|it| it.format == FORMAT && it.remote == remote);
    record.unwrap_or_else(|| FleetRecord { format: FORMAT, remote, ..FleetRecord::default() })
}

/// Fetches the publications of `moved`, and takes them into `record`.
fn fetch(
    context: &Context,
    status: &StatusRepository,
    cache: &FleetCache,
    record: &mut FleetRecord,
    moved: &[(PresenceRef, RefTip)],
    now: DateTime<Utc>,
) -> Result<()> {
    let incoming = cache.incoming()?;
    let format = record.way.as_ref().map(|way| way.format).unwrap_or_default();
    let branch: RefName = "main".parse().context("no branch can be called main")?;
    let git = Git::create(&incoming.path().join("objects"), &status.remote, format, &branch)?;
    let refs: Vec<FetchedRef> = moved
        .iter()
        .map(|(_, tip)| FetchedRef { from: tip.name.clone(), to: tip.name.clone(), id: tip.id })
        .collect();
    // The history of a machine is not needed here.
    let reach = ConnectionSettings { depth: 1, ..status.reach.clone() };
    let order = FetchOrder {
        remote: &status.remote,
        reach: &reach,
        goal: FetchGoal::Refs(&refs),
        way: record.way.as_ref(),
    };
    context.wire.fetch(&git, &order, &mut |_| {})?;
    let mut kept = 0;
    for (name, tip) in moved {
        let said = match said(&git, tip.id, name) {
            Ok((presence, bytes)) if kept + bytes <= MOST_KEPT => {
                kept += bytes;
                Said::Presence(Box::new(presence))
            }
            Ok(_) => Said::Unreadable("the publications of all machines are too large".to_owned()),
            Err(error) => Said::Unreadable(format!("{error:#}").escape_controls()),
        };
        let known = record.refs.get(&tip.name);
        let sighting = Sighting {
            id: tip.id,
            first_seen: known.map_or(now, |it| it.first_seen),
            moved: known.map(|_| now),
            said,
        };
        record.refs.insert(tip.name.clone(), sighting);
    }
    Ok(())
}

/// What the commit `id` says of `name`, and how many bytes that are.
///
/// # Errors
/// When it has no such file, or the file says something else.
fn said(git: &Git, id: Commit, name: &PresenceRef) -> Result<(Presence, usize)> {
    let read = git.file_at(id, PRESENCE_FILE, MOST_BYTES).map_err(FileError::into_error);
    let bytes = read?.with_context(|| format!("the commit has no {PRESENCE_FILE}"))?;
    let presence = Presence::parse(&bytes)?;
    let is_of = (presence.host.as_str(), presence.user.as_deref(), presence.world.as_deref());
    ensure!(
        is_of == (name.host(), name.user(), name.world()),
        "{PRESENCE_FILE} is that of another machine"
    );
    Ok((presence, bytes.len()))
}

/// The history of a clone, which tells what descends from what.
pub struct RevisionGraph(Git);

impl RevisionGraph {
    /// That of the clone at `path`.
    ///
    /// # Errors
    /// When there is no repository that can be read.
    pub fn of(path: &Path) -> Result<Self> {
        Git::open(path).map(Self)
    }

    /// The commit that `text` names there.
    pub fn resolve(&self, text: &str) -> Option<Commit> {
        self.0.resolve(text).ok()
    }

    /// Whether `other` is `revision` or one of its descendants, as far as the clone knows them.
    pub fn includes(&self, other: Commit, revision: Commit) -> bool {
        self.0.contains(other, revision).unwrap_or(false)
    }
}
