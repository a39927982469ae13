//! Any text as a message about a push, or as what git writes into the hook: it is understood or not, what
//! is understood cannot move a terminal's cursor or break its line, and what the hook announces of it is
//! heard as it was said, whatever the commits in it say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::bus::message::{CommitSummary, PushHint, PushMessage, RefUpdate, Topic};
use pmpy::domain::bus::stomp::StompFrame;

fn is_harmless(hint: &PushHint) -> bool {
    let shown = [Some(&hint.repo), hint.name.as_ref()];
    shown.into_iter().flatten().all(|text| !text.contains(char::is_control) && text.len() < 1100)
}

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (subject, line, body) = input;
    let frame = StompFrame::new("MESSAGE").with("subject", subject);
    let frame = StompFrame { body: body.to_vec(), ..frame };
    if let Some(hint) = PushHint::read(&frame) {
        assert!(is_harmless(&hint), "{hint:?}");
        assert_eq!(PushHint::read(&frame), Some(hint));
    }
    let Ok(update) = line.parse::<RefUpdate>() else { return };
    let Some(commit) = update.new.map(pmpy::domain::git::Commit) else { return };
    let said = String::from_utf8_lossy(body);
    let logged = CommitSummary {
        commit,
        author: said.to_string(),
        date: said.to_string(),
        message: said.to_string(),
    };
    let announced = PushMessage { repo: "spog", update: &update, user: subject, log: &[logged] };
    let frame = announced.frame(&Topic::default());
    let heard = PushHint::read(&frame).expect("what we say is understood");
    assert_eq!((heard.repo.as_str(), heard.claimed), ("spog", Some(commit)));
    assert!(is_harmless(&heard), "{heard:?}");
});
