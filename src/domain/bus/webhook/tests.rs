//! The requests of each forge, as it sends them.

use ring::hmac;

use super::*;

const SECRET: &str = "It's a Secret to Everybody";
const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "abababababababababababababababababababab";
const ZERO: &str = "0000000000000000000000000000000000000000";

fn headers(headers: &[(&str, &str)]) -> RequestHeaders {
    RequestHeaders(
        headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
    )
}

fn signature(body: impl AsRef<[u8]>) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, body.as_ref());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn judged(said: &[(&str, &str)], body: impl AsRef<[u8]>) -> WebhookVerdict {
    judged_with(SECRET, said, body.as_ref())
}

/// The verdict with these secrets, however the body is cut into pieces.
fn judged_with(secrets: &str, said: &[(&str, &str)], body: &[u8]) -> WebhookVerdict {
    let secrets = WebhookSecrets::new(secrets).unwrap();
    let verdict = |size| {
        let mut reader = WebhookReader::new(headers(said), &secrets);
        body.chunks(size).for_each(|piece| reader.read(piece));
        reader.verdict()
    };
    let whole = verdict(body.len().max(1));
    assert_eq!(verdict(7), whole);
    whole
}

fn from_github(event: &str, body: impl AsRef<[u8]>) -> WebhookVerdict {
    let signature = format!("sha256={}", signature(&body));
    judged(&[("X-GitHub-Event", event), ("X-Hub-Signature-256", &signature)], body)
}

#[track_caller]
fn news(verdict: WebhookVerdict) -> PushNotification {
    match verdict {
        WebhookVerdict::News(news) => news,
        other => panic!("news was expected: {other:?}"),
    }
}

fn moved(name: &str, old: &str, new: &str) -> RefUpdate {
    format!("{old} {new} {name}").parse().unwrap()
}

fn pushed(name: &str) -> String {
    format!(
        r#"{{"ref":"{name}","before":"{OLD}","after":"{NEW}","repository":{{"name":"spog",
           "full_name":"sites/spog"}},"pusher":{{"name":"pat"}}}}"#
    )
}

#[test]
fn a_signature_that_others_computed_is_right() {
    // From GitHub's documentation.
    let parsed = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let said = |signature: &str| {
        judged(&[("x-github-event", "push"), ("x-hub-signature-256", signature)], "Hello, World!")
    };
    assert_eq!(said(&format!("sha256={parsed}")), WebhookVerdict::Refused(WebhookRefusal::NotJson));
    assert_eq!(said(&format!("sha256={}", parsed.replace('7', "8"))), forged());
    assert_eq!(said(&parsed[..40]), forged());
}

fn forged() -> WebhookVerdict {
    WebhookVerdict::Refused(WebhookRefusal::Forged)
}

fn unsigned() -> WebhookVerdict {
    WebhookVerdict::Refused(WebhookRefusal::Unsigned)
}

#[test]
fn github_says_which_branch_of_which_repository_moved() {
    let parsed = news(from_github("push", pushed("refs/heads/main")));
    assert_eq!((parsed.names(), parsed.user.as_str()), (["sites/spog", "spog"], "pat"));
    assert_eq!(parsed.updates, [moved("refs/heads/main", OLD, NEW)]);
    let form = "payload=%7B%22ref%22%3A%22refs%2Ftags%2Fv1%22%2C+%22repository%22%3A%7B\
                %22full_name%22%3A%22a%2Fb%22%7D%7D&x=y";
    let signature = format!("sha256={}", signature(form));
    let parsed = news(judged(
        &[
            ("X-GitHub-Event", "push"),
            ("X-Hub-Signature", "sha1=0"),
            ("X-Hub-Signature-256", &signature),
        ],
        form,
    ));
    assert_eq!((parsed.repo.as_str(), parsed.updates[0].name.as_str()), ("a/b", "refs/tags/v1"));
}

#[test]
fn gitea_forgejo_and_gogs_sign_the_json_without_a_word_before_it() {
    let body = pushed("refs/heads/main");
    let signature = signature(&body);
    for forge in ["Gitea", "Forgejo", "Gogs"] {
        let (event, header) = (format!("X-{forge}-Event"), format!("X-{forge}-Signature"));
        // These forges also send GitHub's headers; their own headers count.
        let said = |own: &str| {
            judged(
                &[
                    ("X-GitHub-Event", "push"),
                    ("X-Hub-Signature-256", &format!("sha256={signature}")),
                    (&event, "push"),
                    (&header, own),
                ],
                &body,
            )
        };
        assert_eq!(news(said(&signature)).repo, "sites/spog");
        assert_eq!(said(&signature.replace('a', "b")), forged());
        // The request of a forge without a secret.
        assert_eq!(said(""), unsigned());
    }
    let form = "payload=%7B%22repository%22%3A%7B%22full_name%22%3A%22a%2Fb%22%7D%7D";
    let signature = self::signature(r#"{"repository":{"full_name":"a/b"}}"#);
    let parsed = judged(&[("x-gitea-event", "push"), ("x-gitea-signature", &signature)], form);
    assert_eq!(news(parsed).repo, "a/b");
}

/// The body from GitLab; a display name is not a user name.
fn gitlab(kind: &str) -> String {
    format!(
        "{{\"object_kind\":\"{kind}\",\"ref\":\"refs/heads/main\",\"before\":\"{ZERO}\",\
         \"after\":\"{NEW}\",\"user_username\":\"pat\",\"project\":{{\"name\":\"Spog Site\",\
         \"path_with_namespace\":\"sites/spog\"}},\"repository\":{{\"name\":\"Spog Site\"}}}}"
    )
}

#[test]
fn gitlab_says_the_secret_itself() {
    let said = |token: &str, body: &str| {
        judged(&[("X-Gitlab-Event", "Push Hook"), ("X-Gitlab-Token", token)], body)
    };
    let parsed = news(said(SECRET, &gitlab("push")));
    assert_eq!((parsed.names(), parsed.user.as_str()), (["sites/spog", "spog"], "pat"));
    assert_eq!(parsed.updates, [moved("refs/heads/main", ZERO, NEW)]);
    assert_eq!(news(said(SECRET, &gitlab("tag_push"))).repo, "sites/spog");
    assert_eq!(
        said(SECRET, &gitlab("issue")),
        WebhookVerdict::Other("\"issue\" is no push".to_owned())
    );
    assert_eq!(said("It's a Secret", &gitlab("push")), forged());
    assert_eq!(said("", &gitlab("push")), unsigned());
    assert_eq!(judged(&[("X-Gitlab-Event", "Push Hook")], gitlab("push")), unsigned());
}

#[test]
fn a_system_hook_of_gitlab_lists_what_was_pushed() {
    let body = format!(
        r#"{{"event_name":"repository_update","user_name":"Pat","project":{{"path_with_namespace":
           "sites/spog"}},"changes":[{{"before":"{OLD}","after":"{NEW}","ref":"refs/heads/main"}},
           {{"before":"{OLD}","after":"{ZERO}","ref":"refs/tags/v1"}}],
           "refs":["refs/heads/main"]}}"#
    );
    let said = judged(&[("X-Gitlab-Event", "System Hook"), ("X-Gitlab-Token", SECRET)], &body);
    let expected = [moved("refs/heads/main", OLD, NEW), moved("refs/tags/v1", OLD, ZERO)];
    assert_eq!(news(said).updates, expected);
}

#[test]
fn gitlab_signs_with_the_decoded_bytes_of_its_own_secret() {
    // Computed by Python's hmac over "msg_1.1795337971." and the body.
    let right = "v1,jdxlAEvGAoO5ehzjynQ9H9oA7rduJC3XNMRRTVD3b8Q=";
    let secret = "whsec_YSBzZWNyZXQgb2YgR2l0TGFiJ3Mgb3duIG1ha2luZw==";
    let said = |signature: &str, time: &str| {
        let headers = [
            ("x-gitlab-event", "Push Hook"),
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", time),
            ("webhook-signature", signature),
            // Without effect next to a signature.
            ("x-gitlab-token", secret),
        ];
        judged_with(&format!("another\n{secret}\n"), &headers, gitlab("push").as_bytes())
    };
    assert_eq!(news(said(right, "1795337971")).repo, "sites/spog");
    assert_eq!(news(said(&format!("v1,AAAA v2,x {right}"), "1795337971")).repo, "sites/spog");
    for (signature, time) in [(right, "1795337972"), ("v1,AAAA", "1795337971"), ("", "1795337971")]
    {
        assert_eq!(said(signature, time), forged());
    }
}

#[test]
fn bitbucket_lists_what_was_pushed() {
    let cloud = format!(
        r#"{{"actor":{{"nickname":"pat"}},"repository":{{"name":"Spog Site","full_name":"sites/spog"}},
           "push":{{"changes":[
           {{"old":null,"new":{{"type":"branch","name":"main","target":{{"hash":"{NEW}"}}}}}},
           {{"old":{{"type":"tag","name":"v1","target":{{"hash":"{OLD}"}}}},"new":null}},
           {{"old":null,"new":{{"type":"bookmark","name":"x","target":{{"hash":"{NEW}"}}}}}}]}}}}"#
    );
    let data_center = format!(
        r#"{{"actor":{{"name":"pat"}},"repository":{{"slug":"spog","project":{{"key":"SITES"}}}},
           "changes":[{{"ref":{{"id":"refs/heads/main"}},"fromHash":"{OLD}","toHash":"{NEW}"}}]}}"#
    );
    let said = |event: &str, body: &str| {
        let signature = format!("sha256={}", signature(body));
        judged(&[("X-Event-Key", event), ("X-Hub-Signature", &signature)], body)
    };
    let parsed = news(said("repo:push", &cloud));
    assert_eq!((parsed.names(), parsed.user.as_str()), (["sites/spog", "spog"], "pat"));
    let expected = [moved("refs/heads/main", ZERO, NEW), moved("refs/tags/v1", OLD, ZERO)];
    assert_eq!(parsed.updates, expected);
    let parsed = news(said("repo:refs_changed", &data_center));
    assert_eq!(parsed.names(), ["SITES/spog", "spog"]);
    assert_eq!(parsed.updates, [moved("refs/heads/main", OLD, NEW)]);
    assert_eq!(said("diagnostics:ping", r#"{"test":true}"#), WebhookVerdict::Ping);
}

#[test]
fn a_client_that_can_sign_can_call() {
    let said = |body: &str| judged(&[("X-Pmpy-Signature", &signature(body))], body);
    let parsed = news(said(r#"{"repository": "spog"}"#));
    assert_eq!((parsed.names(), parsed.updates.len()), (["spog", "spog"], 0));
    let body = format!(r#"{{"repository":"spog","ref":"refs/tags/v1","after":"{NEW}"}}"#);
    assert_eq!(news(said(&body)).updates, [moved("refs/tags/v1", ZERO, NEW)]);
    assert_eq!(judged(&[("X-Pmpy-Signature", "sha256=")], "{}"), unsigned());
}

#[test]
fn what_is_no_push_is_reported_in_words() {
    assert_eq!(from_github("ping", r#"{"zen":"Keep it simple."}"#), WebhookVerdict::Ping);
    let other = |event: &str, body: &str| match from_github(event, body) {
        WebhookVerdict::Other(why) => why,
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!(other("issues", "{}"), "\"issues\" is no push");
    assert_eq!(other("\u{1b}[2J", "{}"), "\"\\u{1b}[2J\" is no push");
    assert!(other("push", &pushed("refs/pull/1/head")).contains("neither a branch nor a tag"));
}

#[test]
fn what_names_no_repository_is_refused() {
    for (body, refusal) in [
        ("", WebhookRefusal::NotJson),
        ("[]", WebhookRefusal::NotJson),
        ("{\"repository\":", WebhookRefusal::NotJson),
        ("{}", WebhookRefusal::Nameless),
        (r#"{"repository":{"full_name":3}}"#, WebhookRefusal::Nameless),
        (r#"{"repository":{"full_name":" "}}"#, WebhookRefusal::Nameless),
        (r#"{"repository":{"full_name":"a\u001bb"}}"#, WebhookRefusal::Nameless),
    ] {
        assert_eq!(from_github("push", body), WebhookVerdict::Refused(refusal), "{body}");
    }
    let long = format!(r#"{{"repository":{{"full_name":"{}"}}}}"#, "a".repeat(201));
    assert_eq!(from_github("push", &long), WebhookVerdict::Refused(WebhookRefusal::Nameless));
    assert_eq!(judged(&[], pushed("refs/heads/main")), unsigned());
    assert_eq!(judged(&[("X-GitHub-Event", "push")], "{}"), unsigned());
}

#[test]
fn a_deleted_ref_is_reported_however_the_forge_says_so() {
    let deleted = |event: &str, body: &str| {
        let headers = [("X-Gitea-Event", event), ("X-Gitea-Signature", &signature(body))];
        news(judged(&headers, body)).deleted
    };
    let named = |kind: &str| {
        format!(
            r#"{{"ref":"topic/x","ref_type":"{kind}","pusher_type":"user",
               "repository":{{"full_name":"sites/spog"}},"sender":{{"login":"pat"}}}}"#
        )
    };
    assert_eq!(deleted("delete", &named("branch")), ["refs/heads/topic/x"]);
    assert_eq!(deleted("delete", &named("tag")), ["refs/tags/topic/x"]);
    assert!(deleted("create", &named("branch")).is_empty());
    assert!(deleted("push", &pushed("refs/heads/main")).is_empty());
    assert_eq!(deleted("push", &pushed("refs/heads/main").replace(NEW, ZERO)), ["refs/heads/main"]);
    let parsed = news(from_github("delete", named("branch")));
    assert_eq!((parsed.user.as_str(), parsed.repo.as_str()), ("pat", "sites/spog"));
    assert_eq!(parsed.deleted, ["refs/heads/topic/x"]);
    // A client that does not know the new object announces no deletion.
    let body = r#"{"repository":"spog","ref":"refs/heads/main"}"#;
    let parsed = news(judged(&[("X-Pmpy-Signature", &signature(body))], body));
    assert_eq!((parsed.updates.len(), parsed.deleted.len()), (1, 0));
}

#[test]
fn a_data_center_tests_the_connection_without_a_signature() {
    let ping = ("X-Event-Key", "diagnostics:ping");
    let body = r#"{"test": true}"#;
    assert_eq!(judged(&[ping], body), WebhookVerdict::UnsignedPing);
    assert_eq!(judged(&[ping, ("X-Hub-Signature", "sha256=0")], body), forged());
    for event in ["repo:refs_changed", "mirror:repo_synchronized", "ping"] {
        assert_eq!(judged(&[("X-Event-Key", event)], body), unsigned(), "{event}");
    }
}

#[test]
fn a_mirror_that_was_synchronized_is_a_push() {
    let body = format!(
        r#"{{"date":"2026-11-28T12:00:00+0100","mirrorServer":{{"id":"B1","name":"Mirror"}},
           "syncType":"INCREMENTAL","refLimitExceeded":false,"repository":{{"slug":"spog","id":1,
           "project":{{"key":"SITES"}}}},"changes":[{{"ref":{{"id":"refs/heads/main","displayId":
           "main","type":"BRANCH"}},"refId":"refs/heads/main","fromHash":"{OLD}","toHash":"{ZERO}",
           "type":"DELETE"}}]}}"#
    );
    let signature = format!("sha256={}", signature(&body));
    let headers = [("X-Event-Key", "mirror:repo_synchronized"), ("X-Hub-Signature", &signature)];
    let parsed = news(judged(&headers, body));
    assert_eq!(parsed.repo, "SITES/spog");
    assert_eq!(parsed.deleted, ["refs/heads/main"]);
}

#[test]
fn any_of_several_secrets_may_sign_while_one_is_replaced() {
    let body = pushed("refs/heads/main");
    let signed = format!("sha256={}", signature(&body));
    let hub = [("X-GitHub-Event", "push"), ("X-Hub-Signature-256", signed.as_str())];
    let token = [("X-Gitlab-Event", "Push Hook"), ("X-Gitlab-Token", SECRET)];
    for (secrets, is_known) in [
        (format!("{SECRET}\nnew"), true),
        (format!("new\n{SECRET}\n"), true),
        ("new".into(), false),
    ] {
        for (headers, body) in [(&hub, &body), (&token, &gitlab("push"))] {
            let verdict = judged_with(&secrets, headers, body.as_bytes());
            match is_known {
                true => assert_eq!(news(verdict).repo, "sites/spog"),
                false => assert_eq!(verdict, forged()),
            }
        }
    }
}

#[test]
fn a_commit_message_in_another_encoding_hides_no_push() {
    let body = pushed("refs/heads/main").into_bytes();
    let commits = b",\"commits\":[{\"message\":\"caf\xe9 \\ud83d\"}]}";
    let body = [&body[..body.len() - 1], commits].concat();
    assert_eq!(news(from_github("push", &body)).updates, [moved("refs/heads/main", OLD, NEW)]);
}
