//! Answers HTTP requests for status, metrics and health. All waiting requests share one survey, and its
//! result is reused for a second: a survey may mean a process for each user. Does not know HTTP.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::report::metrics::{self, ListenerCounters};
use crate::domain::repository::status::MachineStatus;
use crate::system::web::WebResponse;

/// The time for which a survey's result is reused.
const FRESH: Duration = Duration::from_secs(1);

/// The format of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    /// Prometheus metrics.
    Metrics,
    /// JSON, as `agent status --json` prints it.
    Json,
}

/// The waiting requests and the last survey.
#[derive(Debug, Default)]
pub struct StatusEndpoint {
    waiting: Vec<(PageFormat, SyncSender<WebResponse>)>,
    /// The last survey, with its time since boot.
    seen: Option<(Duration, MachineStatus)>,
}

impl StatusEndpoint {
    /// Answers or queues a request, at `now` since boot; `true`: the caller has to start a survey.
    pub fn ask(
        &mut self,
        form: PageFormat,
        reply: SyncSender<WebResponse>,
        figures: &ListenerCounters,
        now: Duration,
    ) -> bool {
        if let Some((_, status)) = self.seen.as_ref().filter(|(at, _)| now < *at + FRESH) {
            send_response(&reply, page(form, status, figures));
            return false;
        }
        self.waiting.push((form, reply));
        self.waiting.len() == 1
    }

    /// Answers all waiting requests with a survey's result, at `now` since boot.
    pub fn looked(
        &mut self,
        seen: Result<MachineStatus, String>,
        figures: &ListenerCounters,
        now: Duration,
    ) {
        for (form, reply) in self.waiting.drain(..) {
            send_response(
                &reply,
                match &seen {
                    Ok(status) => page(form, status, figures),
                    Err(why) => WebResponse::words(500, why),
                },
            );
        }
        self.seen = seen.ok().map(|status| (now, status));
    }
}

/// The response that says whether ticks happen, for load balancers and alerts.
pub fn health(last_tick: Option<DateTime<Utc>>, now: DateTime<Utc>) -> WebResponse {
    match last_tick.map(|last| now - last) {
        None => WebResponse::words(503, "no tick yet"),
        Some(age) if age > MachineStatus::longest_silence() => {
            WebResponse::words(503, format!("no tick for {} min", age.num_minutes()))
        }
        Some(_) => WebResponse::words(200, "ok"),
    }
}

fn page(form: PageFormat, status: &MachineStatus, figures: &ListenerCounters) -> WebResponse {
    match form {
        PageFormat::Metrics => WebResponse {
            status: 200,
            kind: "text/plain; version=0.0.4; charset=utf-8",
            text: metrics::text(status) + &metrics::staying(figures),
        },
        PageFormat::Json => match serde_json::to_string_pretty(status) {
            Ok(text) => WebResponse { status: 200, kind: "application/json", text: text + "\n" },
            Err(error) => WebResponse::words(500, format!("the status cannot be written: {error}")),
        },
    }
}

/// Sends the response; a caller that is gone gets none.
pub fn send_response(reply: &SyncSender<WebResponse>, answer: WebResponse) {
    // The channel has room for the one response of each request.
    let _ = reply.try_send(answer);
}
