//! The verdict on what follows a tick: the command of `on_change` and the metrics file. Under cron
//! nobody sees either of them fail but once.

use std::ffi::OsStr;
use std::path::Path;

use super::{Level, Verdict};
use crate::engine::Here;
use crate::system::access;
use crate::system::scripts::find_program;

/// What is to be said of them, where they are configured.
pub fn verdicts(here: &Here) -> Vec<Verdict> {
    on_change(here).into_iter().chain(metrics(here)).collect()
}

fn on_change(here: &Here) -> Option<Verdict> {
    let program = here.settings.on_change.first()?;
    Some(match find_program(OsStr::new(program), OsStr::new(""), Path::new("/")) {
        Some(found) => Verdict::ok("on_change", found.display().to_string()),
        None => Verdict::bad(
            "on_change",
            format!(
                "there is no program \"{0}\" that can be run, so nobody is told of changes\n\
                 hint: put it there and make it executable (chmod +x {0}), or correct on_change",
                program.escape_debug()
            ),
        ),
    })
}

fn metrics(here: &Here) -> Option<Verdict> {
    let file = here.settings.metrics_file.as_deref()?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let (shown, us) = (folder.display(), &here.node.user.name);
    if !folder.is_dir() {
        let text = format!(
            "there is no folder {shown}, so no metrics are written\n\
             hint: mkdir -p {shown}; or correct metrics_file"
        );
        return Some(Verdict::bad("metrics", text));
    }
    Some(match access::writable(folder) {
        Ok(()) => Verdict::ok("metrics", file.display().to_string()),
        Err(error) => {
            let hint = format!("hint: let {us} write in {shown}, or choose another metrics_file");
            Verdict::of(Level::Bad, "metrics", &error.context(hint))
        }
    })
}
