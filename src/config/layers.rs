//! Converts keys to [`Settings`]: our defaults, then `[defaults]`, then `[repo.NAME]`. Reads no file.

use std::time::Duration;

use serde_spanned::Spanned;

use super::faults::{ConfigError, ConfigFaults};
use super::file::{self, NodeSection, RepoSection, TreeFile};
use super::list::NonEmptyList;
use super::overlay::Override;
use super::source::ConfigTexts;
use super::value::Script;
use super::{
    AgentDirs, FixedKeys, HealthSettings, PublishSettings, RepoMode, RepoSettings, Settings,
    TreeSettings, bus, credentials, health, modes, page, presence, signers, webhook,
};
use crate::config::path_claims;
use crate::domain::git::Remote;
use crate::domain::remote::ConnectionSettings;
use crate::domain::repository::drift::DriftPolicy;
use crate::domain::repository::gate::GatePolicy;
use crate::domain::repository::observed::{OnRewrite, Policy, RerunPolicy, UpdateMethod};
use crate::domain::text::EscapeControls;

/// The default interval of ticks: as often as under cron.
pub const EVERY: Duration = Duration::from_secs(60);
/// The default of `password_ttl`: the tokens of many services are valid for an hour.
const PASSWORD_TTL: Duration = Duration::from_secs(50 * 60);

/// The settings for these directories by the texts of `source`.
pub fn settings(mut world: AgentDirs, source: &ConfigTexts) -> Result<Settings, ConfigError> {
    let mut faults = ConfigFaults::default();
    let (file, replaced) = source.parse(&mut faults);
    let metrics_file = file.metrics_file.as_ref().map(|path| path.0.clone());
    faults.stop(metrics_file.as_deref())?;
    if let (Some(root), false) = (&file.root, world.own) {
        world.root.clone_from(&root.0);
    }
    faults.keep(refuse_in_defaults(source, &file.defaults));
    faults.keep(refuse_canaries(source, &file, &file.defaults));
    for (name, repo) in &file.repo {
        faults.check_repo(&name.get_ref().0, refuse_canaries(source, &file, repo));
    }
    modes::check_modes(source, &file, &mut faults);
    health::check_health(source, &file, &mut faults);
    credentials::check_passwords(source, &file, &mut faults);
    signers::check_signers(source, &file, &mut faults);
    path_claims::check_paths(source, &world.root, &file, &mut faults);
    faults.keep(bus::refuse_topic_without_bus(source, &file, &file.defaults));
    for (name, repo) in &file.repo {
        let checked = bus::refuse_topic_without_bus(source, &file, repo);
        faults.check_repo(&name.get_ref().0, checked);
    }
    let bus = file.bus.as_ref().map(|bus| bus::bus(source, bus)).transpose();
    let bus = faults.keep(bus).flatten();
    let webhook = faults.keep(webhook::webhook(source, &file)).flatten();
    let page = faults.keep(page::page(source, &file, webhook.as_ref())).flatten();
    let as_repo = |own: &RepoSection| repo(&RepoSection::default(), own);
    let presence = file.presence.as_ref();
    let presence = presence.map(|keys| presence::presence(source, keys, as_repo)).transpose();
    let presence = faults.keep(presence).flatten();
    faults.stop(metrics_file.as_deref())?;

    let faults = faults.into_repos();
    let repos = file.repo.iter().map(|(name, own)| {
        let name = &name.get_ref().0;
        let path = Some(path_claims::path_of(&world.root, name, own));
        let mut settings = RepoSettings { path, ..repo(&file.defaults, own) };
        lay_node_over(&mut settings.policy.gates, &file.node);
        (name.clone(), with_faults(settings, faults.get(name)))
    });
    Ok(Settings {
        is_handed_over: false,
        repos: repos.collect(),
        unlisted: unlisted(&file.defaults, &file.node),
        splay: file.splay.map_or(Duration::ZERO, |splay| splay.0),
        metrics_file,
        on_change: file.on_change.map(|argv| argv.0).unwrap_or_default(),
        trusted: file.trusted,
        files: source.names().map(str::to_owned).collect(),
        overrides: replaced.iter().map(|it| overridden(source, it)).collect(),
        faults,
        rejected: None,
        part: file.node.part.map(|part| part.0),
        stack: file.node.stack.map(|stack| stack.0),
        bus,
        webhook,
        page,
        presence,
        node_name: file.node.name.map(|name| name.0),
        every: file.listen.every.map_or(EVERY, |every| every.0),
        world,
    })
}

/// The settings with the faults of their section. Such a repository is `broken`, also when it is switched off.
fn with_faults(mut settings: RepoSettings, faults: Option<&ConfigError>) -> RepoSettings {
    settings.broken = faults.map(ConfigError::to_reason);
    settings.policy.active |= settings.broken.is_some();
    settings
}

/// The sentence about a key that a later file replaces.
fn overridden(source: &ConfigTexts, it: &Override) -> String {
    let (by, over) = (source.line(it.by), source.line(it.over));
    format!("{by} {} overrides {over}", it.key.escape_controls())
}

/// The settings by the text of a revision's `.pmpy.toml`.
pub fn tree(text: &str) -> Result<TreeSettings, ConfigError> {
    let mut source = ConfigTexts::default();
    source.add(".pmpy.toml", text);
    // A fleet is never upgraded at once: a newer key must not stop the older agents.
    let (tree, unknown): (TreeFile, _) = source.parse_known(file::tree_keys())?;
    Ok(TreeSettings {
        when: tree.when.map(|when| when.0),
        paths: tree.paths.map(|paths| paths.0),
        scripts: tree.scripts.map(|scripts| scripts.0.into_iter().map(|script| script.0).collect()),
        timeout: tree.timeout.map(|time| time.0),
        hold: tree.hold.map(|reason| reason.0),
        urgent: tree.urgent.map(|reason| reason.0),
        stays_on_failure: tree.on_failure.is_some(),
        unknown,
    })
}

/// The default settings of a repository.
pub fn usual() -> RepoSettings {
    repo(&RepoSection::default(), &RepoSection::default())
}

/// The settings of a repository without an entry. It cannot have a target; a mode that needs one becomes
/// `fetch`: running its scripts was not asked for.
fn unlisted(defaults: &RepoSection, node: &NodeSection) -> RepoSettings {
    let mut settings = repo(defaults, &RepoSection::default());
    lay_node_over(&mut settings.policy.gates, node);
    if modes::needs_target(settings.mode) {
        settings.mode = RepoMode::Fetch;
    }
    settings
}

/// One repository's settings, except its path.
fn repo(defaults: &RepoSection, own: &RepoSection) -> RepoSettings {
    let mut settings = RepoSettings {
        urls: Vec::new(),
        path: None,
        branch: None,
        tag: None,
        revision: None,
        policy: Policy {
            active: true,
            update: UpdateMethod::default(),
            rewritten: OnRewrite::default(),
            when: RerunPolicy::default(),
            gates: GatePolicy::default(),
            drift: DriftPolicy::default(),
        },
        mode: RepoMode::default(),
        poll: true,
        paths: Vec::new(),
        scripts: None,
        timeout: Duration::from_secs(3600),
        reach: ConnectionSettings::default(),
        password_command: Vec::new(),
        password_ttl: PASSWORD_TTL,
        max_file: None,
        user: None,
        publish: PublishSettings { keep: 2, ..PublishSettings::default() },
        health: HealthSettings::default(),
        env: Default::default(),
        env_file: None,
        on_action: Vec::new(),
        topic_name: None,
        listen_topics: Vec::new(),
        fixed: FixedKeys {
            when: own.when.is_some(),
            paths: own.paths.is_some(),
            scripts: own.scripts.is_some(),
        },
        broken: None,
    };
    lay_over(&mut settings, defaults);
    lay_over(&mut settings, own);
    if settings.mode.refs().is_some() {
        // Such a key in [defaults] is for other repositories.
        (settings.tag, settings.revision) = (None, None);
    }
    if settings.mode.fetched().is_some() {
        // Nor is this one for them: each ref waits by itself.
        settings.policy.gates.canaries.clear();
    }
    let is_fixed = settings.tag.is_some() || settings.revision.is_some();
    if is_fixed {
        settings.policy.update = UpdateMethod::Reset;
    }
    let usual = if is_fixed { OnRewrite::Refuse } else { settings.mode.rewritten() };
    settings.policy.rewritten = own.rewritten.or(defaults.rewritten).unwrap_or(usual);
    settings.reach.named_hosts = settings.urls.iter().filter_map(Remote::host).collect();
    settings
}

/// Overwrites `settings` with the keys that are set. Variables are overwritten one by one.
fn lay_over(settings: &mut RepoSettings, keys: &RepoSection) {
    if let Some(urls) = &keys.url {
        settings.urls = urls.get_ref().0.iter().map(|url| url.0.clone()).collect();
    }
    if keys.follows_something() {
        // One of the three: an own one replaces another in [defaults].
        settings.branch = keys.branch.as_ref().map(|branch| branch.get_ref().0.clone());
        settings.tag = keys.tag.as_ref().map(|tag| tag.get_ref().0.clone());
        settings.revision = keys.revision.as_ref().map(|revision| revision.get_ref().0);
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
    if let Some(size) = &keys.max_file {
        settings.max_file = Some(size.0);
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
    if let Some(program) = &keys.on_action {
        settings.on_action.clone_from(&program.get_ref().0);
    }
    if let Some(name) = &keys.topic_name {
        settings.topic_name = Some(name.0.clone());
    }
    if let Some(topics) = &keys.listen_topic {
        settings.listen_topics = bus::topics(topics.get_ref());
    }
    lay_reach_over(&mut settings.reach, keys);
    if keys.password_file.is_some() {
        settings.password_command.clear();
    }
    if let Some(program) = &keys.password_command {
        settings.password_command.clone_from(&program.get_ref().0);
        settings.reach.password_file = None;
    }
    if let Some(ttl) = &keys.password_ttl {
        settings.password_ttl = ttl.get_ref().0;
    }
    lay_publish_over(&mut settings.publish, keys);
    health::lay_over(&mut settings.health, keys);
    lay_gates_over(&mut settings.policy.gates, keys);
    lay_drift_over(&mut settings.policy.drift, keys);
    settings.policy.gates.asks_before = !settings.publish.before.is_empty();
}

fn lay_gates_over(gates: &mut GatePolicy, keys: &RepoSection) {
    if let Some(window) = &keys.window {
        gates.window = Some(window.get_ref().clone());
    }
    if let Some(zone) = &keys.window_zone {
        gates.window_zone = Some(zone.get_ref().0.clone());
    }
    if let Some(age) = &keys.min_age {
        gates.min_age = age.get_ref().0;
    }
    if let Some(rollout) = &keys.rollout {
        gates.rollout = rollout.get_ref().0;
    }
    if let Some(canaries) = &keys.canaries {
        gates.canaries = canaries.get_ref().0.iter().map(|it| it.0.clone()).collect();
    }
    if let Some(urgent) = keys.urgent {
        gates.ignores_urgent = !urgent;
    }
    if let Some(file) = &keys.allowed_signers {
        gates.signers = Some(file.get_ref().0.clone());
    }
    if let Some(since) = &keys.signed_since {
        gates.signed_since = Some(since.get_ref().0);
    }
}

fn lay_drift_over(drift: &mut DriftPolicy, keys: &RepoSection) {
    if let Some(on) = &keys.drift {
        drift.on = *on.get_ref();
    }
    if let Some(every) = &keys.drift_every {
        drift.every = every.get_ref().0;
    }
    if let Some(ignore) = &keys.drift_ignore {
        drift.ignore.clone_from(&ignore.get_ref().0);
    }
}

fn lay_node_over(gates: &mut GatePolicy, node: &NodeSection) {
    gates.position = node.rollout_position.map(|position| position.0);
    gates.node_name = node.name.as_ref().map(|name| name.0.clone());
}

fn lay_publish_over(publish: &mut PublishSettings, keys: &RepoSection) {
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
        publish.before = before.get_ref().0.iter().map(|program| program.0.clone()).collect();
    }
    if let Some(after) = &keys.after {
        publish.after.clone_from(&after.get_ref().0);
    }
    if let Some(user) = &keys.after_user {
        publish.after_user = Some(user.get_ref().0.clone());
    }
    if let Some(shared) = &keys.shared {
        publish.shared = shared.get_ref().0.iter().map(|it| it.get_ref().0.clone()).collect();
    }
}

fn words(scripts: &Spanned<NonEmptyList<Script>>) -> Vec<String> {
    scripts.get_ref().0.iter().map(|script| script.0.clone()).collect()
}

fn lay_reach_over(reach: &mut ConnectionSettings, keys: &RepoSection) {
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

/// Refuses `canaries` without `[presence]`, by which alone a machine knows what another one has.
fn refuse_canaries(
    source: &ConfigTexts,
    file: &file::ConfigFile,
    keys: &RepoSection,
) -> Result<(), ConfigError> {
    let Some(canaries) = &keys.canaries else { return Ok(()) };
    if file.presence.is_none() {
        return Err(source.error(
            canaries.span(),
            "\"canaries\" needs [presence]: without it no machine knows what another one has\n\
             hint: set url below [presence], here and on the canaries",
        ));
    }
    Ok(())
}

/// Refuses keys in `[defaults]` that only one repository can have.
fn refuse_in_defaults(source: &ConfigTexts, defaults: &RepoSection) -> Result<(), ConfigError> {
    let url = defaults.url.as_ref().map(|url| ("url", url.span()));
    let path = defaults.path.as_ref().map(|path| ("path", path.span()));
    let target = defaults.target.as_ref().map(|target| ("target", target.span()));
    match url.or(path).or(target) {
        None => Ok(()),
        Some((key, span)) => Err(source.error(
            span,
            &format!("\"{key}\" is not allowed in [defaults]\nhint: it belongs in [repo.NAME]"),
        )),
    }
}
