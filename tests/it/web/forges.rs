//! A hook of each forge makes the agent look at once, and nothing else does.

use std::fs;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::hmac;
use rustix::process::Signal;

use super::{
    SECRET, configured, github, machine, machine_for, machine_with, put_secret, secret_file,
    signature, signature_with,
};
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, set_mode, text, wait_until};

/// What one forge sends.
struct Said {
    forge: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// The body of GitLab's.
fn gitlab(repo: &str) -> String {
    let (old, new) = ("1".repeat(40), "2".repeat(40));
    format!(
        r#"{{"object_kind":"push","event_name":"push","before":"{old}","after":"{new}",
            "ref":"refs/heads/main","checkout_sha":"{new}","user_username":"pat","project_id":15,
            "project":{{"id":15,"name":"Spog Site","path_with_namespace":"{repo}"}},
            "repository":{{"name":"Spog Site","url":"git@a:{repo}.git"}},"total_commits_count":1}}"#
    )
}

/// What each forge sends when somebody pushed to `repo`.
fn forges(repo: &str) -> Vec<Said> {
    let (github, hex) = (github(repo), signature(&github(repo)));
    let new = "2".repeat(40);
    let gitlab = gitlab(repo);
    let bitbucket = format!(
        r#"{{"actor":{{"nickname":"pat"}},"repository":{{"name":"Spog Site","full_name":"{repo}"}},
            "push":{{"changes":[{{"old":null,"new":{{"type":"branch","name":"main","target":
            {{"hash":"{new}"}}}},"created":true,"closed":false}}]}}}}"#
    );
    let generic = format!(r#"{{"repository": "{repo}"}}"#);
    let form = format!("payload={}", github.replace('{', "%7B").replace('"', "%22"));
    let (body_of_gogs, gogs) = (github.clone(), hex.clone());
    let sha256 = |body: &str| format!("sha256={}", signature(body));
    let event = |name, event: &str| (name, event.to_owned());
    let said = |forge, headers, body| Said { forge, headers, body };
    vec![
        said(
            "GitHub",
            vec![event("X-GitHub-Event", "push"), ("X-Hub-Signature-256", sha256(&github))],
            github.clone(),
        ),
        said(
            "GitHub's form",
            vec![event("X-GitHub-Event", "push"), ("X-Hub-Signature-256", sha256(&form))],
            form,
        ),
        said(
            "GitLab",
            vec![event("X-Gitlab-Event", "Push Hook"), event("X-Gitlab-Token", SECRET)],
            gitlab.clone(),
        ),
        said(
            "Gitea",
            vec![
                event("X-Gitea-Event", "push"),
                event("X-GitHub-Event", "push"),
                ("X-Gitea-Signature", hex.clone()),
                ("X-Hub-Signature-256", sha256(&github)),
            ],
            github.clone(),
        ),
        said(
            "Forgejo",
            vec![
                event("X-Forgejo-Event", "push"),
                event("X-Gitea-Event", "push"),
                ("X-Forgejo-Signature", hex.clone()),
                ("X-Gitea-Signature", hex),
            ],
            github,
        ),
        said(
            "Gogs",
            vec![event("X-Gogs-Event", "push"), ("X-Gogs-Signature", gogs.clone())],
            body_of_gogs,
        ),
        said(
            "Bitbucket",
            vec![event("X-Event-Key", "repo:push"), ("X-Hub-Signature", sha256(&bitbucket))],
            bitbucket,
        ),
        said("anybody", vec![("X-Pmpy-Signature", sha256(&generic))], generic),
    ]
}

#[test]
fn a_hook_of_each_forge_applies_the_push_at_once() {
    let (machine, _listener, web) = machine("");
    for Said { forge, headers, body } in forges("anybody/spog") {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let revision = machine.push("spog", &[("page", forge)]);
        let start = Instant::now();
        let answer = web.post(&headers, &body);
        assert_eq!(answer.status, 202, "{forge}: {answer:?}");
        assert!(answer.body.contains("accepted: checking"), "{forge}: {answer:?}");
        wait_until(&format!("it acts because of {forge}"), || {
            machine.lastaction("spog").as_ref() == Some(&revision)
        });
        // The timer calls once an hour.
        println!("{forge}: acted upon after {:?}", start.elapsed());
        wait_until("the status says so", || machine.state("spog") == "current");
        assert_eq!(machine.row("spog")["acted"]["trigger"], "webhook");
    }
    assert_eq!(machine.runs().len(), 2 * (1 + forges("").len()), "each revision once");
}

#[test]
fn a_hook_that_gitlab_signed_acts_and_one_that_was_changed_does_not() {
    let (machine, listener, web) = machine("");
    let key = "what GitLab made up by itself";
    put_secret(&machine, &format!("whsec_{}\n", BASE64_STANDARD.encode(key)));
    listener.signal(Signal::HUP);
    listener.logs("configuration reloaded");
    let (body, time) = (gitlab("sites/spog"), "1795337971");
    let signed = |key: &str, body: &str| {
        let signed = format!("msg_1.{time}.{body}");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(tag))
    };
    let said = |signature: &str, time: &str| {
        web.post(
            &[
                ("X-Gitlab-Event", "Push Hook"),
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", time),
                ("webhook-signature", signature),
            ],
            &body,
        )
    };
    let (right, later) = (signed(key, &body), "1795337972");
    let of_another_body = signed(key, &gitlab("sites/other"));
    for (signature, time) in [
        (right.as_str(), later),
        (&of_another_body, time),
        (&signed("another key", &body), time),
        ("", time),
    ] {
        assert_eq!(said(signature, time).status, 401, "{signature} {time}");
    }
    assert_eq!(web.metric("pmpy_ticks_total{trigger=\"webhook\"}"), 0.0);
    let revision = machine.push("spog", &[("page", "signed")]);
    let answer = said(&right, time);
    assert!(answer.body.contains("accepted: checking"), "{answer:?}");
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
    wait_until("the status says so", || machine.state("spog") == "current");
    assert_eq!(machine.row("spog")["acted"]["trigger"], "webhook");
}

#[test]
fn a_repository_is_meant_by_its_topic_name_first() {
    let (machine, _listener, web) = machine("[repo.spog]\ntopic_name = \"sites/spog\"\n");
    machine.serve("other", &[("work.sh", NOTES_ITS_RUNS)]);
    for name in ["others/spog", "spog", "sites/spog/", "../spog", "SITE/spog"] {
        let answer = web.push(name);
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(answer.body.contains("no repository named"), "{name}: {answer:?}");
        assert!(answer.body.ends_with("here; known: sites/spog\n"), "{name}: {answer:?}");
    }
    let revision = machine.push("spog", &[("page", "new")]);
    assert!(web.push("sites/spog").body.contains("accepted: checking sites/spog"));
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
    assert_eq!(web.metric("pmpy_hooks_total{result=\"unknown\"}"), 5.0);
    // Names at forges differ by more than case.
    let revision = machine.push("spog", &[("page", "newer")]);
    assert!(web.push("SITES/Spog").body.contains("accepted: checking SITES/Spog; spog will be"));
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
}

#[test]
fn a_repository_is_meant_by_the_path_of_its_remote() {
    let (_machine, _listener, web) = machine_for(NOTES_ITS_RUNS, |machine| {
        let (server, forge) = (machine.server("spog"), "https://git.example.org/Org/Site.git");
        format!("[repo.spog]\nurl = [{:?}, {forge:?}]\n", text(&server))
    });
    for name in ["org/site", "Org/Site", "other/spog"] {
        assert!(web.push(name).body.contains("; spog will be looked at"), "{name}");
    }
    assert!(web.push("org/sites").body.contains("no repository named"));
    // A sender without the secret learns no name.
    let answer = web.post_signed("org/sites", "0");
    assert!(answer.status == 401 && !answer.body.contains("spog"), "{answer:?}");
}

/// What Gitea sends when a branch was deleted.
fn deleted(branch: &str) -> String {
    format!(
        r#"{{"ref":"{branch}","ref_type":"branch","pusher_type":"user","repository":{{"id":1,
            "full_name":"a/spog"}},"sender":{{"login":"pat"}}}}"#
    )
}

#[test]
fn a_branch_whose_deletion_is_announced_goes_at_once_and_no_other() {
    let (machine, _listener, web) = machine_for(NOTES_ITS_RUNS, |machine| {
        let live = machine.path("live");
        format!("[repo.spog]\nmode = \"branches\"\ntarget = {:?}\npoll = false\n", text(&live))
    });
    let (desk, live) = (machine.desk("spog"), machine.path("live"));
    let push = |refspec: &str| machine.git(&desk, &["push", "--quiet", "origin", refspec]);
    push("HEAD:refs/heads/topic");
    push("HEAD:refs/heads/other");
    assert_eq!(web.push("a/spog").status, 202);
    wait_until("both are there", || live.join("topic").exists() && live.join("other").exists());
    // Of the other one nobody said that it was deleted: a server that lags behind answers so.
    push(":refs/heads/topic");
    push(":refs/heads/other");
    let body = deleted("topic");
    let signature = signature(&body);
    let delete = |signature: &str| {
        web.post(&[("X-Gitea-Event", "delete"), ("X-Gitea-Signature", signature)], &body).status
    };
    let looks = || web.metric("pmpy_looks_total{repository=\"spog\"}");
    let before = looks();
    assert_eq!(delete(&signature.replace('a', "b")), 401);
    assert_eq!((looks(), live.join("topic").exists()), (before, true));
    assert_eq!(delete(&signature), 202);
    wait_until("it is gone", || !live.join("topic").exists());
    assert!(live.join("other").exists());
    // An announcement alone removes nothing.
    push("HEAD:refs/heads/topic");
    assert_eq!(web.push("a/spog").status, 202);
    wait_until("it is back", || live.join("topic").exists());
    let before = looks();
    assert_eq!(delete(&signature), 202);
    wait_until("it has looked", || looks() > before);
    assert!(live.join("topic").exists());
}

#[test]
fn a_data_center_tests_the_connection_and_a_second_secret_may_sign() {
    let (machine, listener, web) = machine("");
    let ping = web.post(&[("X-Event-Key", "diagnostics:ping"), ("X-Request-Id", "1")], "{}");
    assert_eq!(ping.status, 200, "{ping:?}");
    assert!(ping.body.contains("not signed"), "{ping:?}");
    put_secret(&machine, &format!("{SECRET}\nthe next one\n"));
    listener.signal(Signal::HUP);
    listener.logs("configuration reloaded");
    let with = |secret: &str| web.post_signed("other", &signature_with(secret, &github("other")));
    for (secret, status) in [(SECRET, 202), ("the next one", 202), ("hush", 401)] {
        assert_eq!(with(secret).status, status, "{secret}");
    }
}

#[test]
fn what_is_about_nothing_here_is_counted_and_reported_once() {
    let (_machine, listener, web) = machine("");
    for _ in 0..20 {
        assert_eq!(web.push("sites/other").status, 202);
    }
    assert_eq!(web.metric("pmpy_hooks_total{result=\"unknown\"}"), 20.0);
    assert_eq!(web.metric("pmpy_ticks_total{trigger=\"webhook\"}"), 0.0);
    assert_eq!(listener.log().matches("unknown repositories").count(), 1, "{}", listener.log());
}

#[test]
fn a_signature_that_is_wrong_or_missing_starts_no_poll() {
    let (machine, listener, web) = machine("");
    let right = signature(&github("spog"));
    let of_another_body = signature(&github("spog2"));
    let of_another_secret = signature_with("hush", &github("spog"));
    for wrong in
        ["", "0", &right[..63], &right.replace('a', "b"), &of_another_body, &of_another_secret]
    {
        let answer = web.post_signed("spog", wrong);
        assert_eq!(answer.status, 401, "{wrong}: {answer:?}");
        assert!(!answer.body.contains(&right) && !answer.body.contains(SECRET), "{answer:?}");
    }
    for headers in [
        &[][..],
        &[("X-GitHub-Event", "push")],
        &[("X-Hub-Signature-256", &format!("sha256={right}"))],
        &[("X-Gitlab-Event", "Push Hook"), ("X-Gitlab-Token", "It's a Secret")],
        &[("X-Gitea-Event", "push"), ("X-Hub-Signature-256", &format!("sha256={right}"))],
    ] {
        let answer = web.post(headers, &github("spog"));
        assert_eq!(answer.status, 401, "{headers:?}: {answer:?}");
    }
    assert_eq!(web.metric("pmpy_ticks_total{trigger=\"webhook\"}"), 0.0);
    assert_eq!(web.metric("pmpy_hooks_total{result=\"refused\"}"), 11.0);
    assert_eq!(listener.log().matches("refused").count(), 1, "{}", listener.log());
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn a_hook_that_is_sent_again_is_a_look_and_nothing_else() {
    let (machine, _listener, web) = machine("");
    let revision = machine.push("spog", &[("page", "new")]);
    let looked = || web.metric("pmpy_looks_total{repository=\"spog\"}");
    for _ in 0..3 {
        let before = looked();
        assert_eq!(web.push("spog").status, 202);
        wait_until("it has looked", || looked() > before);
        assert_eq!(machine.lastaction("spog").as_ref(), Some(&revision));
    }
    assert_eq!(machine.runs().len(), 4, "each revision once: {:?}", machine.runs());
}

#[test]
fn what_is_no_push_is_answered_in_words_and_starts_no_poll() {
    let (_machine, _listener, web) = machine("");
    let said = |event: &str, body: &str| {
        let signature = format!("sha256={}", signature(body));
        web.post(&[("X-GitHub-Event", event), ("X-Hub-Signature-256", &signature)], body)
    };
    let pinged = said("ping", "{\"zen\":\"Keep it logically awesome.\",\"hook_id\":1}");
    assert_eq!((pinged.status, pinged.body.as_str()), (200, "the signature matches secret_file\n"));
    let other = said("issues", &github("spog"));
    assert_eq!(
        (other.status, other.body.as_str()),
        (202, "nothing to do: \"issues\" is no push\n")
    );
    let request = said("push", &github("spog").replace("refs/heads/main", "refs/pull/1/head"));
    assert!(request.body.contains("neither a branch nor a tag"), "{request:?}");
    assert_eq!(said("push", "{").status, 400);
    assert_eq!(said("push", "{}").status, 422);
    assert_eq!(web.metric("pmpy_ticks_total{trigger=\"webhook\"}"), 0.0);
}

#[test]
fn a_hook_overrides_neither_the_wait_after_a_failure_nor_a_hold() {
    let (machine, _listener, web) = machine_with("exit 3", "");
    wait_until("it fails", || machine.state("spog") == "failing");
    let attempt = machine.row("spog")["attempt"].clone();
    let looks_again = || {
        let looked = || web.metric("pmpy_looks_total{repository=\"spog\"}");
        let before = looked();
        assert_eq!(web.push("spog").status, 202);
        wait_until("it has looked", || looked() > before);
    };
    looks_again();
    assert_eq!(machine.row("spog")["attempt"], attempt);
    machine.agent(&["hold", "spog", "moving house"]).ok();
    machine.push("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    looks_again();
    assert_eq!(machine.runs().len(), 0);
    assert_eq!(machine.state("spog"), "held");
}

#[test]
fn one_that_waits_for_its_own_topic_does_not_look_because_of_a_hook() {
    let bus = "[bus]\nbrokers = \"stomp://127.0.0.1:1\"\n";
    let own = "[repo.spog]\npoll = false\nlisten_topic = \"tested\"\n";
    let (_machine, _listener, web) = machine(&format!("{bus}{own}"));
    assert!(web.push("spog").body.contains("no repository named"));
    let (machine, _listener, web) = machine(&format!("{bus}[repo.spog]\npoll = false\n"));
    let revision = machine.push("spog", &[("page", "new")]);
    assert!(web.push("spog").body.contains("accepted: checking"));
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
}

#[test]
fn without_a_secret_of_its_own_it_does_not_start() {
    let machine = Sandbox::new();
    machine.configure(&configured(&machine, ""));
    for (secret, mode, reported) in [
        (None, 0, "is not there"),
        (Some(""), 0o600, "the secret is empty"),
        (Some("\u{feff}hush\n"), 0o600, "begins with a byte order mark"),
        (Some("hush\n"), 0o644, "can be read by everybody (mode 0644)"),
    ] {
        if let Some(secret) = secret {
            fs::write(secret_file(&machine), secret).unwrap();
            set_mode(&secret_file(&machine), mode);
        }
        let ran = machine.agent(&["listen"]).exits(1);
        assert!(ran.stderr.contains(reported), "{ran}");
        assert!(ran.stderr.contains("webhook.secret"), "{ran}");
        assert!(!ran.stderr.contains("hush"), "{ran}");
    }
}

#[test]
fn the_secret_is_read_anew_and_an_empty_one_is_not_taken() {
    let (machine, listener, web) = machine("");
    let with = |secret: &str| web.post_signed("other", &signature_with(secret, &github("other")));
    put_secret(&machine, "");
    listener.signal(Signal::HUP);
    listener.logs("configuration not reloaded");
    assert!(listener.log().contains("the secret is empty"), "{}", listener.log());
    assert_eq!(with(SECRET).status, 202);
    put_secret(&machine, "another\n");
    listener.signal(Signal::HUP);
    listener.logs("configuration reloaded");
    assert_eq!((with("another").status, with(SECRET).status), (202, 401));
    machine.configure("[listen]\nevery = \"1h\"\n");
    listener.signal(Signal::HUP);
    wait_until("nobody listens there", || {
        std::net::TcpStream::connect(("127.0.0.1", web.port)).is_err()
    });
}
