//! From keys to [`Settings`]: our own defaults, `[defaults]` over them, `[repo.NAME]` over those.

use std::time::Duration;

use serde_spanned::Spanned;

use super::file::{File, Repo, Tree};
use super::list::NonEmpty;
use super::source::{Error, Source};
use super::value::Script;
use super::{
    Fixed, Mode, Publish, RepoSettings, Settings, TreeSettings, World, bus, modes, places, webhook,
};
use crate::domain::plan::{OnRewrite, Policy, Update, When};
use crate::domain::remote::Reach;

/// As often as cron would tick.
pub const EVERY: Duration = Duration::from_secs(60);

/// What `source` says about `world`.
pub fn settings(mut world: World, source: &Source) -> Result<Settings, Error> {
    let file: File = source.parse()?;
    if let (Some(root), false) = (&file.root, world.own) {
        world.root.clone_from(&root.0);
    }
    refuse_in_defaults(source, &file.defaults)?;
    modes::judge(source, &file)?;
    places::judge(source, &world.root, &file)?;
    for repo in [&file.defaults].into_iter().chain(file.repo.values()) {
        bus::refuse_topic_without_bus(source, &file, repo)?;
    }
    let bus = file.bus.as_ref().map(|bus| bus::bus(source, bus)).transpose()?;
    let webhook = webhook::webhook(source, &file)?;

    let repos = file.repo.iter().map(|(name, own)| {
        let name = &name.get_ref().0;
        let path = places::path_of(&world.root, name, own);
        (name.clone(), RepoSettings { path: Some(path), ..repo(&file.defaults, own) })
    });
    Ok(Settings {
        repos: repos.collect(),
        unlisted: unlisted(&file.defaults),
        splay: file.splay.map_or(Duration::ZERO, |splay| splay.0),
        metrics_file: file.metrics_file.map(|path| path.0),
        on_change: file.on_change.map(|argv| argv.0).unwrap_or_default(),
        files: source.names().map(str::to_owned).collect(),
        part: file.node.part.map(|part| part.0),
        stack: file.node.stack.map(|stack| stack.0),
        bus,
        webhook,
        every: file.listen.every.map_or(EVERY, |every| every.0),
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

/// What holds for a repository without an entry. It can have no target, and where one would be
/// needed it is fetched and nothing else: its scripts were not asked for.
fn unlisted(defaults: &Repo) -> RepoSettings {
    let mut settings = repo(defaults, &Repo::default());
    if modes::needs_target(settings.mode) {
        settings.mode = Mode::Fetch;
    }
    settings
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
        publish: Publish { keep: 2, ..Publish::default() },
        env: Default::default(),
        env_file: None,
        topic_name: None,
        listen_topics: Vec::new(),
        fixed: Fixed {
            when: own.when.is_some(),
            paths: own.paths.is_some(),
            scripts: own.scripts.is_some(),
        },
    };
    lay_over(&mut settings, defaults);
    lay_over(&mut settings, own);
    let rewritten = own.rewritten.or(defaults.rewritten);
    settings.policy.rewritten = rewritten.unwrap_or(settings.mode.rewritten());
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
    if let Some(update) = &keys.update {
        settings.policy.update = *update.get_ref();
    }
    if let Some(when) = &keys.when {
        settings.policy.when = when.get_ref().0;
    }
    if let Some(mode) = &keys.mode {
        settings.mode = *mode.get_ref();
    }
    if let Some(poll) = &keys.poll {
        settings.poll = *poll.get_ref();
    }
    if let Some(paths) = &keys.paths {
        settings.paths.clone_from(&paths.get_ref().0);
    }
    if let Some(scripts) = &keys.scripts {
        settings.scripts = Some(words(scripts));
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
    if let Some(name) = &keys.topic_name {
        settings.topic_name = Some(name.0.clone());
    }
    if let Some(topics) = &keys.listen_topic {
        settings.listen_topics = bus::topics(topics.get_ref());
    }
    lay_reach_over(&mut settings.reach, keys);
    lay_publish_over(&mut settings.publish, keys);
}

fn lay_publish_over(publish: &mut Publish, keys: &Repo) {
    if let Some(target) = &keys.target {
        publish.target = Some(target.get_ref().0.clone());
    }
    if let Some(names) = &keys.names {
        publish.names = *names.get_ref();
    }
    if let Some(rename) = &keys.rename {
        let pairs = rename.get_ref().iter();
        publish.rename = pairs.map(|(from, to)| (from.0.clone(), to.get_ref().0.clone())).collect();
    }
    if let Some(matching) = &keys.matching {
        publish.matching = matching.get_ref().0.iter().map(|pattern| pattern.0.clone()).collect();
    }
    if let Some(keep) = &keys.keep {
        publish.keep = *keep.get_ref();
    }
    if let Some(before) = &keys.before {
        publish.before = words(before);
    }
    if let Some(after) = &keys.after {
        publish.after.clone_from(&after.get_ref().0);
    }
    if let Some(user) = &keys.after_user {
        publish.after_user = Some(user.get_ref().0.clone());
    }
}

fn words(scripts: &Spanned<NonEmpty<Script>>) -> Vec<String> {
    scripts.get_ref().0.iter().map(|script| script.0.clone()).collect()
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
