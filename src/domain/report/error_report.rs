//! Errors as text for people: sentences, the outermost first, and hints, each a remedy. An error carries a
//! hint as a line `hint: …` of its message; this is the only place that takes such a message apart.

/// The beginning of a line that is a hint.
const HINT: &str = "hint: ";

/// An error, or the reason of a state, for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorReport {
    parts: Vec<ReportPart>,
}

/// The message of one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ReportPart {
    /// Empty where the cause is only a hint, or repeats an earlier one.
    sentence: String,
    hints: Vec<String>,
}

impl ErrorReport {
    /// The report of one message: a sentence, and lines `hint: …`.
    pub fn parse(message: &str) -> Self {
        Self::of_causes([message])
    }

    /// The report of an error by the messages of its causes, the outermost first. A sentence that an earlier
    /// one contains is left out: many libraries repeat their cause in their own message.
    pub fn of_causes<T: ToString>(causes: impl IntoIterator<Item = T>) -> Self {
        let mut report = Self::default();
        for cause in causes {
            let message = cause.to_string();
            let (hints, lines): (Vec<&str>, Vec<&str>) =
                message.lines().partition(|line| line.starts_with(HINT));
            let mut sentence = lines.join("\n");
            if report.parts.iter().any(|part| part.sentence.contains(&sentence)) {
                sentence.clear();
            }
            let hints = hints.into_iter().map(|hint| hint[HINT.len()..].to_owned()).collect();
            report.parts.push(ReportPart { sentence, hints });
        }
        report
    }

    /// The same with one more hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.parts.push(ReportPart { sentence: String::new(), hints: vec![hint.into()] });
        self
    }

    /// The sentences of the causes, the outermost first. A sentence may have several lines.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.sentence.as_str()).filter(|sentence| !sentence.is_empty())
    }

    /// All causes in one line, without hints.
    pub fn sentence(&self) -> String {
        self.sentences().map(in_a_line).collect::<Vec<_>>().join(": ")
    }

    /// The hints, each once.
    pub fn hints(&self) -> Vec<&str> {
        let mut hints: Vec<&str> = Vec::new();
        for hint in self.parts.iter().flat_map(|part| &part.hints) {
            if !hints.contains(&hint.as_str()) {
                hints.push(hint);
            }
        }
        hints
    }

    /// All hints in one line; `None` without one.
    pub fn hint(&self) -> Option<String> {
        let hints = self.hints();
        (!hints.is_empty()).then(|| hints.join("; "))
    }

    /// The form in which records and JSON keep a reason: one line, and a line `hint: …`.
    pub fn to_reason(&self) -> String {
        reason(self.sentence(), self.hint())
    }

    /// Everything in one line, each hint behind its sentence, and at the end those without one.
    pub fn to_line(&self) -> String {
        let (bare, with_sentence): (Vec<_>, Vec<_>) =
            self.parts.iter().partition(|part| part.sentence.is_empty());
        let line = |part: &&ReportPart| {
            let sentence = in_a_line(&part.sentence);
            [&[sentence], part.hints.as_slice()].concat().join("; ")
        };
        let causes = with_sentence.iter().map(line).collect::<Vec<_>>().join(": ");
        let hints = bare.into_iter().flat_map(|part| part.hints.iter().cloned());
        std::iter::once(causes).chain(hints).collect::<Vec<_>>().join("; ")
    }
}

fn in_a_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// A reason as records and JSON keep it.
pub fn reason(sentence: String, hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{sentence}\n{HINT}{hint}"),
        None => sentence,
    }
}

/// Several reasons as one: their sentences separated by semicolons, and all their hints.
pub fn join_reasons(reasons: &[String]) -> String {
    let reports: Vec<_> = reasons.iter().map(|reason| ErrorReport::parse(reason)).collect();
    let sentences: Vec<_> = reports.iter().map(ErrorReport::sentence).collect();
    let hints = ErrorReport { parts: reports.into_iter().flat_map(|it| it.parts).collect() }.hint();
    reason(sentences.join("; "), hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_its_causes_and_all_their_hints() {
        let report = ErrorReport::of_causes([
            "ops: cannot be cloned\nhint: agent check",
            "git.example.org denied access",
            "denied access",
            "hint: agent check",
            "no key\nhint: set ssh_key\nhint: or username",
        ]);
        let sentences = ["ops: cannot be cloned", "git.example.org denied access", "no key"];
        assert_eq!(report.sentences().collect::<Vec<_>>(), sentences);
        assert_eq!(report.hints(), ["agent check", "set ssh_key", "or username"]);
        assert_eq!(
            report.to_reason(),
            "ops: cannot be cloned: git.example.org denied access: no key\n\
             hint: agent check; set ssh_key; or username"
        );
        assert_eq!(
            report.to_line(),
            "ops: cannot be cloned; agent check: git.example.org denied access: \
             no key; set ssh_key; or username; agent check"
        );
    }

    #[test]
    fn a_reason_is_read_as_it_was_written() {
        for reason in ["held by ann", "no answer\nhint: is it up", "a\nhint: b; c"] {
            assert_eq!(ErrorReport::parse(reason).to_reason(), reason);
        }
        let report = ErrorReport::parse("two\nlines").with_hint("a remedy");
        assert_eq!(report.to_reason(), "two lines\nhint: a remedy");
        assert_eq!(report.to_line(), "two lines; a remedy");
        assert_eq!(ErrorReport::parse("").to_reason(), "");
    }

    #[test]
    fn several_reasons_have_their_hints_at_the_end() {
        let reasons = ["a\nhint: x".to_owned(), "b".to_owned(), "c\nhint: x".to_owned()];
        assert_eq!(join_reasons(&reasons), "a; b; c\nhint: x");
    }
}
