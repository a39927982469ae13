//! Any bytes as what a forge sends: without the secret nothing of them counts, with it they are read or
//! refused, and what is read can be said on the bus and means the same there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::bus::message::{PushHint, PushMessage, Topic};
use pmpy::domain::bus::webhook::{
    PushNotification, RequestHeaders, WebhookReader, WebhookRefusal, WebhookSecrets, WebhookVerdict,
};
use ring::hmac;

const SECRET: &str = "hush";

fn headers(all: &[(&str, &str)]) -> RequestHeaders {
    RequestHeaders(all.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The headers of each forge for a body with this signature.
fn forges(signature: &str) -> Vec<RequestHeaders> {
    let sha256 = format!("sha256={signature}");
    vec![
        headers(&[("x-github-event", "push"), ("x-hub-signature-256", &sha256)]),
        headers(&[("x-gitlab-event", "Push Hook"), ("x-gitlab-token", SECRET)]),
        headers(&[("x-gitea-event", "push"), ("x-gitea-signature", signature)]),
        headers(&[("x-gitea-event", "delete"), ("x-gitea-signature", signature)]),
        headers(&[("x-forgejo-event", "push"), ("x-forgejo-signature", signature)]),
        headers(&[("x-event-key", "repo:push"), ("x-hub-signature", &sha256)]),
        headers(&[("x-pmpy-signature", &sha256)]),
    ]
}

/// The verdict on a body that comes in two pieces.
fn verify(headers: &RequestHeaders, body: &[u8], secrets: &WebhookSecrets) -> WebhookVerdict {
    let mut reader = WebhookReader::new(headers.clone(), secrets);
    let (start, rest) = body.split_at(body.len() / 2);
    reader.read(start);
    reader.read(rest);
    reader.verdict()
}

fn is_plain(text: &str) -> bool {
    !text.contains(char::is_control)
}

fn look_at(news: &PushNotification) {
    assert!(!news.repo.is_empty() && news.repo.len() <= 200 && is_plain(&news.repo), "{news:?}");
    assert!(is_plain(&news.user) && news.names()[0] == news.repo, "{news:?}");
    for update in &news.updates {
        let known = ["refs/heads/", "refs/tags/"].iter().any(|at| update.name.starts_with(at));
        assert!(known && is_plain(&update.name), "{update:?}");
        let PushNotification { repo, user, .. } = news;
        let frame = PushMessage { repo, update, user, log: &[] }.frame(&Topic::default());
        let hint = PushHint::read(&frame);
        assert!(hint.is_some_and(|hint| hint.repo == *repo), "{frame:?}");
    }
}

fuzz_target!(|body: &[u8]| {
    let secret = WebhookSecrets::new(SECRET).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, body);
    let right: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for headers in forges(&right) {
        match verify(&headers, body, &secret) {
            WebhookVerdict::News(news) => look_at(&news),
            WebhookVerdict::Other(what) => {
                assert!(is_plain(&what) && what.len() < 1000, "{what:?}")
            }
            WebhookVerdict::Ping | WebhookVerdict::UnsignedPing | WebhookVerdict::Refused(_) => {}
        }
    }
    let unproved = [
        WebhookVerdict::Refused(WebhookRefusal::Unsigned),
        WebhookVerdict::Refused(WebhookRefusal::Forged),
    ];
    // It proves nothing of itself.
    let said = String::from_utf8_lossy(body);
    let said = said.as_ref();
    if said != right && said != SECRET {
        let gitlab = headers(&[("x-gitlab-event", "Push Hook"), ("x-gitlab-token", said)]);
        let signed = headers(&[("x-gitlab-event", "Push Hook"), ("webhook-signature", said)]);
        let wrong = forges(said).into_iter().enumerate().filter(|(forge, _)| *forge != 1);
        for headers in wrong.map(|(_, headers)| headers).chain([gitlab, signed]) {
            assert!(unproved.contains(&verify(&headers, body, &secret)), "{headers:?}");
        }
    }
});
