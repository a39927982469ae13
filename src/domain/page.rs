//! The web pages of the agent: one about a machine, one about a fleet. A document of what is shown and a moment go in,
//! HTML comes out. It has one stylesheet, no script, and loads nothing; all foreign text is plain text in it. Knows
//! neither HTTP nor where the facts come from.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Duration, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};

use super::report::error_report::ErrorReport;
use super::repository::state::Tone;
use super::text::{EscapeControls, ago, thousands, utc_minute};

mod describe;
pub mod fleet;
pub mod hosts;
pub mod machine;
mod rollout;
mod timeline;

/// The stylesheet, which is a part of each page.
const STYLE: &str = include_str!("page/style.css");

/// The most characters of one foreign text that are shown.
const MOST_OF_A_TEXT: usize = 400;

/// What a browser may do with a page: use its own stylesheet, and nothing else.
pub fn content_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
        )
    });
    &POLICY
}

/// The links between the pages of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLinks {
    /// There is a page of the fleet.
    pub has_fleet: bool,
}

/// One of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKind {
    Machine,
    Fleet,
}

/// The whole document with this title and content. `links`: `None` where it is a file by itself.
fn document(
    title: &str,
    kind: PageKind,
    links: Option<PageLinks>,
    now: DateTime<Utc>,
    content: &Markup,
) -> String {
    // Relative, so that a proxy may serve the pages below a path.
    let link = |to: PageKind, href: &str, text: &str| {
        let current = (to == kind).then_some("page");
        html! { li { a href=(href) aria-current=[current] { (text) } } }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(content_policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex, nofollow";
                title { (title.escape_controls()) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                @if let Some(links) = links {
                    header {
                        nav aria-label="Pages" {
                            ul {
                                (link(PageKind::Machine, "./", "This machine"))
                                @if links.has_fleet { (link(PageKind::Fleet, "fleet", "Fleet")) }
                            }
                        }
                    }
                }
                main #content tabindex="-1" { (content) }
                footer {
                    p {
                        "As of " time datetime=(machine_time(now)) { (utc_minute(now)) } ". All times are UTC."
                        @if links.is_some() {
                            " For programs: "
                            a href="status" { "status as JSON" } ", " a href="metrics" { "metrics" } "."
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn machine_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Foreign text: harmless, not too long, and without effect on the direction of what is around it.
fn foreign(text: &str) -> Markup {
    html! { bdi { (clipped(text)) } }
}

fn clipped(text: &str) -> String {
    let escaped = text.escape_controls();
    match escaped.char_indices().nth(MOST_OF_A_TEXT) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

/// The sentence of a reason, and its hint below.
fn reason(text: &str) -> Markup {
    let report = ErrorReport::parse(text);
    html! {
        (foreign(&report.sentence()))
        @if let Some(hint) = report.hint() {
            div.hint { "hint: " (foreign(&hint)) }
        }
    }
}

/// A time relative to `now` and by the clock.
fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let whole = utc_minute(at);
    let time = whole.trim_end_matches(" UTC");
    let clock = match (now - at).abs() < Duration::days(1) {
        true => time.rsplit(' ').next().unwrap_or(time),
        false => time,
    };
    html! { time datetime=(machine_time(at)) { (ago(at, now)) ", " (clock) } }
}

/// The class of a tone in the stylesheet.
fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Bad => "bad",
        Tone::Open => "open",
        Tone::Busy => "busy",
        Tone::Good => "good",
        Tone::Dim => "dim",
    }
}

/// A state, in the colour of its meaning.
fn badge(word: &str, tone: Tone) -> Markup {
    html! { span class={ "state " (class(tone)) } { (clipped(word)) } }
}

/// How many are in which state, the worst first.
fn tally(counts: &[(String, usize, Tone)]) -> Markup {
    html! {
        ul.tally {
            @for (word, count, tone) in counts {
                li class=(class(*tone)) { b { (thousands(*count)) } " " (clipped(word)) }
            }
        }
    }
}

/// The shares of a whole as a bar; `text` says the same in words.
fn bar(shares: &[(usize, &str)], text: &str) -> Markup {
    let whole = shares.iter().map(|(count, _)| *count).sum::<usize>().max(1) as f64;
    let placed = shares.iter().scan(0, |begin, (count, class)| {
        let at = *begin;
        *begin += count;
        Some((at, *count, *class))
    });
    html! {
        svg.bar role="img" aria-label=(text) width="100%" height="14" {
            @for (begin, count, class) in placed.filter(|(_, count, _)| *count > 0) {
                rect class={ "fill " (class) } y="0" height="14" x=(percent(begin as f64 / whole))
                    width=(percent(count as f64 / whole)) {}
            }
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

#[cfg(test)]
mod tests;
