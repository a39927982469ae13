//! Which refs of a remote a repository follows, as far as its settings tell. Knows no clone.

use super::RepoSettings;
use crate::domain::remote::RefKinds;

impl RepoSettings {
    /// Whether a change of the ref `name` at the remote can concern this repository: it may be followed, published or
    /// fetched. In doubt it can, as with a name that is not the whole one.
    pub fn may_follow(&self, name: &str) -> bool {
        let kinds = self.mode.fetched().unwrap_or(RefKinds { branches: false, tags: false });
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            let is_followed = match &self.branch {
                // Which branch the remote's HEAD names, and what the clone follows, may change.
                None => self.tag.is_none(),
                // The names of this machine are not filled in here.
                Some(followed) => followed.contains('{') || followed == branch,
            };
            return kinds.branches || is_followed;
        }
        if name.starts_with("refs/tags/") {
            // The revision that is followed may come with any ref.
            return kinds.tags || self.tag.is_some() || self.revision.is_some();
        }
        !name.starts_with("refs/")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{AgentDirs, ConfigLocations, ConfigTexts, Settings};

    /// Which of a branch that is followed, another one, a tag, a ref of other tools and a short name concern `site`.
    fn concerning(keys: &str) -> Vec<&'static str> {
        let mut texts = ConfigTexts::default();
        texts.add("agent.toml", format!("[repo.site]\nurl = \"/srv/site.git\"\n{keys}"));
        let world = AgentDirs::of(&ConfigLocations { is_root: true, ..ConfigLocations::default() });
        let settings = Settings::parse(world.unwrap(), &texts).unwrap();
        let refs =
            ["refs/heads/main", "refs/heads/wip/x", "refs/tags/v1", "refs/notes/commits", "main"];
        let repo = settings.of_repo("site");
        refs.into_iter().filter(|name| repo.may_follow(name)).collect()
    }

    #[test]
    fn only_a_ref_that_may_be_followed_or_published_concerns_a_repository() {
        let (main, wip, tag, short) =
            ("refs/heads/main", "refs/heads/wip/x", "refs/tags/v1", "main");
        for (keys, expected) in [
            ("", vec![main, wip, short]),
            ("branch = \"main\"", vec![main, short]),
            ("branch = \"{part}/x\"", vec![main, wip, short]),
            ("tag = \"v*\"", vec![tag, short]),
            (
                "revision = \"6b2c3d7000000000000000000000000000000000\"",
                vec![main, wip, tag, short],
            ),
            (
                "mode = \"branches\"\ntarget = \"/srv/www\"\nbranch = \"main\"",
                vec![main, wip, short],
            ),
            ("mode = \"tags\"\ntarget = \"/srv/www\"\nbranch = \"main\"", vec![main, tag, short]),
        ] {
            assert_eq!(concerning(keys), expected, "{keys}");
        }
    }
}
