//! The patterns of `paths` and `match`: which changes trigger a run, and which refs are published. Pure.

use globset::{GlobBuilder, GlobMatcher};

/// Patterns in the order they were written; the last that matches a path decides.
#[derive(Clone, Debug)]
pub struct PathPatterns(Vec<(bool, GlobMatcher)>);

impl PathPatterns {
    /// Compiles the patterns; one that begins with `!` excludes. `*` stays within a directory, `**` does
    /// not.
    ///
    /// # Errors
    /// The first invalid pattern.
    pub fn new(patterns: &[String]) -> Result<Self, globset::Error> {
        let read = |pattern: &String| {
            let (counts, glob) = match pattern.strip_prefix('!') {
                Some(rest) => (false, rest),
                None => (true, pattern.as_str()),
            };
            let glob = GlobBuilder::new(glob).literal_separator(true).build()?;
            Ok((counts, glob.compile_matcher()))
        };
        patterns.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Returns `true` if one of `paths` counts. Without patterns every revision does, even one that
    /// changes no path.
    pub fn match_any(&self, paths: &[Vec<u8>]) -> bool {
        self.0.is_empty() || paths.iter().any(|path| self.matches(path))
    }

    /// Returns `true` if `path` counts. A path that no pattern matches counts if all patterns exclude,
    /// or if there are none.
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        let last = self.0.iter().rev().find(|(_, glob)| glob.is_match(path.as_ref()));
        last.map_or_else(|| self.0.iter().all(|(counts, _)| !counts), |(counts, _)| *counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<_> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        PathPatterns::new(&patterns).unwrap().match_any(&[path.as_bytes().to_vec()])
    }

    #[test]
    fn without_patterns_every_path_counts() {
        assert!(counts(&[], "a/b"));
        assert!(PathPatterns::new(&[]).unwrap().match_any(&[]), "an empty commit is acted upon");
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns = ["web/**", "!**/*.md", "web/keep.md"];
        assert!(counts(&patterns, "web/a/b.html"));
        assert!(!counts(&patterns, "web/a/README.md"));
        assert!(counts(&patterns, "web/keep.md"));
        assert!(!counts(&patterns, "db/schema.sql"));
    }

    #[test]
    fn excluding_alone_leaves_everything_else() {
        assert!(counts(&["!docs/**"], "web/a"));
        assert!(!counts(&["!docs/**"], "docs/a"));
    }

    #[test]
    fn a_star_stays_within_a_directory() {
        assert!(counts(&["web/*"], "web/a"));
        assert!(!counts(&["web/*"], "web/a/b"));
    }
}
