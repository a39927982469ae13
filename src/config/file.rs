//! The keys of `agent.toml`, `agent.d/*.toml` and `.pmpy.toml`, as written. Reading checks each value by
//! itself (see [`super::value`], [`super::list`]); making [`super::Settings`] checks what depends on other
//! values. Spans are kept where that later check may refuse.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_spanned::Spanned;

use super::RepoMode;
use super::list::{AbsoluteArgv, NonEmptyList, OneOrMany, PathPatternList, ProgramArgv};
use super::value::{
    AbsolutePath, Address, BeforeProgram, Branch, BrokerAddress, ByteSize, Cadence, DirectoryName,
    HostName, Line, Position, Proxy, RefPattern, RepoName, Revision, Script, SharedDir, ShortRef,
    Socket, StaysOnFailure, Tag, Time, Token, TopicName, Variable, VariableValue, Wait, ZoneName,
};
use crate::domain::publish::rules::NamingRule;
use crate::domain::repository::drift::OnDrift;
use crate::domain::repository::health::OnFailure;
use crate::domain::repository::observed::{OnRewrite, UpdateMethod};
use crate::domain::repository::window::Window;
use crate::domain::trust::Trustee;

/// The keys of `agent.toml` and `agent.d/*.toml`, merged.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    pub root: Option<AbsolutePath>,
    pub splay: Option<Wait>,
    pub metrics_file: Option<AbsolutePath>,
    pub on_change: Option<AbsoluteArgv>,
    pub trusted: Vec<Trustee>,
    pub node: NodeSection,
    pub defaults: RepoSection,
    pub repo: BTreeMap<Spanned<RepoName>, RepoSection>,
    pub bus: Option<Spanned<BusSection>>,
    pub listen: ListenSection,
    pub webhook: Option<Spanned<WebhookSection>>,
    pub page: Option<Spanned<PageSection>>,
    pub presence: Option<Spanned<PresenceSection>>,
}

/// The keys of `[node]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    pub name: Option<Token>,
    pub part: Option<Token>,
    pub stack: Option<Token>,
    pub rollout_position: Option<Position>,
}

/// The keys of `[repo.NAME]` and `[defaults]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepoSection {
    pub url: Option<Spanned<OneOrMany<Address>>>,
    pub path: Option<Spanned<AbsolutePath>>,
    pub branch: Option<Spanned<Branch>>,
    pub tag: Option<Spanned<Tag>>,
    pub revision: Option<Spanned<Revision>>,
    pub update: Option<Spanned<UpdateMethod>>,
    pub rewritten: Option<OnRewrite>,
    pub when: Option<Spanned<Cadence>>,
    pub paths: Option<Spanned<PathPatternList>>,
    pub poll: Option<Spanned<bool>>,
    pub mode: Option<Spanned<RepoMode>>,
    pub user: Option<Spanned<Line>>,
    pub scripts: Option<Spanned<NonEmptyList<Script>>>,
    pub timeout: Option<Time>,
    pub network_timeout: Option<Time>,
    pub env: BTreeMap<Variable, VariableValue>,
    pub env_file: Option<AbsolutePath>,
    pub active: Option<bool>,
    pub depth: Option<Spanned<u32>>,
    pub max_file: Option<ByteSize>,
    pub insecure: Option<bool>,
    pub key_file: Option<Spanned<AbsolutePath>>,
    pub known_hosts: Option<Spanned<AbsolutePath>>,
    pub username: Option<Spanned<Line>>,
    pub password_file: Option<Spanned<AbsolutePath>>,
    pub password_command: Option<Spanned<AbsoluteArgv>>,
    pub password_ttl: Option<Spanned<Time>>,
    pub ca_file: Option<Spanned<AbsolutePath>>,
    pub client_cert: Option<Spanned<AbsolutePath>>,
    pub proxy: Option<Spanned<Proxy>>,
    pub target: Option<Spanned<AbsolutePath>>,
    pub names: Option<Spanned<NamingRule>>,
    pub rename: Option<Spanned<BTreeMap<ShortRef, Spanned<DirectoryName>>>>,
    #[serde(rename = "match")]
    pub matching: Option<Spanned<NonEmptyList<RefPattern>>>,
    pub keep: Option<Spanned<u32>>,
    pub before: Option<Spanned<NonEmptyList<BeforeProgram>>>,
    pub after: Option<Spanned<ProgramArgv>>,
    pub after_user: Option<Spanned<Line>>,
    pub shared: Option<Spanned<NonEmptyList<Spanned<SharedDir>>>>,
    pub window: Option<Spanned<Window>>,
    pub window_zone: Option<Spanned<ZoneName>>,
    pub min_age: Option<Spanned<Wait>>,
    pub rollout: Option<Spanned<Wait>>,
    pub canaries: Option<Spanned<NonEmptyList<Line>>>,
    pub urgent: Option<bool>,
    pub health: Option<Spanned<AbsoluteArgv>>,
    pub health_within: Option<Spanned<Time>>,
    pub on_failure: Option<Spanned<OnFailure>>,
    pub drift: Option<Spanned<OnDrift>>,
    pub drift_every: Option<Spanned<Time>>,
    pub drift_ignore: Option<Spanned<PathPatternList>>,
    pub allowed_signers: Option<Spanned<AbsolutePath>>,
    pub signed_since: Option<Spanned<Revision>>,
    pub on_action: Option<Spanned<AbsoluteArgv>>,
    pub topic_name: Option<Line>,
    pub listen_topic: Option<Spanned<OneOrMany<TopicName>>>,
}

impl RepoSection {
    /// Whether it says what is followed.
    pub fn follows_something(&self) -> bool {
        self.branch.is_some() || self.tag.is_some() || self.revision.is_some()
    }
}

/// The keys of `[bus]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusSection {
    pub brokers: Option<Spanned<OneOrMany<BrokerAddress>>>,
    pub login_file: Option<AbsolutePath>,
    pub ca_file: Option<AbsolutePath>,
    pub host: Option<Line>,
    pub listen_topic: Option<OneOrMany<TopicName>>,
    pub report_topic: Option<TopicName>,
    pub announce_topic: Option<TopicName>,
    pub heartbeat: Option<Spanned<Time>>,
    pub spread: Option<Wait>,
}

/// The keys of `[listen]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    pub every: Option<Time>,
}

/// The keys of `[webhook]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSection {
    pub bind: Option<Socket>,
    pub secret_file: Option<AbsolutePath>,
    pub announce: Option<Spanned<bool>>,
}

/// The keys of `[page]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageSection {
    pub bind: Option<Spanned<Socket>>,
    pub allowed_hosts: Vec<HostName>,
}

/// The keys of `[presence]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceSection {
    pub url: Option<Spanned<Address>>,
    pub every: Option<Spanned<Wait>>,
    pub history: Option<bool>,
    pub on_change: Option<Spanned<AbsoluteArgv>>,
    pub require: Option<Spanned<NonEmptyList<String>>>,
    pub own_refs: Option<Spanned<bool>>,
    pub network_timeout: Option<Time>,
    pub insecure: Option<bool>,
    pub key_file: Option<Spanned<AbsolutePath>>,
    pub known_hosts: Option<Spanned<AbsolutePath>>,
    pub username: Option<Spanned<Line>>,
    pub password_file: Option<Spanned<AbsolutePath>>,
    pub password_command: Option<Spanned<AbsoluteArgv>>,
    pub password_ttl: Option<Spanned<Time>>,
    pub ca_file: Option<Spanned<AbsolutePath>>,
    pub client_cert: Option<Spanned<AbsolutePath>>,
    pub proxy: Option<Spanned<Proxy>>,
}

/// The keys of `.pmpy.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeFile {
    pub when: Option<Cadence>,
    pub paths: Option<PathPatternList>,
    pub scripts: Option<NonEmptyList<Script>>,
    pub timeout: Option<Time>,
    pub hold: Option<Line>,
    pub urgent: Option<Line>,
    pub on_failure: Option<StaysOnFailure>,
}

/// The keys of `.pmpy.toml`.
pub fn tree_keys() -> &'static [&'static str] {
    keys::<TreeFile>()
}

/// Every section of `agent.toml` with its keys; the part before the first section is called "".
pub fn sections() -> [(&'static str, &'static [&'static str]); 9] {
    [
        ("", keys::<ConfigFile>()),
        ("[node]", keys::<NodeSection>()),
        ("[defaults]", keys::<RepoSection>()),
        ("[repo.NAME]", keys::<RepoSection>()),
        ("[bus]", keys::<BusSection>()),
        ("[listen]", keys::<ListenSection>()),
        ("[webhook]", keys::<WebhookSection>()),
        ("[page]", keys::<PageSection>()),
        ("[presence]", keys::<PresenceSection>()),
    ]
}

/// The keys of a table, as its derived `Deserialize` asks for them: the struct declaration is the only
/// list of keys.
fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(value::Error::custom("only the keys were asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            keys: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = keys;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut found: &'static [&'static str] = &[];
    let refused = T::deserialize(Asked(&mut found));
    debug_assert!(refused.is_err());
    found
}
