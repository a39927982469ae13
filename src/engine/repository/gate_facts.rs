//! Reads what the gates depend on besides the repository itself: the zone of the window, the clocks, and whether
//! anything was ever applied here. Judges nothing.

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::hash::fraction;
use crate::domain::repository::gate::{BegunAction, CanaryReport, GateFacts};
use crate::domain::repository::gates::canaries;
use crate::domain::repository::observed::Observed;
use crate::domain::repository::sight::{Clocks, FirstSight};
use crate::domain::repository::status::MachineStatus;
use crate::engine::repository::Repository;
use crate::system::agent_state::{AgentState, STATUS};
use crate::system::git::ACTED;
use crate::system::host::since_boot;

/// The records of the gates in the clone.
pub(super) struct GateRecords {
    pub sight: Option<FirstSight>,
    pub begun: Option<BegunAction>,
    pub allowed: Option<Commit>,
    /// The agent made the clone.
    pub is_our_clone: bool,
}

impl Repository<'_> {
    /// What the gates depend on; `seen` has the other records already.
    pub(super) fn gate_facts(
        &self,
        seen: &Observed,
        records: GateRecords,
        now: DateTime<Utc>,
    ) -> Result<GateFacts> {
        let GateRecords { sight, begun, allowed, is_our_clone } = records;
        let policy = &self.repo.settings.policy.gates;
        let zone = match &policy.window {
            Some(_) => Some(self.context.zones.get(policy.window_zone.as_ref())?),
            None => None,
        };
        let records = [
            seen.last_success.as_ref().map(|run| run.at),
            seen.attempt.as_ref().map(|attempt| attempt.since),
            seen.verdict.as_ref().map(|verdict| verdict.since),
            sight.as_ref().map(|sight| sight.at),
            begun.as_ref().map(|begun| begun.at),
        ];
        let node = &self.context.node;
        let name = policy.node_name.as_ref().unwrap_or(&node.host);
        let is_canary = canaries::names(&policy.canaries, name);
        // What every machine of a fleet waits for waits for none, so one file serves all of them.
        let first = is_canary.then_some(0.0);
        let position = policy.position.or(first).unwrap_or_else(|| {
            fraction(&[node.machine_id.as_bytes(), name.as_bytes(), self.repo.name.as_bytes()])
        });
        Ok(GateFacts {
            zone,
            newest_record: records.into_iter().flatten().max(),
            waiting: sight.as_ref().map(|sight| sight.waiting(&self.clocks(now))),
            begun,
            allowed,
            // A machine on which it is the first is never made to wait, but for what a canary has.
            is_first: is_our_clone
                && (sight.is_none() || !policy.canaries.is_empty())
                && self.is_first(seen)?,
            position,
            canaries: self.seen_canaries(sight.as_ref()),
            is_canary,
            signed: Vec::new(),
        })
    }

    /// What the canaries had of the revision that waits, when they were looked at last.
    fn seen_canaries(&self, sight: Option<&FirstSight>) -> Option<CanaryReport> {
        if self.repo.settings.policy.gates.canaries.is_empty() {
            return None;
        }
        let seen = self.records.canaries()?;
        (seen.revision == sight?.revision).then_some(seen.report)
    }

    /// The clocks at `now`.
    pub fn clocks(&self, now: DateTime<Utc>) -> Clocks<'_> {
        Clocks {
            now,
            boot_id: &self.context.node.boot_id,
            since_boot: since_boot(),
            last_tick: AgentState::at(&self.context.settings.world.state).last_tick(),
        }
    }

    /// Whether nothing was ever applied here: no record says so, neither in the clone nor of the machine.
    fn is_first(&self, seen: &Observed) -> Result<bool> {
        if seen.acted.is_some() || seen.last_success.is_some() || self.git.ref_id(ACTED)?.is_some()
        {
            return Ok(false);
        }
        let machine = AgentState::at(&self.context.settings.world.state);
        let status: Option<MachineStatus> = machine.read(STATUS);
        let rows = status.map(|status| status.repositories).unwrap_or_default();
        Ok(!rows.iter().any(|row| row.name == self.repo.name && row.acted.is_some()))
    }
}
