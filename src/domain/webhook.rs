//! Web hooks: what a git forge says when somebody pushed (bytes -> which repository has news). Only
//! what is signed with the secret is read at all, and of that only names: a hook is a hint to look, as
//! a message on the bus is, so one that is sent twice, late or again by a stranger does no harm.
//!
//! | forge | said to be one by | proof |
//! | --- | --- | --- |
//! | Forgejo, Gitea | `X-Forgejo-Event`, `X-Gitea-Event` | HMAC of the JSON, bare, in `X-…-Signature` |
//! | GitLab | `X-Gitlab-Event` | HMAC of id, time and body in `webhook-signature`, or the secret itself in `X-Gitlab-Token` |
//! | GitHub | `X-GitHub-Event` | HMAC of the body in `X-Hub-Signature-256` |
//! | Bitbucket | `X-Event-Key` | HMAC of the body in `X-Hub-Signature` |
//! | anybody | `X-Pmpy-Signature` | HMAC of the body there |
//!
//! Every HMAC is of SHA-256. Knows no HTTP server; how long a request may be is not its business.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use ring::hmac;
use serde_json::Value;

use super::bus::{LONGEST_NAME, LONGEST_REF, Update, is_plain, unless_zero};
use super::git::Id;

/// How GitLab begins a secret that it made itself; base64 follows.
const GITLAB_SECRET: &str = "whsec_";
/// Where branches and tags are.
const FOLDERS: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The most refs of one request that count.
const MOST_UPDATES: usize = 100;
/// How much of a foreign word is shown, in characters.
const SHOWN: usize = 60;

/// What both sides know. Never shown.
pub struct Secret {
    text: String,
}

impl Secret {
    /// The first line of `text`.
    ///
    /// # Errors
    /// When there is nothing in it: everybody knows nothing.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.lines().next().unwrap_or_default().trim().to_owned();
        if text.is_empty() {
            return Err("the secret is empty, and everybody could know it\n\
                 hint: write a long random line into the file, and the same at the forge: \
                 openssl rand -hex 32"
                .to_owned());
        }
        Ok(Self { text })
    }

    /// The key of most forges.
    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.text.as_bytes())
    }

    /// The key of GitLab's signatures: what its own secrets stand for.
    fn gitlab_key(&self) -> hmac::Key {
        let bytes =
            self.text.strip_prefix(GITLAB_SECRET).and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.unwrap_or_else(|| self.text.clone().into_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, &bytes)
    }

    /// Whether `text` is the secret, in a time that does not tell how much of it is right.
    fn is(&self, text: &str) -> bool {
        let key = self.key();
        let ours = hmac::sign(&key, self.text.as_bytes());
        hmac::verify(&key, text.as_bytes(), ours.as_ref()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The headers of a request, as they came: names in any case, values that are no text left out.
#[derive(Clone, Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first that is called `name`.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// What follows from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This repository has news.
    News(News),
    /// The forge tries whether it gets through.
    Ping,
    /// It is signed, and about something else; what, in words.
    Other(String),
    /// It is not listened to.
    Refused(Refusal),
}

/// Which repository has news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What the forge calls it, such as `sites/spog`.
    pub repo: String,
    /// Who pushed.
    pub user: String,
    /// What was pushed, where it is told: branches and tags.
    pub updates: Vec<Update>,
}

impl News {
    /// What the repository may be called here: as the forge has it, or by the last part of that.
    pub fn names(&self) -> [&str; 2] {
        [&self.repo, self.repo.rsplit('/').next().unwrap_or_default()]
    }
}

/// Why a request is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It carries no proof that we know.
    Unsigned,
    /// Its proof is wrong.
    Forged,
    /// Its body is no JSON.
    NotJson,
    /// Its body names no repository.
    Nameless,
}

impl Refusal {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Unsigned | Self::Forged => 401,
            Self::NotJson => 400,
            Self::Nameless => 422,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "it is not signed; give the forge the secret",
            Self::Forged => "the signature is wrong; the secret here is another one",
            Self::NotJson => "the body is no JSON; let the forge send application/json",
            Self::Nameless => "the body names no repository",
        })
    }
}

/// Judges a request that was posted to us.
pub fn judge(headers: &Headers, body: &[u8], secret: &Secret) -> Verdict {
    let Some(forge) = Forge::of(headers) else { return Verdict::Refused(Refusal::Unsigned) };
    let json = payload(body);
    // Before anything in it is looked at.
    if let Err(refusal) = forge.prove(headers, body, &json, secret) {
        return Verdict::Refused(refusal);
    }
    let json = serde_json::from_slice::<Value>(&json).ok();
    let Some(json) = json.filter(Value::is_object) else {
        return Verdict::Refused(Refusal::NotJson);
    };
    let event = match forge.event(headers, &json) {
        Event::Push => return push(forge, &json),
        Event::Ping => return Verdict::Ping,
        Event::Other(event) => event,
    };
    let shown: String = event.chars().take(SHOWN).collect();
    Verdict::Other(format!("\"{}\" is no push", shown.escape_debug()))
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forge {
    Forgejo,
    Gitea,
    GitLab,
    GitHub,
    Bitbucket,
    Generic,
}

/// What a request is about.
enum Event {
    Push,
    Ping,
    Other(String),
}

impl Forge {
    /// Whoever the headers say: each forge that imitates others stands before them.
    fn of(headers: &Headers) -> Option<Self> {
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

    /// Whether whoever sent it knows the secret. `json` is the body, or what a form carries in it.
    fn prove(
        self,
        headers: &Headers,
        body: &[u8],
        json: &[u8],
        secret: &Secret,
    ) -> Result<(), Refusal> {
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
        // Gitea without a secret sends an empty one.
        if said.is_empty() {
            return Err(Refusal::Unsigned);
        }
        // It has as many digits as an id of a commit.
        let tag: Id = said.parse().map_err(|_| Refusal::Forged)?;
        hmac::verify(&secret.key(), signed, tag.as_bytes()).map_err(|_| Refusal::Forged)
    }

    fn event(self, headers: &Headers, json: &Value) -> Event {
        let (event, pushes): (_, &[&str]) = match self {
            Self::Forgejo => (headers.get("x-forgejo-event"), &["push"]),
            Self::Gitea => (headers.get("x-gitea-event"), &["push"]),
            Self::GitHub => (headers.get("x-github-event"), &["push"]),
            Self::Bitbucket => (headers.get("x-event-key"), &["repo:push", "repo:refs_changed"]),
            // The header of a system hook does not say about what it is.
            Self::GitLab => (
                text(json, "/object_kind").or_else(|| text(json, "/event_name")),
                &["push", "tag_push", "repository_update"],
            ),
            Self::Generic => return Event::Push,
        };
        match event.unwrap_or_default() {
            event if pushes.contains(&event) => Event::Push,
            "ping" | "diagnostics:ping" => Event::Ping,
            event => Event::Other(event.to_owned()),
        }
    }
}

/// GitLab proves what it sends by a signature, or says the secret itself.
fn prove_gitlab(headers: &Headers, body: &[u8], secret: &Secret) -> Result<(), Refusal> {
    if let Some(said) = headers.get("webhook-signature") {
        let part = |name| headers.get(name).unwrap_or_default();
        let start = format!("{}.{}.", part("webhook-id"), part("webhook-timestamp"));
        let signed = [start.as_bytes(), body].concat();
        let key = secret.gitlab_key();
        // There are several while a secret is being replaced by another.
        let tags = said.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        let is_any_right = tags.into_iter().any(|tag| hmac::verify(&key, &signed, &tag).is_ok());
        return if is_any_right { Ok(()) } else { Err(Refusal::Forged) };
    }
    match headers.get("x-gitlab-token") {
        None | Some("") => Err(Refusal::Unsigned),
        Some(said) if secret.is(said) => Ok(()),
        Some(_) => Err(Refusal::Forged),
    }
}

/// The JSON in a body: what a form carries, or the body itself, whatever it is called: some clients call
/// everything a form.
fn payload(body: &[u8]) -> Cow<'_, [u8]> {
    let Some(form) = body.strip_prefix(b"payload=") else { return Cow::Borrowed(body) };
    let field = form.split(|&byte| byte == b'&').next().unwrap_or_default();
    let spaced: Vec<u8> =
        field.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// What was pushed, and to which repository.
fn push(forge: Forge, json: &Value) -> Verdict {
    let named = repository(forge, json).map(|repo| repo.trim().to_owned());
    let Some(repo) = named.filter(|repo| is_plain(repo, LONGEST_NAME)) else {
        return Verdict::Refused(Refusal::Nameless);
    };
    let users =
        ["/pusher/name", "/pusher/login", "/user_username", "/actor/nickname", "/actor/name"];
    let user = users.iter().find_map(|at| text(json, at)).or_else(|| text(json, "/user"));
    let user = user.filter(|user| is_plain(user, LONGEST_NAME)).unwrap_or_default().to_owned();
    let mut updates = updates(json);
    let is_told = !updates.is_empty();
    updates.retain(|update| FOLDERS.iter().any(|folder| update.name.starts_with(folder)));
    if is_told && updates.is_empty() {
        return Verdict::Other("what was pushed is neither a branch nor a tag".to_owned());
    }
    Verdict::News(News { repo, user, updates })
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
    // As Bitbucket has it in a data centre.
    let key = text(json, "/repository/project/key")?;
    Some(format!("{key}/{}", text(json, "/repository/slug")?))
}

/// The refs that were moved: one at the top of what most forges send, a list in what Bitbucket and
/// GitLab's system hooks do.
fn updates(json: &Value) -> Vec<Update> {
    let lists = ["/push/changes", "/changes"].iter().filter_map(|at| json.pointer(at)?.as_array());
    let listed = lists.flatten().take(MOST_UPDATES);
    let all = [json].into_iter().chain(listed).filter_map(update);
    all.filter(|update| is_plain(&update.name, LONGEST_REF)).collect()
}

/// The ref that `json` says was moved.
fn update(json: &Value) -> Option<Update> {
    let first = |places: &[&str]| places.iter().find_map(|at| text(json, at));
    let name = match first(&["/ref", "/ref/id"]) {
        Some(name) => name.to_owned(),
        None => {
            let folder = match first(&["/new/type", "/old/type"])? {
                "tag" => "refs/tags",
                "branch" | "named_branch" => "refs/heads",
                _ => "refs",
            };
            format!("{folder}/{}", first(&["/new/name", "/old/name"])?)
        }
    };
    let id = |places: &[&str]| first(places)?.parse::<Id>().ok().and_then(unless_zero);
    Some(Update {
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
