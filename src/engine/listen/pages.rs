//! What is told to whoever asks over HTTP how it stands. However many ask, it is looked once at a time,
//! and what was seen a second ago is told again: looking may mean a process for each user.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::metrics::{self, Figures};
use crate::domain::status::Status;
use crate::system::web::Answer;

/// How long what was seen is told again.
const FRESH: Duration = Duration::from_secs(1);

/// In which form it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For Prometheus.
    Metrics,
    /// As `agent status --json` has it.
    Json,
}

/// Who waits to be told, and what was seen last.
#[derive(Debug, Default)]
pub struct Pages {
    waiting: Vec<(Form, SyncSender<Answer>)>,
    /// With when it was seen, since boot.
    seen: Option<(Duration, Status)>,
}

impl Pages {
    /// Somebody asks, at `now` since boot. Whether it has to be looked for them.
    pub fn ask(
        &mut self,
        form: Form,
        reply: SyncSender<Answer>,
        figures: &Figures,
        now: Duration,
    ) -> bool {
        if let Some((_, status)) = self.seen.as_ref().filter(|(at, _)| now < *at + FRESH) {
            tell(&reply, page(form, status, figures));
            return false;
        }
        self.waiting.push((form, reply));
        self.waiting.len() == 1
    }

    /// It was looked, at `now` since boot: tells all who wait.
    pub fn looked(&mut self, seen: Result<Status, String>, figures: &Figures, now: Duration) {
        for (form, reply) in self.waiting.drain(..) {
            tell(
                &reply,
                match &seen {
                    Ok(status) => page(form, status, figures),
                    Err(why) => Answer::words(500, why),
                },
            );
        }
        self.seen = seen.ok().map(|status| (now, status));
    }
}

/// Whether ticks happen, for whoever balances loads or wakes people.
pub fn health(last_tick: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Answer {
    match last_tick.map(|last| now - last) {
        None => Answer::words(503, "no tick yet"),
        Some(age) if age > Status::longest_silence() => {
            Answer::words(503, format!("no tick for {} min", age.num_minutes()))
        }
        Some(_) => Answer::words(200, "ok"),
    }
}

fn page(form: Form, status: &Status, figures: &Figures) -> Answer {
    match form {
        Form::Metrics => Answer {
            status: 200,
            kind: "text/plain; version=0.0.4; charset=utf-8",
            text: metrics::text(status) + &metrics::staying(figures),
        },
        Form::Json => match serde_json::to_string_pretty(status) {
            Ok(text) => Answer { status: 200, kind: "application/json", text: text + "\n" },
            Err(error) => Answer::words(500, format!("the status cannot be written: {error}")),
        },
    }
}

/// Whoever does not listen any more went away.
pub fn tell(reply: &SyncSender<Answer>, answer: Answer) {
    // There is room for the one answer that each gets.
    let _ = reply.try_send(answer);
}
