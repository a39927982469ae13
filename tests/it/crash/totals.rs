//! What an enumeration of kills comes to.

/// What the enumeration counted.
#[derive(Default)]
pub(crate) struct Totals {
    pub(super) points: usize,
    pub(super) second_kills: usize,
    pub(super) wedged: usize,
    pub(super) wrong_runs: usize,
    pub(super) ended_twice: usize,
    pub(super) named_ticks: usize,
    pub(super) most_ticks: usize,
    /// Kills that were followed by one undisturbed tick, and those that it did not put right.
    pub(super) single_kills: usize,
    pub(super) late: Vec<String>,
    pub(crate) findings: Vec<String>,
}

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.points += other.points;
        self.second_kills += other.second_kills;
        self.wedged += other.wedged;
        self.wrong_runs += other.wrong_runs;
        self.ended_twice += other.ended_twice;
        self.named_ticks += other.named_ticks;
        self.most_ticks = self.most_ticks.max(other.most_ticks);
        self.single_kills += other.single_kills;
        self.late.extend(other.late);
        self.findings.extend(other.findings);
    }

    /// Prints the totals, and fails on any finding or on fewer points than `least`.
    pub(super) fn judge(self, what: &str, least: usize) {
        let Self { points, second_kills, wedged, wrong_runs, ended_twice, .. } = self;
        let Self { named_ticks, most_ticks, single_kills, late, findings, .. } = self;
        println!(
            "{what}: crash points={points} second kills={second_kills} wedged={wedged} \
             wrong runs={wrong_runs} ended twice={ended_twice} named ticks={named_ticks} \
             most ticks={most_ticks} single kills={single_kills} late={}",
            late.len()
        );
        assert!(findings.is_empty(), "{}", findings.join("\n"));
        assert!(points >= least, "only {points} points: the enumeration misses some");
        assert!(late.is_empty(), "one tick did not put right:\n{}", late.join("\n"));
    }
}
