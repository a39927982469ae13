//! From keys to [`Settings`]: our own defaults, `[defaults]` over them, `[repo.NAME]` over those;
//! and the rules which no value can break alone.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_spanned::Spanned;

use super::file::{File, Repo, Tree};
use super::source::{Error, Source};
use super::{Fixed, Mode, RepoSettings, Settings, TreeSettings, World, later};
use crate::domain::plan::{OnRewrite, Policy, Update, When};
use crate::domain::remote::Reach;

/// What `source` says about `world`.
pub fn settings(mut world: World, source: &Source) -> Result<Settings, Error> {
    let file: File = source.parse()?;
    if let (Some(root), false) = (&file.root, world.own) {
        world.root.clone_from(&root.0);
    }
    refuse_in_defaults(source, &file.defaults)?;
    refuse_overlaps(source, &world.root, &file)?;
    later::refuse_sections(source, &file)?;
    for repo in [&file.defaults].into_iter().chain(file.repo.values()) {
        later::refuse_keys(source, repo)?;
    }

    let repos = file.repo.iter().map(|(name, own)| {
        let name = &name.get_ref().0;
        let path = path_of(&world.root, name, own);
        (name.clone(), RepoSettings { path: Some(path), ..repo(&file.defaults, own) })
    });
    Ok(Settings {
        repos: repos.collect(),
        unlisted: repo(&file.defaults, &Repo::default()),
        splay: file.splay.map_or(Duration::ZERO, |splay| splay.0),
        metrics_file: file.metrics_file.map(|path| path.0),
        on_change: file.on_change.map(|argv| argv.0).unwrap_or_default(),
        files: source.names().map(str::to_owned).collect(),
        part: file.node.part.map(|part| part.0),
        stack: file.node.stack.map(|stack| stack.0),
        world,
    })
}

/// What a revision says about itself.
pub fn tree(text: &str) -> Result<TreeSettings, Error> {
    let mut source = Source::default();
    source.add(".pmpy.toml", text);
    let tree: Tree = source.parse()?;
    Ok(TreeSettings {
        when: tree.when.map(|when| when.0),
        paths: tree.paths.map(|paths| paths.0),
        scripts: tree.scripts.map(|scripts| scripts.0.into_iter().map(|script| script.0).collect()),
        timeout: tree.timeout.map(|time| time.0),
        hold: tree.hold.map(|reason| reason.0),
    })
}

/// What holds where nothing is configured.
pub fn usual() -> RepoSettings {
    repo(&Repo::default(), &Repo::default())
}

/// One repository's settings, all but its path.
fn repo(defaults: &Repo, own: &Repo) -> RepoSettings {
    let mut settings = RepoSettings {
        urls: Vec::new(),
        path: None,
        branch: None,
        policy: Policy {
            active: true,
            update: Update::default(),
            rewritten: OnRewrite::default(),
            when: When::default(),
        },
        mode: Mode::default(),
        poll: true,
        paths: Vec::new(),
        scripts: None,
        timeout: Duration::from_secs(3600),
        reach: Reach::default(),
        user: None,
        env: Default::default(),
        env_file: None,
        fixed: Fixed {
            when: own.when.is_some(),
            paths: own.paths.is_some(),
            scripts: own.scripts.is_some(),
        },
    };
    lay_over(&mut settings, defaults);
    lay_over(&mut settings, own);
    settings.policy.rewritten = own.rewritten.or(defaults.rewritten).unwrap_or_default();
    settings
}

/// Lays the keys that are set over `settings`. Variables are laid over one by one.
fn lay_over(settings: &mut RepoSettings, keys: &Repo) {
    if let Some(urls) = &keys.url {
        settings.urls = urls.get_ref().0.iter().map(|url| url.0.clone()).collect();
    }
    if let Some(branch) = &keys.branch {
        settings.branch = Some(branch.0.clone());
    }
    if let Some(active) = keys.active {
        settings.policy.active = active;
    }
    if let Some(update) = keys.update {
        settings.policy.update = update;
    }
    if let Some(when) = &keys.when {
        settings.policy.when = when.0;
    }
    if let Some(mode) = keys.mode.as_ref().and_then(|word| later::mode(*word.get_ref())) {
        settings.mode = mode;
    }
    if let Some(poll) = &keys.poll {
        settings.poll = *poll.get_ref();
    }
    if let Some(paths) = &keys.paths {
        settings.paths.clone_from(&paths.0);
    }
    if let Some(scripts) = &keys.scripts {
        settings.scripts = Some(scripts.0.iter().map(|script| script.0.clone()).collect());
    }
    if let Some(timeout) = &keys.timeout {
        settings.timeout = timeout.0;
    }
    if let Some(timeout) = &keys.network_timeout {
        settings.reach.limit = timeout.0;
    }
    for (name, value) in &keys.env {
        settings.env.insert(name.0.clone(), value.0.clone());
    }
    if let Some(file) = &keys.env_file {
        settings.env_file = Some(file.0.clone());
    }
    if let Some(user) = &keys.user {
        settings.user = Some(user.get_ref().0.clone());
    }
    lay_reach_over(&mut settings.reach, keys);
}

fn lay_reach_over(reach: &mut Reach, keys: &Repo) {
    if let Some(insecure) = keys.insecure {
        reach.insecure = insecure;
    }
    if let Some(depth) = &keys.depth {
        reach.depth = *depth.get_ref();
    }
    if let Some(username) = &keys.username {
        reach.username = Some(username.get_ref().0.clone());
    }
    let paths = [
        (&mut reach.key_file, &keys.key_file),
        (&mut reach.known_hosts, &keys.known_hosts),
        (&mut reach.password_file, &keys.password_file),
        (&mut reach.ca_file, &keys.ca_file),
        (&mut reach.client_cert, &keys.client_cert),
    ];
    for (setting, key) in paths {
        if let Some(path) = key {
            *setting = Some(path.get_ref().0.clone());
        }
    }
    if let Some(proxy) = &keys.proxy {
        reach.proxy = Some(proxy.get_ref().0.clone());
    }
}

/// Refuses what can only be one repository's.
fn refuse_in_defaults(source: &Source, defaults: &Repo) -> Result<(), Error> {
    let url = defaults.url.as_ref().map(|url| ("url", url.span()));
    let path = defaults.path.as_ref().map(|path| ("path", path.span()));
    let target = defaults.target.as_ref().map(|target| ("target", target.span()));
    match url.or(path).or(target) {
        None => Ok(()),
        Some((key, span)) => Err(source.error(
            span,
            &format!("\"{key}\" cannot be the same for all\nhint: it belongs in [repo.NAME]"),
        )),
    }
}

/// Refuses repositories that would lie in one another, or that the root lies in.
fn refuse_overlaps(source: &Source, root: &Path, file: &File) -> Result<(), Error> {
    let mut places: Vec<(PathBuf, &str, Range<usize>)> = file
        .repo
        .iter()
        .map(|(name, repo)| {
            let span = repo.path.as_ref().map_or(name.span(), Spanned::span);
            (path_of(root, &name.get_ref().0, repo), name.get_ref().0.as_str(), span)
        })
        .collect();
    for (path, name, span) in &places {
        if root.starts_with(path) {
            let reason = format!(
                "the path of \"{name}\" holds the root ({}) itself\n\
                 hint: give it a folder of its own, such as {}",
                root.display().to_string().escape_debug(),
                root.join(name).display().to_string().escape_debug()
            );
            return Err(source.error(span.clone(), &reason));
        }
    }
    // Paths sort by their parts: whatever lies in a folder comes right behind that folder.
    places.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    for pair in places.windows(2) {
        let [(outer, other, first), (inner, name, span)] = pair else { continue };
        if inner.starts_with(outer) {
            let reason = format!(
                "the paths of \"{name}\" and \"{other}\" overlap\n\
                 hint: \"{other}\" ({}) is at {}; give one of them another path",
                source.place(first.start),
                outer.display().to_string().escape_debug()
            );
            return Err(source.error(span.clone(), &reason));
        }
    }
    Ok(())
}

fn path_of(root: &Path, name: &str, repo: &Repo) -> PathBuf {
    repo.path.as_ref().map_or_else(|| root.join(name), |path| path.get_ref().0.clone())
}
