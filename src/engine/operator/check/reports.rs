//! Checks what the agent's own user runs, such as the program of `on_change`, and the metrics file. Under cron their
//! failures are reported only once, and easily missed.

use std::ffi::OsStr;
use std::path::Path;

use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths;
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::system::permissions;
use crate::system::scripts::find_program;

/// The findings for those that are configured.
pub fn verdicts(context: &Context) -> Vec<CheckFinding> {
    let programs = context.settings.programs().into_iter();
    let programs = programs.filter_map(|(key, argv)| program(context, key, argv));
    programs.chain(metrics(context)).collect()
}

fn program(context: &Context, key: &str, argv: &[String]) -> Option<CheckFinding> {
    let program = argv.first()?;
    if let Some(fault) = safe_paths::own_program_fault(context, key, argv) {
        return Some(CheckFinding::of(FindingLevel::Bad, key, &fault));
    }
    Some(match find_program(OsStr::new(program), OsStr::new(""), Path::new("/")) {
        Some(found) => CheckFinding::ok(key, found.display().to_string()),
        None => CheckFinding::bad(
            key,
            format!(
                "there is no program \"{0}\" that can be run\n\
                 hint: put it there and make it executable (chmod +x {0}), or correct {key}",
                program.escape_controls()
            ),
        ),
    })
}

fn metrics(context: &Context) -> Option<CheckFinding> {
    let file = context.settings.metrics_file.as_deref()?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    let (shown, us) = (dir.display(), &context.node.user.name);
    if !dir.is_dir() {
        let text = format!(
            "there is no directory {shown}, so no metrics are written\n\
             hint: mkdir -p {shown}; or correct metrics_file"
        );
        return Some(CheckFinding::bad("metrics", text));
    }
    Some(match permissions::writable(dir) {
        Ok(()) => CheckFinding::ok("metrics", file.display().to_string()),
        Err(error) => {
            let hint = format!("hint: let {us} write in {shown}, or choose another metrics_file");
            CheckFinding::of(FindingLevel::Bad, "metrics", &error.context(hint))
        }
    })
}
