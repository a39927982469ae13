//! The text of a crontab: how the line that makes the agent tick comes into it and leaves it again,
//! how a line of somebody else's is put out of service, and how a word has to be written in it. Every
//! other line stays as it is, byte for byte. Knows neither files nor cron itself.

use std::path::Path;

/// What stands above our line, so that whoever finds it knows what it is.
const HEADING: &str = "# Push-Me-Pull-You looks once a minute. \
                       \"agent schedule cron\" writes this, \"agent schedule none\" takes it away.";

/// A path as the shell of a crontab line takes it; `%` would end the line there (crontab(5)).
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''")).replace('%', "\\%")
}

/// Whether a line does nothing.
pub fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Whether a line makes the agent tick in the usual root of its user. One with `--root` belongs to a
/// world of its own, which a person looks after.
pub fn ticks(line: &str) -> bool {
    !is_comment(line)
        && line.contains(" tick --trigger cron")
        && !line.split_whitespace().any(|word| word == "--root" || word.starts_with("--root="))
}

/// `text` with `line` as the one line that makes the agent tick.
pub fn with_tick(text: &str, line: &str) -> String {
    let mut placed = false;
    let mut out = String::new();
    for old in text.split_inclusive('\n') {
        match (ticks(old), placed) {
            (false, _) => out.push_str(old),
            (true, false) => {
                out.push_str(line);
                out.push('\n');
                placed = true;
            }
            (true, true) => {}
        }
    }
    if !placed {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out += &format!("{HEADING}\n{line}\n");
    }
    out
}

/// `text` without what makes the agent tick.
pub fn without_tick(text: &str) -> String {
    let ours = |line: &&str| ticks(line) || line.trim_end() == HEADING;
    text.split_inclusive('\n').filter(|line| !ours(line)).collect()
}

/// `text` with the lines of these numbers (from 1) made comments, each below a note that says so.
pub fn put_out(text: &str, numbers: &[usize], note: &str) -> String {
    let lines = text.split_inclusive('\n').zip(1..);
    lines
        .map(|(line, number)| match numbers.contains(&number) {
            true => format!("# {note}\n# {line}"),
            false => line.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "* * * * * /usr/bin/agent tick --trigger cron --splay 20s";

    #[test]
    fn a_path_is_quoted_for_the_shell_and_for_cron() {
        for (path, quoted) in [
            ("/srv/repos", "/srv/repos"),
            ("/srv/my repos", "'/srv/my repos'"),
            ("/srv/it's", "'/srv/it'\\''s'"),
            ("/srv/50%", "'/srv/50\\%'"),
        ] {
            assert_eq!(word(Path::new(path)), quoted);
        }
    }

    #[test]
    fn the_line_comes_once_and_leaves_everything_else_as_it_was() {
        for text in ["", "MAILTO=me\n", "# mine\n\n0 5 * * * backup\n", "0 5 * * * backup %x"] {
            let with = with_tick(text, LINE);
            assert!(with.starts_with(text), "{with}");
            assert!(with.ends_with(&format!("{LINE}\n")), "{with}");
            assert_eq!(with_tick(&with, LINE), with, "a second time changes nothing");
            assert_eq!(without_tick(&with).trim_end_matches('\n'), text.trim_end_matches('\n'));
        }
    }

    #[test]
    fn an_older_line_gives_way_where_it_stands() {
        let text = "MAILTO=ops\n* * * * * /old/agent tick --trigger cron\n0 5 * * * backup\n";
        let with = with_tick(text, LINE);
        assert_eq!(with, format!("MAILTO=ops\n{LINE}\n0 5 * * * backup\n"));
    }

    #[test]
    fn another_root_is_another_line() {
        let other = "* * * * * agent --root /srv/other tick --trigger cron\n";
        assert!(!ticks(other));
        assert!(with_tick(other, LINE).starts_with(other));
        assert_eq!(without_tick(other), other);
    }

    #[test]
    fn a_line_that_is_put_out_can_be_read_and_does_nothing() {
        let text = "MAILTO=\"\"\n* * * * *  /root/bin/cron_1m.sh\n0 5 * * * backup";
        let out = put_out(text, &[2], "until 2026-11-22");
        assert_eq!(
            out,
            "MAILTO=\"\"\n# until 2026-11-22\n# * * * * *  /root/bin/cron_1m.sh\n0 5 * * * backup"
        );
    }
}
