//! Any text as a revision's `.pmpy.toml`, which every pusher writes: settings that only ever narrow
//! the machine's, or a reason to refuse that can be shown on a terminal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::config::TreeSettings;
use pmpy::domain::paths::PathPatterns;

fuzz_target!(|text: &str| {
    match TreeSettings::parse(text) {
        Ok(tree) => {
            for script in tree.scripts.iter().flatten() {
                let leaves = script.starts_with('/') || script.split('/').any(|part| part == "..");
                assert!(!leaves, "{script:?} leads out of the worktree");
            }
            if let Some(paths) = &tree.paths {
                let patterns =
                    PathPatterns::new(paths).expect("patterns were judged when they were read");
                patterns.match_any(&[b"bin/work.sh".to_vec(), vec![0xff, b'/', b'\n']]);
            }
        }
        Err(message) => {
            assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message:?}");
        }
    }
});
