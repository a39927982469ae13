//! Web hooks: turns the request of a git forge into the repository that was pushed to. Only requests
//! signed with a secret count, and only their names are read: a hook is a hint to poll, like a message on
//! the bus, so a repeated, late or replayed one does no harm.
//!
//! | forge | header that names it | proof |
//! | --- | --- | --- |
//! | Forgejo, Gitea, Gogs | `X-Forgejo-Event`, `X-Gitea-Event`, `X-Gogs-Event` | HMAC of the JSON, bare, in `X-…-Signature` |
//! | GitLab | `X-Gitlab-Event` | HMAC of id.time.body in `webhook-signature` or secret in `X-Gitlab-Token` |
//! | GitHub | `X-GitHub-Event` | HMAC of the body in `X-Hub-Signature-256` |
//! | Bitbucket | `X-Event-Key` | HMAC of the body in `X-Hub-Signature` |
//! | any other | `X-Pmpy-Signature` | HMAC of the body there |
//!
//! Every HMAC uses SHA-256. The body comes in pieces, and none is kept: a forge lists every commit of a
//! push, in up to 25 MB. Knows no HTTP server; the limit of a request's size is set elsewhere.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::form_field::FormField;
use self::json_picker::{JsonPicker, PickedStrings};
use self::secret::SignatureCheck;
use crate::domain::bus::message::{LONGEST_NAME, LONGEST_REF, RefUpdate, is_plain, unless_zero};
use crate::domain::git::ObjectId;
use crate::domain::text::EscapeControls;

mod form_field;
mod json_picker;
mod secret;

pub use secret::WebhookSecrets;

/// The prefixes of branches and tags.
const FOLDERS: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The limit of refs that are read from one request.
const MOST_UPDATES: usize = 100;
/// The limit for the display of foreign text, in characters.
const SHOWN: usize = 60;

/// The strings that are read from a body, as JSON pointers.
const READ: &[&str] = &[
    // The event, where no header names it.
    "/object_kind",
    "/event_name",
    // The repository.
    "/repository",
    "/repository/full_name",
    "/repository/slug",
    "/repository/project/key",
    "/project/path_with_namespace",
    // The user.
    "/pusher/name",
    "/pusher/login",
    "/user_username",
    "/actor/nickname",
    "/actor/name",
    "/sender/login",
    "/user",
    // The refs: one, or the lists of GitLab's system hooks and of Bitbucket.
    "/ref",
    "/ref_type",
    "/before",
    "/after",
    "/changes/*/ref",
    "/changes/*/before",
    "/changes/*/after",
    "/changes/*/ref/id",
    "/changes/*/fromHash",
    "/changes/*/toHash",
    "/push/changes/*/old/type",
    "/push/changes/*/old/name",
    "/push/changes/*/old/target/hash",
    "/push/changes/*/new/type",
    "/push/changes/*/new/name",
    "/push/changes/*/new/target/hash",
];

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
    /// A test of the connection without a signature, which proves nothing about the secret.
    UnsignedPing,
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
    /// The full names of those that were deleted.
    pub deleted: Vec<String>,
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
    /// The body is larger than the limit.
    TooLarge,
}

impl WebhookRefusal {
    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Unsigned | Self::Forged => 401,
            Self::NotJson => 400,
            Self::Nameless => 422,
            Self::TooLarge => 413,
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
            Self::TooLarge => {
                "the body is larger than 25 MiB; with poll = true the timer finds the push"
            }
        })
    }
}

/// A request that is verified and read while its body arrives.
#[derive(Debug)]
pub struct WebhookReader {
    headers: RequestHeaders,
    forge: Forge,
    proof: Result<RequestProof, WebhookRefusal>,
    form: FormField,
    picker: JsonPicker,
}

/// The proof that the sender knows a secret.
#[derive(Debug)]
enum RequestProof {
    /// The secret itself.
    Token,
    /// One of these HMACs is right.
    Hmac { tags: Vec<Vec<u8>>, signed: SignedText, check: SignatureCheck },
}

/// The text that a forge signs.
#[derive(Clone, Copy, Debug)]
enum SignedText {
    Body,
    /// The JSON in it, where the body is a form.
    Json,
}

impl WebhookReader {
    /// The reader of the request with these headers.
    pub fn new(headers: RequestHeaders, secrets: &WebhookSecrets) -> Self {
        let forge = Forge::of(&headers);
        let proof = match forge {
            Forge::GitLab => gitlab_proof(&headers, secrets),
            forge => forge.proof(&headers, secrets),
        };
        Self { headers, forge, proof, form: FormField::new(), picker: JsonPicker::new(READ) }
    }

    /// Reads the next piece of the body.
    pub fn read(&mut self, piece: &[u8]) {
        // Without a signature nothing of the body counts.
        let Ok(proof) = &mut self.proof else { return };
        let json = self.form.decode(piece);
        if let RequestProof::Hmac { signed, check, .. } = proof {
            match signed {
                SignedText::Body => check.update(piece),
                SignedText::Json => check.update(&json),
            }
        }
        self.picker.feed(&json);
    }

    /// The verdict after the last piece of the body.
    pub fn verdict(self) -> WebhookVerdict {
        match self.proof {
            Err(WebhookRefusal::Unsigned) if self.forge.is_ping(&self.headers) => {
                return WebhookVerdict::UnsignedPing;
            }
            Err(refusal) => return WebhookVerdict::Refused(refusal),
            // The signature counts before anything in the body.
            Ok(RequestProof::Hmac { tags, check, .. }) if !check.matches(&tags) => {
                return WebhookVerdict::Refused(WebhookRefusal::Forged);
            }
            Ok(_) => {}
        }
        let Some(json) = self.picker.end() else {
            return WebhookVerdict::Refused(WebhookRefusal::NotJson);
        };
        let event = match self.forge.event(&self.headers, &json) {
            WebhookEvent::Push(kind) => return push(self.forge, kind, &json),
            WebhookEvent::Ping => return WebhookVerdict::Ping,
            WebhookEvent::Other(event) => event,
        };
        let shown: String = event.chars().take(SHOWN).collect();
        WebhookVerdict::Other(format!("\"{}\" is no push", shown.escape_controls()))
    }
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forge {
    Forgejo,
    Gitea,
    Gogs,
    GitLab,
    GitHub,
    Bitbucket,
    Generic,
}

/// The event of a request.
enum WebhookEvent {
    Push(PushKind),
    Ping,
    Other(String),
}

/// The change to the refs that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PushKind {
    /// The refs with their old and new objects.
    Updates,
    /// One ref by its short name, without its objects.
    Created,
    /// The same.
    Deleted,
}

impl Forge {
    /// The forge that the headers name: a forge that imitates others is checked before them.
    fn of(headers: &RequestHeaders) -> Self {
        let marks = [
            (Self::Forgejo, "x-forgejo-event"),
            (Self::Gitea, "x-gitea-event"),
            (Self::Gogs, "x-gogs-event"),
            (Self::GitLab, "x-gitlab-event"),
            (Self::GitHub, "x-github-event"),
            (Self::Bitbucket, "x-event-key"),
        ];
        let named = marks.into_iter().find(|(_, mark)| headers.has(mark));
        named.map_or(Self::Generic, |(forge, _)| forge)
    }

    /// The header with the event; empty: it is always a push, or is named in the body.
    fn event_header(self) -> &'static str {
        match self {
            Self::Forgejo => "x-forgejo-event",
            Self::Gitea => "x-gitea-event",
            Self::Gogs => "x-gogs-event",
            Self::GitHub => "x-github-event",
            Self::Bitbucket => "x-event-key",
            Self::GitLab | Self::Generic => "",
        }
    }

    /// The start of the check that the sender knows a secret.
    fn proof(
        self,
        headers: &RequestHeaders,
        secrets: &WebhookSecrets,
    ) -> Result<RequestProof, WebhookRefusal> {
        let (header, signed) = match self {
            Self::Forgejo => ("x-forgejo-signature", SignedText::Json),
            Self::Gitea => ("x-gitea-signature", SignedText::Json),
            Self::Gogs => ("x-gogs-signature", SignedText::Json),
            Self::GitHub => ("x-hub-signature-256", SignedText::Body),
            Self::Bitbucket => ("x-hub-signature", SignedText::Body),
            Self::GitLab | Self::Generic => ("x-pmpy-signature", SignedText::Body),
        };
        let said = headers.get(header).unwrap_or_default();
        let said = said.strip_prefix("sha256=").unwrap_or(said);
        // Gitea without a secret sends an empty signature.
        if said.is_empty() {
            return Err(WebhookRefusal::Unsigned);
        }
        // A SHA-256 HMAC has as many digits as a SHA-256 object id.
        let tag: ObjectId = said.parse().map_err(|_| WebhookRefusal::Forged)?;
        let tags = vec![tag.as_bytes().to_vec()];
        Ok(RequestProof::Hmac { tags, signed, check: secrets.check() })
    }

    /// Whether Bitbucket Data Center tests the connection, which it does without a signature.
    fn is_ping(self, headers: &RequestHeaders) -> bool {
        self == Self::Bitbucket && headers.get(self.event_header()) == Some("diagnostics:ping")
    }

    fn event(self, headers: &RequestHeaders, json: &PickedStrings) -> WebhookEvent {
        let event = match self {
            Self::Generic => return WebhookEvent::Push(PushKind::Updates),
            // The header of a system hook does not name the event.
            Self::GitLab => text(json, "/object_kind").or_else(|| text(json, "/event_name")),
            forge => headers.get(forge.event_header()),
        };
        match (self, event.unwrap_or_default()) {
            (Self::GitLab, "push" | "tag_push" | "repository_update")
            | (Self::Bitbucket, "repo:push" | "repo:refs_changed" | "mirror:repo_synchronized") => {
                WebhookEvent::Push(PushKind::Updates)
            }
            (_, "ping" | "diagnostics:ping") => WebhookEvent::Ping,
            (Self::GitLab | Self::Bitbucket, event) => WebhookEvent::Other(event.to_owned()),
            (_, "push") => WebhookEvent::Push(PushKind::Updates),
            (_, "create") => WebhookEvent::Push(PushKind::Created),
            // Gitea and Forgejo send no push for a deleted branch.
            (_, "delete") => WebhookEvent::Push(PushKind::Deleted),
            (_, event) => WebhookEvent::Other(event.to_owned()),
        }
    }
}

/// The start of the check of a GitLab request, which has a signature or the secret itself.
fn gitlab_proof(
    headers: &RequestHeaders,
    secrets: &WebhookSecrets,
) -> Result<RequestProof, WebhookRefusal> {
    if let Some(said) = headers.get("webhook-signature") {
        let part = |name| headers.get(name).unwrap_or_default();
        let start = format!("{}.{}.", part("webhook-id"), part("webhook-timestamp"));
        let mut check = secrets.gitlab_check();
        check.update(start.as_bytes());
        // There are several signatures while a secret is being replaced.
        let tags = said.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        let tags = tags.collect();
        return Ok(RequestProof::Hmac { tags, signed: SignedText::Body, check });
    }
    match headers.get("x-gitlab-token") {
        None | Some("") => Err(WebhookRefusal::Unsigned),
        Some(said) if secrets.contains(said) => Ok(RequestProof::Token),
        Some(_) => Err(WebhookRefusal::Forged),
    }
}

/// The changed refs, and their repository.
fn push(forge: Forge, kind: PushKind, json: &PickedStrings) -> WebhookVerdict {
    let named = repository(forge, json).map(|repo| repo.trim().to_owned());
    let Some(repo) = named.filter(|repo| is_plain(repo, LONGEST_NAME)) else {
        return WebhookVerdict::Refused(WebhookRefusal::Nameless);
    };
    let users = [
        "/pusher/name",
        "/pusher/login",
        "/user_username",
        "/actor/nickname",
        "/actor/name",
        "/sender/login",
        "/user",
    ];
    let user = users.iter().find_map(|at| text(json, at));
    let user = user.filter(|user| is_plain(user, LONGEST_NAME)).unwrap_or_default().to_owned();
    let mut updates = match kind {
        PushKind::Updates => updates(json),
        PushKind::Created => named_ref(json, false).into_iter().collect(),
        PushKind::Deleted => named_ref(json, true).into_iter().collect(),
    };
    updates.retain(|(update, _)| is_plain(&update.name, LONGEST_REF));
    let is_told = !updates.is_empty();
    updates.retain(|(update, _)| FOLDERS.iter().any(|dir| update.name.starts_with(dir)));
    if is_told && updates.is_empty() {
        return WebhookVerdict::Other("the pushed ref is neither a branch nor a tag".to_owned());
    }
    let gone = updates.iter().filter(|(_, is_deleted)| *is_deleted);
    let deleted = gone.map(|(update, _)| update.name.clone()).collect();
    let updates = updates.into_iter().map(|(update, _)| update).collect();
    WebhookVerdict::News(PushNotification { repo, user, updates, deleted })
}

fn repository(forge: Forge, json: &PickedStrings) -> Option<String> {
    let at = match forge {
        Forge::GitLab => "/project/path_with_namespace",
        Forge::Generic => "/repository",
        _ => "/repository/full_name",
    };
    if let Some(name) = text(json, at) {
        return Some(name.to_owned());
    }
    // The form of Bitbucket Data Center.
    let key = text(json, "/repository/project/key")?;
    Some(format!("{key}/{}", text(json, "/repository/slug")?))
}

/// A changed ref, and whether the forge says that it was deleted.
type ChangedRef = (RefUpdate, bool);

/// The changed refs: one at the top level for most forges, a list for Bitbucket and GitLab's system
/// hooks.
fn updates(json: &PickedStrings) -> Vec<ChangedRef> {
    let listed =
        |list: &'static str| (0..MOST_UPDATES).map(move |number| format!("{list}/{number}"));
    let places =
        [String::new()].into_iter().chain(listed("/push/changes")).chain(listed("/changes"));
    places.filter_map(|place| update(json, &place)).collect()
}

/// The changed ref at the JSON pointer `place`.
fn update(json: &PickedStrings, place: &str) -> Option<ChangedRef> {
    let first = |all: &[&str]| all.iter().find_map(|at| text(json, &format!("{place}{at}")));
    let (name, is_gone) = match first(&["/ref", "/ref/id"]) {
        Some(name) => (name.to_owned(), false),
        None => {
            let dir = match first(&["/new/type", "/old/type"])? {
                "tag" => "refs/tags",
                "branch" | "named_branch" => "refs/heads",
                _ => "refs",
            };
            let name = format!("{dir}/{}", first(&["/new/name", "/old/name"])?);
            (name, first(&["/new/name"]).is_none())
        }
    };
    let id = |all: &[&str]| first(all)?.parse::<ObjectId>().ok();
    let new = id(&["/after", "/toHash", "/new/target/hash"]);
    let is_deleted = is_gone || new.is_some_and(|id| unless_zero(id).is_none());
    let old = id(&["/before", "/fromHash", "/old/target/hash"]).and_then(unless_zero);
    Some((RefUpdate { old, new: new.and_then(unless_zero), name }, is_deleted))
}

/// The one ref of an event that names it by its short name and type.
fn named_ref(json: &PickedStrings, is_deleted: bool) -> Option<ChangedRef> {
    let dir = match text(json, "/ref_type")? {
        "tag" => "refs/tags/",
        "branch" => "refs/heads/",
        _ => return None,
    };
    let name = text(json, "/ref")?;
    let name = if name.starts_with(dir) { name.to_owned() } else { format!("{dir}{name}") };
    Some((RefUpdate { old: None, new: None, name }, is_deleted))
}

fn text<'a>(json: &'a PickedStrings, at: &str) -> Option<&'a str> {
    json.get(at).map(String::as_str)
}

#[cfg(test)]
mod tests;
