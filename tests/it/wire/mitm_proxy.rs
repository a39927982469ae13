//! Somebody who sits in the web server: scripts for [`Https::answer_with`] that pass requests on to
//! git-http-backend and meddle with some of them.

use std::fs;
use std::path::PathBuf;

use crate::sandbox::{Sandbox, text};
use crate::servers::Https;

/// The part of each script that reads the request. Then `request` is a file with its body, inflated,
/// and `pass_on` answers it as git does.
const BEGINNING: &str = r#"
export PATH_INFO="${PATH_INFO#/cgi/*/}"
PATH_INFO="/$PATH_INFO"
request=$(mktemp)
trap 'rm -f "$request"' EXIT
case "$HTTP_CONTENT_ENCODING" in
*gzip*) gzip -dc > "$request" ;;
*) cat > "$request" ;;
esac
unset HTTP_CONTENT_ENCODING
export CONTENT_LENGTH=$(wc -c < "$request")
pass_on() { git http-backend < "$request"; }
fetching() { grep -aq -e command=fetch -e '^....want ' "$request"; }
result() { printf 'Content-Type: application/x-git-upload-pack-result\r\n\r\n'; }
"#;

/// Lets `script` meddle with the requests below `cgi/NAME/`; returns the way for
/// [`Https::url_at`].
pub fn meddle(server: &Https, name: &str, script: &str) -> String {
    server.answer_with(name, &format!("{BEGINNING}{script}"));
    format!("cgi/{name}/")
}

/// Lists refs without an end, by protocol v2 and v0.
pub fn lists_without_end(server: &Https) -> String {
    let script = r#"
id=1111111111111111111111111111111111111111
case "$REQUEST_METHOD" in
POST) result; prefix='' ;;
*) printf 'Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n'
   printf '001e# service=git-upload-pack\n0000' ;;
esac
exec yes "0045$id refs/heads/aaaaaaaaaa"
"#;
    meddle(server, "endless-refs", script)
}

/// Lists refs without an end, and only when asked by protocol v0.
pub fn advertises_without_end(server: &Https) -> String {
    let script = r#"
id=1111111111111111111111111111111111111111
case "$REQUEST_METHOD" in
POST) result; exit ;;
esac
printf 'Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n'
printf '001e# service=git-upload-pack\n0000'
exec yes "0045$id refs/heads/aaaaaaaaaa"
"#;
    meddle(server, "endless-advertisement", script)
}

/// Answers polls well and a fetch with a pack of empty blobs without an end.
pub fn packs_without_end(machine: &Sandbox, server: &Https) -> String {
    // Type blob, length 0, and nothing, compressed.
    let blob = [0x30, 0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01];
    let blobs = packet(&blob.repeat(7_000)).repeat(100);
    let head = packet(b"PACK\x00\x00\x00\x02\x7f\xff\xff\xff");
    let (head_file, blobs_file) = (machine.path("pack-head"), machine.path("pack-blobs"));
    fs::write(&head_file, [b"000dpackfile\n", head.as_slice()].concat()).unwrap();
    fs::write(&blobs_file, blobs).unwrap();
    let script = format!(
        "fetching || {{ pass_on; exit; }}\nresult\ncat '{}'\nwhile cat '{}'; do :; done\n",
        text(&head_file),
        text(&blobs_file)
    );
    meddle(server, "endless-pack", &script)
}

/// A pkt-line of side-band 1.
fn packet(data: &[u8]) -> Vec<u8> {
    let head = format!("{:04x}\x01", data.len() + 5);
    [head.as_bytes(), data].concat()
}

/// Answers polls well and takes for ever to answer a fetch.
pub fn never_sends(server: &Https) -> String {
    meddle(server, "silent-fetch", "fetching || { pass_on; exit; }\nexec sleep 600\n")
}

/// Answers nothing whatever it is asked.
pub fn says_nothing(server: &Https) -> String {
    meddle(server, "silent", "exec sleep 600\n")
}

/// Redirects to whichever repository the file stands for that is returned with the way.
pub fn redirects(machine: &Sandbox, server: &Https, to: &str) -> (String, PathBuf) {
    let file = machine.path("leads-to");
    fs::write(&file, to).unwrap();
    let script = format!(
        "printf 'Status: 301\\r\\nLocation: %s/info/refs?service=git-upload-pack\\r\\n\\r\\n' \
         \"$(cat '{}')\"\n",
        text(&file)
    );
    (meddle(server, "moved", &script), file)
}

/// Runs `command` once, before it answers the first fetch.
pub fn before_a_fetch(machine: &Sandbox, server: &Https, command: &str) -> String {
    let done = machine.path("meddled");
    let script = format!(
        "if fetching && [ ! -e '{0}' ]; then : > '{0}'; {command}; fi\npass_on\n",
        text(&done)
    );
    meddle(server, "before-a-fetch", &script)
}

/// Tells where branches are, and answers each wish for objects with `status` and the lines of `head`.
pub fn hands_nothing_over(server: &Https, status: u16, head: &str) -> String {
    let script = format!(
        "if fetching; then printf 'Status: {status}\\r\\n{head}\\r\\n'; else pass_on; fi\n"
    );
    meddle(server, &format!("stingy-{status}"), &script)
}
