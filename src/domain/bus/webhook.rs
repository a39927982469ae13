//! Web hooks: turns the request of a git forge into the repository that was pushed to. Only requests
//! signed with the secret are parsed, and only for names: a hook is a hint to poll, like a message on
//! the bus, so a repeated, late or replayed one does no harm.
//!
//! | forge | header that names it | proof |
//! | --- | --- | --- |
//! | Forgejo, Gitea | `X-Forgejo-Event`, `X-Gitea-Event` | HMAC of the JSON, bare, in `X-…-Signature` |
//! | GitLab | `X-Gitlab-Event` | HMAC of id.time.body in `webhook-signature` or secret in `X-Gitlab-Token` |
//! | GitHub | `X-GitHub-Event` | HMAC of the body in `X-Hub-Signature-256` |
//! | Bitbucket | `X-Event-Key` | HMAC of the body in `X-Hub-Signature` |
//! | any other | `X-Pmpy-Signature` | HMAC of the body there |
//!
//! Every HMAC uses SHA-256. Knows no HTTP server; the limit of a request's size is set elsewhere.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use ring::hmac;
use serde_json::Value;

use crate::domain::bus::message::{LONGEST_NAME, LONGEST_REF, RefUpdate, is_plain, unless_zero};
use crate::domain::git::ObjectId;
use crate::domain::text::EscapeControls;

/// The prefix of secrets that GitLab generated; base64 follows.
const GITLAB_SECRET: &str = "whsec_";
/// The prefixes of branches and tags.
const FOLDERS: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The limit of refs that are read from one request.
const MOST_UPDATES: usize = 100;
/// The limit for the display of foreign text, in characters.
const SHOWN: usize = 60;

/// The secret shared with a forge. Never displayed.
pub struct WebhookSecret {
    text: String,
}

impl WebhookSecret {
    /// The secret in the first line of `text`.
    ///
    /// # Errors
    /// The line is empty: such a secret is no protection.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.lines().next().unwrap_or_default().trim().to_owned();
        if text.is_empty() {
            return Err("the secret is empty, so that any client could sign\n\
                 hint: write a long random line into the file, and the same at the forge: \
                 openssl rand -hex 32"
                .to_owned());
        }
        Ok(Self { text })
    }

    /// The HMAC key for most forges.
    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.text.as_bytes())
    }

    /// The HMAC key for GitLab's signatures: its generated secrets are decoded.
    fn gitlab_key(&self) -> hmac::Key {
        let bytes =
            self.text.strip_prefix(GITLAB_SECRET).and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.unwrap_or_else(|| self.text.clone().into_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, &bytes)
    }

    /// Compares `text` with the secret in constant time, so that the duration reveals nothing.
    fn is(&self, text: &str) -> bool {
        let key = self.key();
        let ours = hmac::sign(&key, self.text.as_bytes());
        hmac::verify(&key, text.as_bytes(), ours.as_ref()).is_ok()
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The headers of a request: names in any case; values that are no text are left out.
#[derive(Clone, Debug, Default)]
pub struct RequestHeaders(pub Vec<(String, String)>);

impl RequestHeaders {
    /// The first header called `name`.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookVerdict {
    /// A push to this repository.
    News(PushNotification),
    /// A test of the connection by the forge.
    Ping,
    /// A signed request about something else; with a message.
    Other(String),
    /// A refused request.
    Refused(WebhookRefusal),
}

/// A push to one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushNotification {
    /// The forge's name for the repository, such as `sites/spog`.
    pub repo: String,
    /// The user who pushed.
    pub user: String,
    /// The pushed branches and tags; empty where the forge does not list them.
    pub updates: Vec<RefUpdate>,
}

impl PushNotification {
    /// The possible local names: the forge's name, and its last part.
    pub fn names(&self) -> [&str; 2] {
        [&self.repo, self.repo.rsplit('/').next().unwrap_or_default()]
    }
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookRefusal {
    /// The request has no signature or token that we know.
    Unsigned,
    /// The signature or token is wrong.
    Forged,
    /// The body is no JSON.
    NotJson,
    /// The body names no repository.
    Nameless,
}

impl WebhookRefusal {
    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Unsigned | Self::Forged => 401,
            Self::NotJson => 400,
            Self::Nameless => 422,
        }
    }
}

impl fmt::Display for WebhookRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "the request is not signed; set the secret at the forge",
            Self::Forged => "the signature does not match secret_file",
            Self::NotJson => "the body is not JSON; choose application/json at the forge",
            Self::Nameless => "the body names no repository",
        })
    }
}

/// Verifies a request and reads its event.
pub fn verify(headers: &RequestHeaders, body: &[u8], secret: &WebhookSecret) -> WebhookVerdict {
    let Some(forge) = Forge::of(headers) else {
        return WebhookVerdict::Refused(WebhookRefusal::Unsigned);
    };
    let json = payload(body);
    // The signature is checked before anything in the body is read.
    if let Err(refusal) = forge.prove(headers, body, &json, secret) {
        return WebhookVerdict::Refused(refusal);
    }
    let json = serde_json::from_slice::<Value>(&json).ok();
    let Some(json) = json.filter(Value::is_object) else {
        return WebhookVerdict::Refused(WebhookRefusal::NotJson);
    };
    let event = match forge.event(headers, &json) {
        WebhookEvent::Push => return push(forge, &json),
        WebhookEvent::Ping => return WebhookVerdict::Ping,
        WebhookEvent::Other(event) => event,
    };
    let shown: String = event.chars().take(SHOWN).collect();
    WebhookVerdict::Other(format!("\"{}\" is no push", shown.escape_controls()))
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forge {
    Forgejo,
    Gitea,
    GitLab,
    GitHub,
    Bitbucket,
    Generic,
}

/// The event of a request.
enum WebhookEvent {
    Push,
    Ping,
    Other(String),
}

impl Forge {
    /// The forge that the headers name: a forge that imitates others is checked before them.
    fn of(headers: &RequestHeaders) -> Option<Self> {
        let marks = [
            (Self::Forgejo, "x-forgejo-event"),
            (Self::Gitea, "x-gitea-event"),
            (Self::GitLab, "x-gitlab-event"),
            (Self::GitHub, "x-github-event"),
            (Self::Bitbucket, "x-event-key"),
            (Self::Generic, "x-pmpy-signature"),
        ];
        marks.into_iter().find(|(_, mark)| headers.has(mark)).map(|(forge, _)| forge)
    }

    /// Checks that the sender knows the secret. `json` is the body, or the form field in it.
    fn prove(
        self,
        headers: &RequestHeaders,
        body: &[u8],
        json: &[u8],
        secret: &WebhookSecret,
    ) -> Result<(), WebhookRefusal> {
        let (header, signed) = match self {
            Self::Forgejo => ("x-forgejo-signature", json),
            Self::Gitea => ("x-gitea-signature", json),
            Self::GitLab => return prove_gitlab(headers, body, secret),
            Self::GitHub => ("x-hub-signature-256", body),
            Self::Bitbucket => ("x-hub-signature", body),
            Self::Generic => ("x-pmpy-signature", body),
        };
        let said = headers.get(header).unwrap_or_default();
        let said = said.strip_prefix("sha256=").unwrap_or(said);
        // Gitea without a secret sends an empty signature.
        if said.is_empty() {
            return Err(WebhookRefusal::Unsigned);
        }
        // A SHA-256 HMAC has as many digits as a SHA-256 object id.
        let tag: ObjectId = said.parse().map_err(|_| WebhookRefusal::Forged)?;
        hmac::verify(&secret.key(), signed, tag.as_bytes()).map_err(|_| WebhookRefusal::Forged)
    }

    fn event(self, headers: &RequestHeaders, json: &Value) -> WebhookEvent {
        let (event, pushes): (_, &[&str]) = match self {
            Self::Forgejo => (headers.get("x-forgejo-event"), &["push"]),
            Self::Gitea => (headers.get("x-gitea-event"), &["push"]),
            Self::GitHub => (headers.get("x-github-event"), &["push"]),
            Self::Bitbucket => (headers.get("x-event-key"), &["repo:push", "repo:refs_changed"]),
            // The header of a system hook does not name the event.
            Self::GitLab => (
                text(json, "/object_kind").or_else(|| text(json, "/event_name")),
                &["push", "tag_push", "repository_update"],
            ),
            Self::Generic => return WebhookEvent::Push,
        };
        match event.unwrap_or_default() {
            event if pushes.contains(&event) => WebhookEvent::Push,
            "ping" | "diagnostics:ping" => WebhookEvent::Ping,
            event => WebhookEvent::Other(event.to_owned()),
        }
    }
}

/// Checks a GitLab request, which has a signature or the secret itself.
fn prove_gitlab(
    headers: &RequestHeaders,
    body: &[u8],
    secret: &WebhookSecret,
) -> Result<(), WebhookRefusal> {
    if let Some(said) = headers.get("webhook-signature") {
        let part = |name| headers.get(name).unwrap_or_default();
        let start = format!("{}.{}.", part("webhook-id"), part("webhook-timestamp"));
        let signed = [start.as_bytes(), body].concat();
        let key = secret.gitlab_key();
        // There are several signatures while a secret is being replaced.
        let tags = said.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        let is_any_right = tags.into_iter().any(|tag| hmac::verify(&key, &signed, &tag).is_ok());
        return if is_any_right { Ok(()) } else { Err(WebhookRefusal::Forged) };
    }
    match headers.get("x-gitlab-token") {
        None | Some("") => Err(WebhookRefusal::Unsigned),
        Some(said) if secret.is(said) => Ok(()),
        Some(_) => Err(WebhookRefusal::Forged),
    }
}

/// The JSON in a body: a form's field, or the body itself. The content type is ignored, because some
/// clients label everything a form.
fn payload(body: &[u8]) -> Cow<'_, [u8]> {
    let Some(form) = body.strip_prefix(b"payload=") else { return Cow::Borrowed(body) };
    let field = form.split(|&byte| byte == b'&').next().unwrap_or_default();
    let spaced: Vec<u8> =
        field.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// The pushed refs, and their repository.
fn push(forge: Forge, json: &Value) -> WebhookVerdict {
    let named = repository(forge, json).map(|repo| repo.trim().to_owned());
    let Some(repo) = named.filter(|repo| is_plain(repo, LONGEST_NAME)) else {
        return WebhookVerdict::Refused(WebhookRefusal::Nameless);
    };
    let users =
        ["/pusher/name", "/pusher/login", "/user_username", "/actor/nickname", "/actor/name"];
    let user = users.iter().find_map(|at| text(json, at)).or_else(|| text(json, "/user"));
    let user = user.filter(|user| is_plain(user, LONGEST_NAME)).unwrap_or_default().to_owned();
    let mut updates = updates(json);
    let is_told = !updates.is_empty();
    updates.retain(|update| FOLDERS.iter().any(|dir| update.name.starts_with(dir)));
    if is_told && updates.is_empty() {
        return WebhookVerdict::Other("the pushed ref is neither a branch nor a tag".to_owned());
    }
    WebhookVerdict::News(PushNotification { repo, user, updates })
}

fn repository(forge: Forge, json: &Value) -> Option<String> {
    let at = match forge {
        Forge::Forgejo | Forge::Gitea | Forge::GitHub => "/repository/full_name",
        Forge::GitLab => "/project/path_with_namespace",
        Forge::Bitbucket => "/repository/full_name",
        Forge::Generic => "/repository",
    };
    if let Some(name) = text(json, at) {
        return Some(name.to_owned());
    }
    // The form of Bitbucket Data Center.
    let key = text(json, "/repository/project/key")?;
    Some(format!("{key}/{}", text(json, "/repository/slug")?))
}

/// The pushed refs: one at the top level for most forges, a list for Bitbucket and GitLab's system
/// hooks.
fn updates(json: &Value) -> Vec<RefUpdate> {
    let lists = ["/push/changes", "/changes"].iter().filter_map(|at| json.pointer(at)?.as_array());
    let listed = lists.flatten().take(MOST_UPDATES);
    let all = [json].into_iter().chain(listed).filter_map(update);
    all.filter(|update| is_plain(&update.name, LONGEST_REF)).collect()
}

/// The pushed ref in `json`.
fn update(json: &Value) -> Option<RefUpdate> {
    let first = |places: &[&str]| places.iter().find_map(|at| text(json, at));
    let name = match first(&["/ref", "/ref/id"]) {
        Some(name) => name.to_owned(),
        None => {
            let dir = match first(&["/new/type", "/old/type"])? {
                "tag" => "refs/tags",
                "branch" | "named_branch" => "refs/heads",
                _ => "refs",
            };
            format!("{dir}/{}", first(&["/new/name", "/old/name"])?)
        }
    };
    let id = |places: &[&str]| first(places)?.parse::<ObjectId>().ok().and_then(unless_zero);
    Some(RefUpdate {
        old: id(&["/before", "/fromHash", "/old/target/hash"]),
        new: id(&["/after", "/toHash", "/new/target/hash"]),
        name,
    })
}

fn text<'a>(json: &'a Value, at: &str) -> Option<&'a str> {
    json.pointer(at)?.as_str()
}

#[cfg(test)]
mod tests;
