//! The names by which a web hook may mean a repository: its name in messages, and the path of its remote,
//! which is where a forge takes its own name from. Names at forges differ by more than case. A hook is a
//! hint: one match too many costs a poll, one too few costs a deployment.

use crate::domain::bus::message::{LONGEST_NAME, is_plain};
use crate::domain::git::{Remote, RemoteScheme};

/// The names of one repository.
#[derive(Clone, Debug)]
pub struct HookNames {
    /// The name in messages.
    pub called: String,
    /// Whether a person chose `called` for messages.
    is_chosen: bool,
    /// The paths of its remotes, in lower case.
    paths: Vec<String>,
}

/// How well a name fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameFit {
    /// Another case, which most forges do not distinguish.
    OtherCase,
    /// The last part of the name.
    LastPart,
    /// The path of a remote.
    Path,
    /// The whole name.
    Whole,
}

impl HookNames {
    /// The names of the repository that is called `name` here, `chosen` in messages, and has these remotes.
    pub fn new(name: &str, chosen: Option<&str>, remotes: &[Remote]) -> Self {
        Self {
            called: chosen.unwrap_or(name).to_owned(),
            is_chosen: chosen.is_some(),
            paths: remotes.iter().filter_map(forge_path).collect(),
        }
    }

    /// How `full`, the forge's name of a repository, fits; `None`: it means another repository.
    pub fn fit(&self, full: &str) -> Option<NameFit> {
        let (lower, called) = (full.to_lowercase(), self.called.to_lowercase());
        let (short, lower_short) = (last_part(full), last_part(&lower));
        // A chosen name stands for what it says: another repository's may end in the same word.
        let has_path = |path: &String| {
            is_tail(path, &lower) && (!self.is_chosen || lower.contains('/'))
                || (!self.is_chosen && last_part(path) == lower_short)
        };
        if full == self.called {
            Some(NameFit::Whole)
        } else if self.paths.iter().any(has_path) {
            Some(NameFit::Path)
        } else if short == self.called {
            Some(NameFit::LastPart)
        } else if called == lower || called == lower_short {
            Some(NameFit::OtherCase)
        } else {
            None
        }
    }

    /// The name by which a forge calls the repository, while no hook of it would fit; `None`: one would,
    /// or there is nothing to tell it from. `remotes` are those that the repository really has.
    pub fn unmatched(&self, remotes: &[Remote]) -> Option<String> {
        let paths: Vec<String> = remotes.iter().filter_map(forge_path).collect();
        match paths.iter().any(|path| self.fit(path).is_some()) {
            true => None,
            // A path on this machine does not say what a forge calls the repository.
            false => match remotes.first().and_then(Remote::scheme) {
                Some(RemoteScheme::Local) | None if self.may_come() => None,
                _ => paths.into_iter().next(),
            },
        }
    }

    /// Whether a forge may use the name as it is.
    fn may_come(&self) -> bool {
        let name = self.called.as_str();
        let ends = [name.starts_with('/'), name.ends_with('/'), name.ends_with(".git")];
        is_plain(name, LONGEST_NAME)
            && name.trim() == name
            && !name.contains(':')
            && !ends.contains(&true)
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// Whether `path` ends with the parts of `name`.
fn is_tail(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The path of a remote as a forge names a repository: without server, `.git` and outer slashes, in lower
/// case. `None`: there is none.
fn forge_path(remote: &Remote) -> Option<String> {
    let url = remote.secret_url();
    let path = match (url.split_once("://"), remote.scheme()?) {
        (Some((_, rest)), _) => {
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            rest.split_once('/').map(|(_, path)| path)?
        }
        (None, RemoteScheme::Ssh) => url.split_once(':').map(|(_, path)| path)?,
        (None, _) => url,
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    (!path.is_empty()).then(|| path.to_lowercase())
}

#[cfg(test)]
mod tests {
    use crate::domain::bus::hook_names::*;

    fn names(chosen: Option<&str>, url: &str) -> HookNames {
        HookNames::new("site", chosen, &[Remote::new(url)])
    }

    #[test]
    fn a_forges_name_is_found_in_the_path_of_the_remote() {
        for url in [
            "https://git.example.org/Org/Spog.git",
            "https://pat:pa/ss@git.example.org/x/org/spog",
            "ssh://git@git.example.org:7999/org/spog.git/",
            "git@git.example.org:org/spog.git",
            "https://bitbucket.example.org/scm/org/spog.git",
            "/srv/git/org/spog.git",
            "file:///srv/git/org/spog",
        ] {
            let names = names(None, url);
            for (full, fit) in [
                ("Org/Spog", Some(NameFit::Path)),
                ("other/spog", Some(NameFit::Path)),
                ("g/spog", Some(NameFit::Path)),
                ("site", Some(NameFit::Whole)),
                ("x/site", Some(NameFit::LastPart)),
                ("x/Site", Some(NameFit::OtherCase)),
                ("org/spogs", None),
                ("org", None),
            ] {
                assert_eq!(names.fit(full), fit, "{full} for {url}");
            }
        }
    }

    #[test]
    fn a_chosen_name_is_matched_as_a_whole() {
        let names = names(Some("sites/spog"), "/srv/git/spog.git");
        for (full, fit) in [
            ("sites/spog", Some(NameFit::Whole)),
            ("SITES/Spog", Some(NameFit::OtherCase)),
            ("git/spog", Some(NameFit::Path)),
            ("spog", None),
            ("others/spog", None),
            ("site", None),
        ] {
            assert_eq!(names.fit(full), fit, "{full}");
        }
    }

    #[test]
    fn a_name_that_no_hook_has_is_found() {
        let unmatched = |chosen: Option<&str>, configured: &[&str], real: &str| {
            let configured: Vec<Remote> = configured.iter().map(|url| Remote::new(*url)).collect();
            HookNames::new("site", chosen, &configured).unmatched(&[Remote::new(real)])
        };
        let (url, path) = ("https://git.example.org/org/spog.git", "org/spog".to_owned());
        assert_eq!(unmatched(None, &[url], url), None);
        assert_eq!(unmatched(None, &[], url), Some(path.clone()));
        assert_eq!(unmatched(Some("spog"), &[], url), None);
        assert_eq!(unmatched(Some("Org/Spog"), &[], url), None);
        assert_eq!(unmatched(Some("other"), &[], url), Some(path));
        assert_eq!(unmatched(Some("sites/spog"), &[], "/srv/up.git"), None);
        for odd in ["sites/spog.git", "/sites/spog", "https://a/b", " b"] {
            assert_eq!(unmatched(Some(odd), &[], "/srv/up.git"), Some("srv/up".to_owned()));
        }
    }
}
