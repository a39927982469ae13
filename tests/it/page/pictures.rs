//! The pictures of docs/page.md. With PICTURES=docs they are written there; else into the sandbox, so that what makes
//! them does not rot: `PICTURES=docs cargo test --all-features --test it -- page::pictures`.

use std::path::PathBuf;

use super::browser::Browser;
use super::*;

#[test]
fn the_pictures_of_the_documentation_can_be_made() {
    let machine = busy_machine();
    let status = Status::on(&machine);
    fleet_in_a_rollout(&status, 48);
    let (_listener, web) = listener(&machine, &status);
    let mut browser = Browser::start(&machine);
    let asked = std::env::var_os("PICTURES").map(PathBuf::from);
    let docs = asked.as_ref().map(|to| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(to));
    let dir = docs.unwrap_or_else(|| machine.path(""));
    for (path, name, scheme, width, height) in [
        ("/", "page-machine", "light", 830, 1030),
        ("/fleet", "page-fleet", "light", 830, 1000),
        ("/fleet", "page-fleet-narrow", "dark", 400, 900),
    ] {
        browser.resize(width);
        browser.prefer(scheme);
        browser.open(&url(&web, path));
        if path == "/fleet" {
            // No picture has a path of the machine on which it was made.
            let shown = "document.querySelector('.lead bdi').textContent";
            browser.evaluate(&format!("{shown} = 'git@git.example.org:status.git'"));
        }
        let file = dir.join(format!("{name}.png"));
        browser.picture(width, height, &file);
        let length = fs::metadata(&file).unwrap().len();
        assert!((10_000..150_000).contains(&length), "{name}: {length} bytes");
    }
}
