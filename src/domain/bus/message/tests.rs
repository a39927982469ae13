//! Announcements, and the hints read from valid, old and forged messages.

use super::*;

const OLD: &str = "dc01649eee870d1a9f051f046165890c4c5e197d";
const NEW: &str = "aa794ab6cc1a4a504fd908efc938c0f241557ad4";
const NONE: &str = "0000000000000000000000000000000000000000";

fn topic() -> Topic {
    "future.git.commits".parse().unwrap()
}

fn update(old: &str, new: &str, name: &str) -> RefUpdate {
    format!("{old} {new} {name}").parse().unwrap()
}

fn announced(repo: &str, update: &RefUpdate, log: &[CommitSummary]) -> StompFrame {
    PushMessage { repo, update, user: "pat", log }.frame(&topic())
}

fn logged(message: &str) -> CommitSummary {
    CommitSummary {
        commit: NEW.parse().unwrap(),
        author: "Pat <pat@example.org>".to_owned(),
        date: "Wed Mar 14 11:55:15 2012 +0000".to_owned(),
        message: message.to_owned(),
    }
}

fn hint_of(subject: &str, body: &[u8]) -> Option<PushHint> {
    let frame = StompFrame::new("MESSAGE").with("subject", subject);
    PushHint::read(&StompFrame { body: body.to_vec(), ..frame })
}

fn repo(subject: &str, body: &str) -> Option<String> {
    hint_of(subject, body.as_bytes()).map(|hint| hint.repo)
}

#[test]
fn an_announcement_has_the_form_that_it_always_had() {
    let frame = announced("spog", &update(OLD, NEW, "refs/heads/master"), &[logged("bonkle\n")]);
    assert_eq!(frame.command, "SEND");
    assert_eq!(frame.header("destination"), Some("/topic/future.git.commits"));
    let subject = format!("[spog] refs/heads/master {NEW}");
    assert_eq!(frame.header("subject"), Some(subject.as_str()));
    assert_eq!(
        String::from_utf8(frame.body).unwrap(),
        format!(
            "repo: spog\noldrev: {OLD}\nnewrev: {NEW}\nrefname: refs/heads/master\n\
             JSON: {{\"before\":\"{OLD}\",\"after\":\"{NEW}\",\"ref\":\"refs/heads/master\",\
             \"user_name\":\"pat\",\"repository\":{{\"name\":\"spog\"}}}}\n \
             commit {NEW}\nAuthor: Pat <pat@example.org>\nDate:   Wed Mar 14 11:55:15 2012 +0000\n\
             \n    bonkle\n\n"
        )
    );
}

#[test]
fn what_is_announced_is_understood() {
    for (old, new, name) in [
        (OLD, NEW, "refs/heads/master"),
        (NONE, NEW, "refs/tags/v1"),
        (OLD, NONE, "refs/heads/gone"),
        (&"0".repeat(64), &"ab".repeat(32), "refs/heads/long"),
    ] {
        let update = update(old, new, name);
        let frame = announced("sites/spog", &update, &[logged("repo: other\nJSON: {}")]);
        let hint = PushHint::read(&frame).unwrap();
        assert_eq!(hint.repo, "sites/spog");
        assert_eq!(hint.name.as_deref(), Some(name));
        assert_eq!(hint.claimed, update.new.map(Commit));
        let body = String::from_utf8(frame.body).unwrap();
        assert!(body.contains(&format!("oldrev: {old}\nnewrev: {new}\n")), "{body}");
    }
}

#[test]
fn the_words_of_a_commit_are_never_taken_for_ours() {
    let message = "repo: other\r\n\u{85}repo: other\nJSON: {\"repository\":{\"name\":\"other\"}}\n";
    let log = [CommitSummary { author: "x\nrepo: other".to_owned(), ..logged(message) }];
    let frame = announced("spog\nrepo: other", &update(OLD, NEW, "refs/heads/a"), &log);
    let body = String::from_utf8(frame.body.clone()).unwrap();
    let ours = body.lines().filter(|line| line.starts_with("repo:") || line.starts_with("JSON:"));
    assert_eq!(ours.count(), 2, "{body}");
    assert_eq!(frame.header("subject").unwrap().lines().count(), 1);
    assert_eq!(PushHint::read(&frame).unwrap().repo, "spog?repo: other");
}

#[test]
fn a_long_log_is_cut_at_a_line() {
    let log: Vec<_> =
        (0..20).map(|_| logged(&"word ".repeat(999).replace("d w", "d\nw"))).collect();
    let frame = announced("spog", &update(OLD, NEW, "refs/heads/a"), &log);
    assert!((LONGEST_LOG..LONGEST_LOG + 1000).contains(&frame.body.len()), "{}", frame.body.len());
    assert!(String::from_utf8(frame.body).unwrap().ends_with("\n    (and more)\n"));
    let line = [logged(&"x".repeat(2 * LONGEST_LOG))];
    assert!(announced("spog", &update(OLD, NEW, "refs/heads/a"), &line).body.len() < 1000);
}

#[test]
fn a_message_of_the_first_days_is_understood() {
    let body = format!(
        "repo: spog\noldrev: {OLD}\nnewrev: {NEW}\nrefname: refs/heads/master\n commit {NEW}\n\
         Author: John\nDate:   Wed Mar 14 11:55:15 2012 +0000\n\n    bonkle\n\ndiff --git a/b b/b\n"
    );
    let hint = hint_of(&format!("[spog] refs/heads/master {NEW}"), body.as_bytes()).unwrap();
    assert_eq!(hint.repo, "spog");
    assert_eq!(hint.name.as_deref(), Some("refs/heads/master"));
    assert_eq!(hint.claimed, NEW.parse().ok());
    // The subject alone, as in announcements for people, and the form of Subversion's hook.
    assert_eq!(repo(&format!("[spog] refs/heads/master {NEW}"), "").as_deref(), Some("spog"));
    assert_eq!(repo("[site] 4711 ", "repo: site\nrevname: 4711\nlog").as_deref(), Some("site"));
}

#[test]
fn of_two_names_the_first_counts_and_only_at_the_top() {
    for (subject, body, expected) in [
        ("[a] refs/heads/m 1", "repo: b\nrepo: c\n", Some("b")),
        ("[a]", "hello\nrepo: b\n", Some("a")),
        ("[a]", "\nrepo: b\n", Some("a")),
        ("[a]", " repo: b\n", Some("a")),
        ("", "JSON: {\"repository\":{\"name\":\"j\"}}", Some("j")),
        ("[a]", "JSON: {\"repository\":{\"name\":\"j\"}}", Some("j")),
        ("", "repo: b\nJSON: {\"repository\":{\"name\":\"j\"}}", Some("b")),
        ("", "JSON: {\"repository\":[]}", None),
        ("", "JSON: {", None),
        ("a", "", None),
        ("[]", "", None),
        ("[a", "", None),
        ("", "repo:\n", None),
        ("", "repo: a\u{1b}[2J\n", None),
        ("", "\n", None),
        // The subject as the first line of the body, without a header.
        ("", "[a] refs/heads/m 1\nrepo: b\nrepo: c\n", Some("b")),
        ("", "[a] refs/heads/m 1\nhello\nrepo: b\n", Some("a")),
        ("[s]", "[a] refs/heads/m 1\n", Some("s")),
        ("Re: news", "[a]\n", Some("a")),
        ("", "\n[a]\n", None),
        ("", "repo: b\n[a]\n", Some("b")),
        ("", "[a]\n[c]\nrepo: b\n", Some("a")),
        ("", "[]\n", None),
    ] {
        assert_eq!(repo(subject, body).as_deref(), expected, "{subject:?} {body:?}");
    }
    assert_eq!(repo("", &format!("repo: {}", "x".repeat(LONGEST_NAME + 1))), None);
    assert_eq!(hint_of("", b"repo: \xff\n").unwrap().repo, "\u{fffd}");
}

#[test]
fn a_json_line_that_contradicts_the_others_says_nothing() {
    let json = format!(
        "{{\"after\":\"{OLD}\",\"ref\":\"refs/heads/x\",\"repository\":{{\"name\":\"a\"}}}}"
    );
    let contradicting = format!("repo: a\nnewrev: {NEW}\nJSON: {json}\n");
    assert_eq!(hint_of("", contradicting.as_bytes()).unwrap().name, None);
    let agreeing = format!("repo: a\nnewrev: {OLD}\nJSON: {json}\n");
    assert_eq!(hint_of("", agreeing.as_bytes()).unwrap().name.as_deref(), Some("refs/heads/x"));
}

#[test]
fn a_line_of_the_hook_is_read_or_reported() {
    let read = update(NONE, NEW, "refs/heads/a b");
    assert_eq!((read.old, read.short_name().as_str()), (None, "a b"));
    assert_eq!(update(OLD, NONE, "refs/tags/v1").short_name(), "v1");
    assert_eq!(update(OLD, NONE, "refs/notes/x").short_name(), "refs/notes/x");
    for line in ["", "a b c", &format!("{OLD} {NEW}"), &format!("{OLD} {NEW} ")] {
        assert!(line.parse::<RefUpdate>().unwrap_err().contains("is not \"OLD NEW REF\""));
    }
}

#[test]
fn a_report_is_a_line_for_people_and_json_for_programs() {
    let report = |step| ActionMessage {
        host: "web01",
        repo: "spog",
        reference: None,
        revision: NEW.parse().unwrap(),
        previous: OLD.parse().ok(),
        step,
        seconds: 3.24,
        at: "2026-11-22T09:00:00Z".parse().unwrap(),
    };
    let frame = report(&ActionStep::Ended(Outcome::Failed { code: 3 })).frame(&topic());
    assert_eq!(frame.header("subject"), Some("web01 spog aa794ab: exited 3 after 3.2 s"));
    let json: serde_json::Value = serde_json::from_slice(&frame.body).unwrap();
    assert_eq!(json["state"], "failed");
    assert_eq!((&json["host"], &json["revision"]), (&"web01".into(), &NEW.into()));
    assert_eq!((&json["previous"], &json["seconds"]), (&OLD.into(), &3.24.into()));
    let frame = report(&ActionStep::Started).frame(&topic());
    assert_eq!(frame.header("subject"), Some("web01 spog aa794ab: started"));
}

#[test]
fn a_bare_topic_is_one_of_topics() {
    assert_eq!(topic().destination(), "/topic/future.git.commits");
    assert_eq!("/queue/x".parse::<Topic>().unwrap().destination(), "/queue/x");
    for text in ["", "a b", "a\n"] {
        assert!(text.parse::<Topic>().is_err(), "{text:?}");
    }
}
