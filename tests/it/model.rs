//! Random sequences of everything that happens to a machine, against a small model of what must hold
//! after each step: never two runs at once, `lastaction.txt` only after a success, a held repository
//! rests, a pinned one stays, a hand edit is never touched, HEAD goes forward only. Once it is quiet
//! and nothing is in the way, two ticks bring everything up to date.
//!
//! Twenty sequences, each with a seed of its own, are the life of one machine; what they leave behind
//! is the next one's to live with. A failure prints the seeds of that life so far: `PMPY_SEED=1-13`
//! repeats it, `PMPY_SEED=13` only its last sequence. `PMPY_LONG=1` goes through ten thousand.

use std::fs;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use model_machine::{Mode, ModelMachine, NAME};

use crate::sandbox::wait_until;

mod model_machine;

/// Steps of one sequence.
const STEPS: usize = 15;
/// Sequences that one machine goes through.
const LIFE: u64 = 20;
/// System calls at which a worker is killed.
const CALLS: [&str; 12] = [
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdirat",
    "symlinkat",
    "openat",
    "clone3",
];

/// What happens to a machine. `percent` is of the time that a worker takes when nobody kills it.
#[derive(Clone, Debug)]
enum Step {
    Push,
    ForcePush { back: u64 },
    Tick,
    NamedTick,
    KilledAt { call: &'static str, nth: usize },
    KilledAfter { percent: u32 },
    Hang { victim: Victim, another: Another },
    Script(Mode),
    Edit,
    Revert,
    Hold,
    Unhold,
    Rollback,
    Accept,
    Redo,
    Reboot,
}

/// Who is killed while a script hangs.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Nobody,
    Tick,
    Worker,
    Script,
}

/// What comes while a script hangs.
#[derive(Clone, Copy, Debug)]
enum Another {
    Nothing,
    Tick,
    Push,
}

/// Xorshift: the same steps for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn step(&mut self) -> Step {
        match self.below(32) {
            0..7 => Step::Push,
            7 => Step::ForcePush { back: self.below(3) },
            8..13 => Step::Tick,
            13..15 => Step::NamedTick,
            15..18 => {
                Step::KilledAt { call: self.one_of(&CALLS), nth: 1 + self.below(14) as usize }
            }
            18..20 => Step::KilledAfter { percent: self.below(150) as u32 },
            20..22 => Step::Hang {
                victim: self.one_of(&[
                    Victim::Nobody,
                    Victim::Tick,
                    Victim::Worker,
                    Victim::Script,
                ]),
                another: self.one_of(&[Another::Nothing, Another::Tick, Another::Push]),
            },
            22..25 => Step::Script(self.one_of(&[Mode::Ok, Mode::Ok, Mode::Fail, Mode::Defer])),
            25 => Step::Edit,
            26 => Step::Revert,
            27 => Step::Hold,
            28 => Step::Unhold,
            29 if self.below(2) == 0 => Step::Redo,
            29 => Step::Rollback,
            30 => Step::Accept,
            _ => Step::Reboot,
        }
    }
}

/// One sequence: the machine, what the model knows of it, and what happened so far.
struct Story<'s> {
    setup: &'s ModelMachine,
    mode: Mode,
    /// What a person wrote into `page`.
    edited: Option<String>,
    /// How many scripts had begun when it was held.
    held: Option<usize>,
    /// How many scripts had begun when it was rolled back.
    pinned: usize,
    /// The rewritten revision that a person took.
    accepted: Option<String>,
}

impl<'s> Story<'s> {
    fn new(setup: &'s ModelMachine) -> Self {
        let pinned = setup.started().len();
        Self { setup, mode: Mode::Ok, edited: None, held: None, pinned, accepted: None }
    }

    fn agent(&self, arguments: &[&str]) {
        let ran = self.setup.machine.agent(arguments);
        assert!(matches!(ran.code, Some(0..=2)), "{ran}");
    }

    fn set(&mut self, mode: Mode) {
        self.mode = mode;
        self.setup.set(mode);
    }

    fn page(&self) -> std::path::PathBuf {
        self.setup.machine.clone_of(NAME).join("page")
    }

    fn revert(&mut self) {
        if self.edited.take().is_some() {
            fs::write(self.page(), self.setup.page_of(&self.setup.head())).unwrap();
        }
    }

    /// Lets `step` happen, and checks what must hold afterwards.
    fn happen(&mut self, step: &Step) {
        let (head, mark) = (self.setup.head(), self.setup.mark());
        let setup = self.setup;
        match step {
            Step::Push => drop(setup.push_onto(&setup.tip())),
            Step::ForcePush { back } => {
                let parent = (0..=*back).fold(setup.tip(), |tip, _| setup.parent_of(&tip));
                setup.push_onto(&parent);
            }
            Step::Tick => self.agent(&["tick", "--trigger", "cron"]),
            Step::NamedTick => self.agent(&["tick", NAME]),
            Step::KilledAt { call, nth } => setup.worker_killed_at(call, *nth),
            Step::KilledAfter { percent } => setup.worker_killed_after(*percent),
            Step::Hang { victim, another } => self.hang(*victim, *another),
            Step::Script(mode) => self.set(*mode),
            Step::Edit => {
                let text = format!("edited by hand at {}\n", setup.started().len());
                fs::write(self.page(), &text).unwrap();
                self.edited = Some(text);
            }
            Step::Revert => self.revert(),
            Step::Hold => {
                self.agent(&["hold", NAME, "the model says so"]);
                self.held.get_or_insert(setup.started().len());
            }
            Step::Unhold => self.unhold(),
            Step::Rollback => {
                self.pinned = setup.started().len();
                self.agent(&["rollback", NAME]);
            }
            Step::Accept => self.accept(),
            Step::Redo => self.agent(&["redo", NAME]),
            Step::Reboot => setup.reboot(),
        }
        self.check(&head, mark.as_deref());
    }

    fn unhold(&mut self) {
        self.agent(&["unhold", NAME]);
        self.held = None;
    }

    fn accept(&mut self) {
        let tip = self.setup.tip();
        self.agent(&["accept", NAME, &tip]);
        self.accepted = Some(tip);
    }

    /// A tick whose script hangs, until somebody is killed or it is let go.
    fn hang(&mut self, victim: Victim, another: Another) {
        let setup = self.setup;
        let (go, before) = (setup.machine.path("go"), setup.started().len());
        let _ = fs::remove_file(&go);
        setup.set(Mode::Hang);
        let mut tick = setup.spawn(&["tick", "--trigger", "cron"]);
        let mut ended = false;
        wait_until("a script hangs, or the tick has nothing to run", || {
            ended = tick.try_wait().unwrap().is_some();
            ended || setup.started().len() > before
        });
        if !ended {
            match victim {
                Victim::Nobody => {}
                Victim::Tick => tick.kill().unwrap(),
                Victim::Worker => setup.kill_worker(),
                Victim::Script => {
                    // What comes next is another attempt, and is not to hang as well.
                    setup.set(self.mode);
                    setup.kill_script();
                }
            }
            if matches!(another, Another::Push) {
                setup.push_onto(&setup.tip());
            }
            if matches!(another, Another::Push | Another::Tick) {
                self.agent(&["tick", "--trigger", "cron"]);
            }
        }
        setup.set(self.mode);
        fs::write(go, "").unwrap();
        tick.wait().unwrap();
        setup.settle();
    }

    /// What must hold after every step. `head` and `mark` are as they were before it.
    fn check(&self, head: &str, mark: Option<&str>) {
        let setup = self.setup;
        assert_eq!(setup.complaints(), Vec::<String>::new(), "the scripts complain");
        if let Some(acted) = setup.machine.lastaction(NAME) {
            assert!(setup.succeeded().contains(&acted), "{acted} never succeeded");
        }
        let started = setup.started();
        if let Some(before) = self.held {
            assert_eq!(started.len(), before, "a held repository acted");
        }
        let (now, pin) = (setup.head(), setup.pin());
        if let Some(pin) = &pin {
            let others: Vec<_> = started[self.pinned..].iter().filter(|it| *it != pin).collect();
            assert!(others.is_empty(), "pinned at {pin}, and acted upon {others:?}");
        }
        if now != head && pin.as_ref() != Some(&now) && self.accepted.as_ref() != Some(&now) {
            assert!(setup.contains(&now, head), "HEAD went from {head} to {now}");
            let seen = mark.is_none_or(|mark| setup.contains(&now, mark));
            assert!(seen, "HEAD went to {now}, which lacks {mark:?}, seen upstream before");
        }
        if let Some(edited) = &self.edited {
            let page = fs::read_to_string(self.page()).unwrap();
            assert_eq!(&page, edited, "what a person wrote was touched");
        }
    }

    /// Takes everything out of the way; then two ticks are enough.
    fn quiet(&mut self) {
        self.set(Mode::Ok);
        self.unhold();
        self.revert();
        self.setup.settle();
        self.agent(&["tick", NAME]);
        let machine = &self.setup.machine;
        if matches!(machine.state(NAME).as_str(), "rewritten" | "diverged") {
            self.accept();
        }
        self.agent(&["tick", NAME]);
        let (tip, row) = (self.setup.tip(), machine.row(NAME));
        assert_eq!(row["state"], "current", "{row:#}");
        assert_eq!(self.setup.head(), tip, "{row:#}");
        assert_eq!(machine.lastaction(NAME), Some(tip.clone()), "{row:#}");
        assert!(!machine.currentaction(NAME).exists());
        assert!(!machine.private(NAME, "journal").exists());
        assert_eq!(fs::read(self.page()).unwrap(), self.setup.page_of(&tip));
        assert_eq!(machine.differences(NAME), "");
    }
}

/// Goes through the sequence of `seed`; `told` is what happened, should it fail.
fn sequence(setup: &ModelMachine, seed: u64, reported: &Mutex<String>) {
    let mut dice = Dice::new(seed);
    let mut story = Story::new(setup);
    *reported.lock().unwrap() = format!("seed {seed}");
    for _ in 0..STEPS {
        let step = dice.step();
        reported.lock().unwrap().push_str(&format!("\n  {step:?}"));
        story.happen(&step);
    }
    reported.lock().unwrap().push_str("\n  quiet");
    story.quiet();
}

/// The life of one machine: the sequences of `seeds`, one after the other.
fn life(seeds: RangeInclusive<u64>) {
    let reported = Mutex::new(String::new());
    let first = *seeds.start();
    let reached = AtomicU64::new(first);
    let run = AssertUnwindSafe(|| {
        let setup = ModelMachine::new();
        for seed in seeds {
            reached.store(seed, Ordering::Relaxed);
            sequence(&setup, seed, &reported);
        }
    });
    if let Err(panic) = catch_unwind(run) {
        let last = reached.into_inner();
        eprintln!("to repeat it: PMPY_SEED={first}-{last}\n{}", reported.lock().unwrap());
        resume_unwind(panic);
    }
}

/// The seeds that `PMPY_SEED` asks for: one, or a life from one to another.
fn wanted() -> Option<RangeInclusive<u64>> {
    let text = std::env::var("PMPY_SEED").ok()?;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    Some(first.parse().unwrap()..=last.parse().unwrap())
}

#[test]
fn whatever_happens_the_promises_hold_and_quiet_means_up_to_date_in_two_ticks() {
    if let Some(seeds) = wanted() {
        return life(seeds);
    }
    let long = std::env::var_os("PMPY_LONG").is_some();
    let (lives, until) = match long {
        true => (10_000 / LIFE, None),
        false => (3, Some(Instant::now() + Duration::from_secs(25))),
    };
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let lane = || {
        while until.is_none_or(|until| Instant::now() < until) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= lives {
                return;
            }
            life(1 + number * LIFE..=(number + 1) * LIFE);
            done.fetch_add(LIFE, Ordering::Relaxed);
        }
    };
    // Now and then each of them waits for something.
    let lanes = 1 + thread::available_parallelism().map_or(1, NonZero::get);
    let start = Instant::now();
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    });
    let done = done.into_inner();
    println!(
        "model: sequences={done} seeds=1-{done} steps={} seconds={}",
        done * STEPS as u64,
        start.elapsed().as_secs()
    );
    assert!(done > 0, "not one sequence was gone through");
}
