//! Explains ssh's messages to the user who has to solve the problem. Pure: text in, error out.

use std::path::Path;

use anyhow::{Error, anyhow};

use crate::domain::remote::RemoteFailure;
use crate::domain::text::EscapeControls;
use crate::system::remote::address::RemoteAddress;
use crate::system::remote::denied;

/// The most characters of a server's text that are shown.
const MOST_WORDS: usize = 300;

/// The server and the settings that a failed connection used.
pub(super) struct TriedSsh<'a> {
    pub address: &'a RemoteAddress,
    pub key_file: Option<&'a Path>,
    pub known_hosts: Option<&'a Path>,
}

/// Explains why ssh failed, by its exit `code` and its standard error `text`; `None` when they do not
/// say.
pub(super) fn explained(tried: &TriedSsh, code: Option<i32>, text: &str) -> Option<Error> {
    let TriedSsh { address, .. } = tried;
    let line_with = |word: &str| text.lines().find(|line| line.contains(word));
    if text.contains("HOST IDENTIFICATION HAS CHANGED") || text.contains("is revoked") {
        return Some(changed_key(tried, text));
    }
    if text.contains("Host key verification failed") {
        return Some(unknown_host(address, tried.known_hosts));
    }
    if let Some(line) = line_with("Permission denied (") {
        return Some(not_let_in(tried, line));
    }
    if line_with("Too many authentication failures").is_some() {
        return Some(Error::new(RemoteFailure::Credentials).context(format!(
            "{address} gives up before the right key is tried\n\
             hint: set key_file, so that only this key is"
        )));
    }
    let silent = |line: &str| {
        let line = line.trim().trim_start_matches("ssh: ");
        format!("{address} does not answer: {}{}", words(line), silence(address, line))
    };
    let unconnected = ["Could not resolve hostname", "connect to host", "banner exchange"];
    if let Some(line) = unconnected.into_iter().find_map(line_with) {
        return Some(Error::new(RemoteFailure::Server).context(silent(line)));
    }
    // There was a connection: the next one may succeed.
    let ended = [
        "kex_exchange_identification",
        "Connection closed by",
        "Connection reset by",
        "Connection timed out",
        "not responding",
    ];
    if let Some(line) = ended.into_iter().find_map(line_with) {
        return Some(Error::msg(silent(line)));
    }
    if code == Some(127) {
        return Some(denied(format!(
            "{address} has no git: {}\nhint: install git there, or let its sshd find git-upload-pack",
            words(text)
        )));
    }
    match words(text) {
        none if none.is_empty() => None,
        // 255 is ssh's own. Over ssh, nothing but its words tells why a server ended.
        words if code != Some(255) && is_refusal(&words) => {
            Some(denied(format!("{address} says: {words}; no repository there, or no access")))
        }
        words => Some(anyhow!("{address} says: {words}")),
    }
}

/// Whether a server's words say that there is no such repository, or no access to it. The words are those of
/// git, GitHub, GitLab, Bitbucket, Gitea and gitolite.
fn is_refusal(words: &str) -> bool {
    let words = words.to_lowercase();
    [
        "not appear to be a git repository",
        "not found",
        "could not be found",
        "does not exist",
        "denied",
        "permission",
        "not allowed",
        "authoriz",
    ]
    .iter()
    .any(|phrase| words.contains(phrase))
}

/// A hint for a server that does not answer, as far as ssh's `line` gives a cause.
fn silence(address: &RemoteAddress, line: &str) -> String {
    let host = &address.host;
    if line.contains("resolve hostname") {
        return format!(
            "\nhint: getent hosts {host}; is it spelled right, and does a name server answer?"
        );
    }
    if line.contains("refused") {
        return "\nhint: is the server running, and the port right?".to_owned();
    }
    if line.contains("unreachable") {
        return format!("\nhint: has this machine a route there? ip route get {host}");
    }
    String::new()
}

/// The error for a host key that is not in the list of known hosts.
pub(super) fn unknown_host(address: &RemoteAddress, known_hosts: Option<&Path>) -> Error {
    let known = file(known_hosts);
    let port = address.port.map(|port| format!("-p {port} ")).unwrap_or_default();
    denied(format!(
        "the host key of {address} is not known here\n\
         hint: ssh-keyscan {port}{} >> {known}, and compare what \"ssh-keygen -lf {known}\" shows \
         with the fingerprint that its administrator publishes",
        address.host
    ))
}

/// The server's name in a list of known hosts.
pub(super) fn known_name(address: &RemoteAddress) -> String {
    match address.port {
        Some(port) => format!("[{}]:{port}", address.host),
        None => address.host.clone(),
    }
}

fn changed_key(tried: &TriedSsh, text: &str) -> Error {
    let TriedSsh { address, .. } = tried;
    let shown = text.split_whitespace().find(|word| word.starts_with("SHA256:"));
    let shown = shown.map(|print| format!(" ({})", words(print.trim_end_matches('.'))));
    let name = known_name(address);
    denied(format!(
        "the host key of {address} has changed{}; this may be a different machine\n\
         hint: if it was changed on purpose: ssh-keygen -f {} -R \"{name}\", then add the new one",
        shown.unwrap_or_default(),
        file(tried.known_hosts)
    ))
}

fn not_let_in(tried: &TriedSsh, line: &str) -> Error {
    let TriedSsh { address, key_file, .. } = tried;
    let methods = line.split_once("denied (").map_or("", |(_, rest)| rest);
    let text = if !methods.contains("publickey") {
        format!(
            "{address} asks for a password, and the agent uses keys only\n\
             hint: allow a key there, and set key_file"
        )
    } else if let Some(key) = key_file {
        format!(
            "{address} does not accept the key {}\n\
             hint: add {}.pub there, with access to this repository; a key with a passphrase needs an agent",
            key.display(),
            key.display()
        )
    } else {
        format!(
            "{address} accepts none of the keys of the user who runs this\n\
             hint: set key_file to a key that it accepts"
        )
    };
    Error::new(RemoteFailure::Credentials).context(text)
}

fn file(known_hosts: Option<&Path>) -> String {
    known_hosts.map_or_else(|| "~/.ssh/known_hosts".to_owned(), |it| it.display().to_string())
}

/// A server's text as one printable line, without ssh's messages about shared connections.
pub(super) fn words(text: &str) -> String {
    let noise = ["ControlSocket ", "mux_client_", "Warning: ", "**"];
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !noise.iter().any(|begin| line.starts_with(begin)))
        .collect();
    lines.join("; ").chars().take(MOST_WORDS).collect::<String>().escape_controls()
}

#[cfg(test)]
mod tests {
    use crate::domain::git::Remote;
    use crate::domain::remote::Denial;
    use crate::system::remote::ssh::errors::*;

    fn sentence(code: i32, complaints: &str) -> Option<(String, Option<RemoteFailure>)> {
        let address = RemoteAddress::of(&Remote::new("ssh://git@git.example.org:2222/a")).unwrap();
        let known_hosts = Some(Path::new("/etc/pmpy/known_hosts"));
        let tried = TriedSsh { address: &address, key_file: None, known_hosts };
        let error = explained(&tried, Some(code), complaints)?;
        Some((error.to_string(), error.downcast_ref().copied()))
    }

    #[test]
    fn each_complaint_of_ssh_becomes_a_sentence() {
        let server = Some(RemoteFailure::Server);
        let credentials = Some(RemoteFailure::Credentials);
        for (complaint, words, trouble) in [
            ("ssh: Could not resolve hostname x: Name or service not known", "Name or", server),
            ("ssh: connect to host x port 22: Connection refused", "answer: connect to", server),
            ("kex_exchange_identification: Connection closed by remote host", "closed", None),
            ("Timeout, server x not responding.", "answer: Timeout", None),
            ("Connection timed out during banner exchange", "timed out", server),
            ("git@x: Permission denied (publickey).", "hint: set key_file", credentials),
            ("git@x: Permission denied (password).", "the agent uses keys only", credentials),
            ("Received disconnect: Too many authentication failures", "key_file", credentials),
            ("ERROR: Repository not found.", "says: ERROR: Repository not found.", None),
            ("evil \u{1b}[2J", "evil \\u{1b}[2J", None),
        ] {
            let (text, found) = sentence(255, complaint).unwrap();
            assert!(text.contains(words) && text.starts_with("git.example.org:2222 "), "{text}");
            assert_eq!(found, trouble, "{text}");
        }
    }

    #[test]
    fn a_server_that_has_no_such_repository_is_distinguished_from_one_in_trouble() {
        let address = RemoteAddress::of(&Remote::new("git@git.example.org:a")).unwrap();
        let tried = TriedSsh { address: &address, key_file: None, known_hosts: None };
        for (code, words, is_denied) in [
            (1, "ERROR: Repository not found.", true),
            (128, "fatal: '/a' does not appear to be a git repository", true),
            (128, "FATAL: R any a pat DENIED by fallthru", true),
            (
                1,
                "remote: The project you were looking for could not be found or you don't have",
                true,
            ),
            (128, "fatal: Out of memory, malloc failed", false),
            (255, "ERROR: Repository not found.", false),
            (1, "GitLab: Internal API unreachable", false),
        ] {
            let error = explained(&tried, Some(code), words).unwrap();
            assert_eq!(error.is::<Denial>(), is_denied, "{words}");
        }
    }

    #[test]
    fn host_keys_that_are_unknown_or_changed_are_distinguished() {
        let verification = "Host key verification failed.\r\n";
        let (unknown, trouble) = sentence(255, verification).unwrap();
        assert!(unknown.contains("is not known here") && trouble.is_none(), "{unknown}");
        assert!(unknown.contains("ssh-keyscan -p 2222 git.example.org >> /etc/pmpy/known_hosts"));
        let changed = format!(
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n\
             The fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\n{verification}"
        );
        let (changed, _) = sentence(255, &changed).unwrap();
        assert!(changed.contains("has changed (SHA256:abc)"), "{changed}");
        assert!(
            changed.contains("ssh-keygen -f /etc/pmpy/known_hosts -R \"[git.example.org]:2222\"")
        );
    }

    #[test]
    fn a_server_without_git_is_distinguished_from_one_without_the_repository() {
        let (text, _) = sentence(127, "bash: line 1: git-upload-pack: command not found").unwrap();
        assert!(text.starts_with("git.example.org:2222 has no git: "), "{text}");
        let noise = "mux_client_request_session: session request failed\nControlSocket x exists\n";
        assert_eq!(sentence(255, noise), None);
    }
}
