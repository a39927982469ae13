//! Makes agent.toml(5) from docs/configuration.md, when the program is built. Knows headings, paragraphs,
//! lists of one level, tables, fenced blocks, links, emphasis and code. Rejects all else, which would be
//! shown wrongly: the build fails then.

use std::iter::Peekable;
use std::str::Lines;

use roff::{Inline, Roff, bold, italic, roman};

/// The heading of the column with a table's sentences; the other cells follow the sentence.
const MEANING: &str = "meaning";

/// The manual page of `markdown`, whose title it replaces.
///
/// # Errors
/// When it contains an unknown block, or one without an end.
pub fn page(markdown: &str, source: &str) -> Result<String, String> {
    let mut page = Roff::new();
    page.control("TH", ["agent.toml", "5", "", source, "Push-Me-Pull-You"]);
    // Keys and paths must be neither stretched nor hyphenated.
    page.control("ad", ["l"]).control("nh", []);
    page.control("SH", ["NAME"]);
    page.text([roman("agent.toml - the configuration of agent(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    render(markdown.split_once('\n').map_or("", |(_title, text)| text), &mut page)?;
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("agent(1), agent-check(1), agent-explain(1)")]);
    Ok(page.render())
}

/// Appends `text` to `page`.
fn render(text: &str, page: &mut Roff) -> Result<(), String> {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        } else if let Some(title) = line.strip_prefix("## ") {
            page.control("SH", [title]);
        } else if let Some(title) = line.strip_prefix("### ") {
            page.control("SS", [title]);
        } else if let Some(first) = line.strip_prefix("- ") {
            page.control("IP", ["\\(bu", "2"]);
            page.text(inline(&continued(first, &mut lines)));
        } else if line.starts_with('|') {
            table(line, &mut lines, page)?;
        } else if line.starts_with("```") {
            fenced(&mut lines, page)?;
        } else if line.starts_with(['#', ' ', '>', '<', '!']) || line.starts_with("1. ") {
            return Err(format!("this is no block that a manual page can be made of: {line}"));
        } else {
            page.control("PP", []);
            page.text(inline(&continued(line, &mut lines)));
        }
    }
    Ok(())
}

/// `first` and its continuation lines, joined.
fn continued(first: &str, lines: &mut Peekable<Lines<'_>>) -> String {
    let mut whole = first.to_owned();
    let ends = |line: &str| line.is_empty() || line.starts_with("- ") || line.starts_with('|');
    while let Some(line) = lines.next_if(|line| !ends(line)) {
        whole.push(' ');
        whole.push_str(line.trim_start());
    }
    whole
}

/// Writes a paragraph for each row, with its first cell as the tag: a terminal is too narrow for columns
/// of sentences.
fn table(header: &str, lines: &mut Peekable<Lines<'_>>, page: &mut Roff) -> Result<(), String> {
    let names = cells(header);
    if !lines.next().is_some_and(|rule| rule.starts_with("| ---")) {
        return Err(format!("this table has no line below its header: {header}"));
    }
    while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
        let cells = cells(row);
        let mut columns: Vec<_> = names.iter().zip(&cells).skip(1).collect();
        columns.sort_by_key(|(name, _)| **name != MEANING);
        let mut sentences = Vec::new();
        for (name, cell) in columns.into_iter().filter(|(_, cell)| !cell.is_empty()) {
            let label = if *name == MEANING { String::new() } else { format!("{name}: ") };
            sentences.push(sentence(&format!("{label}{cell}")));
        }
        page.control("TP", []);
        page.text(inline(cells.first().unwrap_or(&"")));
        page.text(inline(&sentences.join(" ")));
    }
    Ok(())
}

/// `text` with a capital first letter, unless it begins with code, and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).chain(['.']).collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

fn fenced(lines: &mut Peekable<Lines<'_>>, page: &mut Roff) -> Result<(), String> {
    page.control("PP", []).control("nf", []);
    for line in lines.by_ref() {
        if line == "```" {
            page.control("fi", []);
            return Ok(());
        }
        page.text([roman(line)]);
    }
    Err("a fenced block does not end".to_owned())
}

/// Text with code in bold, emphasis in italics, and links as their text.
fn inline(text: &str) -> Vec<Inline> {
    let text = without_targets(text);
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['`', '*']) {
        let (before, marked) = rest.split_at(at);
        let (mark, after) = marked.split_at(1);
        let Some((inside, behind)) = after.split_once(mark) else { break };
        parts.push(roman(before));
        parts.push(if mark == "`" { bold(inside) } else { italic(inside) });
        rest = behind;
    }
    parts.push(roman(rest));
    parts
}

/// The text with each `[text](target)` replaced by `text`.
fn without_targets(text: &str) -> String {
    let mut plain = text.to_owned();
    while let Some(middle) = plain.find("](")
        && let Some(start) = plain[..middle].rfind('[')
        && let Some(length) = plain[middle..].find(')')
    {
        plain.replace_range(middle..=middle + length, "");
        plain.remove(start);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> String {
        let mut page = Roff::new();
        render(text, &mut page).unwrap();
        page.to_roff()
    }

    #[test]
    fn the_title_of_the_page_replaces_that_of_the_text() {
        let page = page("# Title\n\nText.\n", "agent 1").unwrap();
        assert!(page.contains(".TH agent.toml 5  \"agent 1\" Push-Me-Pull-You\n"), "{page}");
        assert!(page.contains(".SH DESCRIPTION\n.PP\nText.\n.SH \"SEE ALSO\"\n"), "{page}");
    }

    #[test]
    fn each_block_becomes_its_own() {
        assert_eq!(
            rendered(
                "Two\nlines.\n- a\n  b\n- c\n\n## [bus]\n\n### At night\n\n```sh\n.x -y\n```\n"
            ),
            ".PP\nTwo lines.\n.IP \\(bu 2\na b\n.IP \\(bu 2\nc\n.SH [bus]\n.SS \"At night\"\n\
             .PP\n.nf\n\\&.x \\-y\n.fi\n"
        );
    }

    #[test]
    fn a_row_becomes_a_tag_and_sentences_with_the_meaning_first() {
        assert_eq!(
            rendered(
                "| key | default | meaning |\n| --- | --- | --- |\n| `a` | `1` | what |\n| b | | c |"
            ),
            ".TP\n\\fBa\\fR\nWhat. Default: \\fB1\\fR.\n.TP\nb\nC.\n"
        );
    }

    #[test]
    fn code_emphasis_and_links_are_distinguished() {
        assert_eq!(
            rendered("[`x`](y.md#z) is *old*: `a*[b]*` and [c d](e)."),
            ".PP\n\\fBx\\fR is \\fIold\\fR: \\fBa*[b]*\\fR and c d.\n"
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in ["1. one", "> said", "    code", "| a |\n", "```\nx"] {
            assert!(render(text, &mut Roff::new()).is_err(), "{text}");
        }
    }
}
