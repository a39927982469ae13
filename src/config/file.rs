//! The keys of `agent.toml`, `agent.d/*.toml` and `.pmpy.toml`, as they are written. A value is
//! judged by itself while it is read (see [`super::value`], [`super::list`]); what depends on other values is judged
//! when [`super::Settings`] are made of it. Spans are kept where that later judgement may refuse.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value};
use serde::forward_to_deserialize_any;
use serde_spanned::Spanned;

use super::Mode;
use super::list::{AbsoluteArgv, NonEmpty, OneOrMany, Patterns, ProgramArgv};
use super::value::{
    AbsolutePath, Address, Branch, BrokerAddress, Cadence, DirectoryName, Line, Proxy, RefPattern,
    RepoName, Script, ShortRef, Socket, Time, Token, TopicName, Variable, VariableValue, Wait,
};
use crate::domain::plan::{OnRewrite, Update};
use crate::domain::publish::Names;

/// `agent.toml` and `agent.d/*.toml`, taken together.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub root: Option<AbsolutePath>,
    pub splay: Option<Wait>,
    pub metrics_file: Option<AbsolutePath>,
    pub on_change: Option<AbsoluteArgv>,
    pub node: Node,
    pub defaults: Repo,
    pub repo: BTreeMap<Spanned<RepoName>, Repo>,
    pub bus: Option<Spanned<Bus>>,
    pub listen: Listen,
    pub webhook: Option<Spanned<Webhook>>,
}

/// `[node]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub part: Option<Token>,
    pub stack: Option<Token>,
}

/// `[repo.NAME]` and `[defaults]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repo {
    pub url: Option<Spanned<OneOrMany<Address>>>,
    pub path: Option<Spanned<AbsolutePath>>,
    pub branch: Option<Branch>,
    pub update: Option<Spanned<Update>>,
    pub rewritten: Option<OnRewrite>,
    pub when: Option<Spanned<Cadence>>,
    pub paths: Option<Spanned<Patterns>>,
    pub poll: Option<Spanned<bool>>,
    pub mode: Option<Spanned<Mode>>,
    pub user: Option<Spanned<Line>>,
    pub scripts: Option<Spanned<NonEmpty<Script>>>,
    pub timeout: Option<Time>,
    pub network_timeout: Option<Time>,
    pub env: BTreeMap<Variable, VariableValue>,
    pub env_file: Option<AbsolutePath>,
    pub active: Option<bool>,
    pub depth: Option<Spanned<u32>>,
    pub insecure: Option<bool>,
    pub key_file: Option<Spanned<AbsolutePath>>,
    pub known_hosts: Option<Spanned<AbsolutePath>>,
    pub username: Option<Spanned<Line>>,
    pub password_file: Option<Spanned<AbsolutePath>>,
    pub ca_file: Option<Spanned<AbsolutePath>>,
    pub client_cert: Option<Spanned<AbsolutePath>>,
    pub proxy: Option<Spanned<Proxy>>,
    pub target: Option<Spanned<AbsolutePath>>,
    pub names: Option<Spanned<Names>>,
    pub rename: Option<Spanned<BTreeMap<ShortRef, Spanned<DirectoryName>>>>,
    #[serde(rename = "match")]
    pub matching: Option<Spanned<NonEmpty<RefPattern>>>,
    pub keep: Option<Spanned<u32>>,
    pub before: Option<Spanned<NonEmpty<Script>>>,
    pub after: Option<Spanned<ProgramArgv>>,
    pub after_user: Option<Spanned<Line>>,
    pub topic_name: Option<Line>,
    pub listen_topic: Option<Spanned<OneOrMany<TopicName>>>,
}

/// `[bus]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bus {
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

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    pub every: Option<Time>,
}

/// `[webhook]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    pub bind: Option<Socket>,
    pub secret_file: Option<AbsolutePath>,
    pub announce: Option<Spanned<bool>>,
}

/// `.pmpy.toml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tree {
    pub when: Option<Cadence>,
    pub paths: Option<Patterns>,
    pub scripts: Option<NonEmpty<Script>>,
    pub timeout: Option<Time>,
    pub hold: Option<Line>,
}

/// Every section of `agent.toml` with its keys; the part before the first title is called "".
pub fn sections() -> [(&'static str, &'static [&'static str]); 7] {
    [
        ("", keys::<File>()),
        ("[node]", keys::<Node>()),
        ("[defaults]", keys::<Repo>()),
        ("[repo.NAME]", keys::<Repo>()),
        ("[bus]", keys::<Bus>()),
        ("[listen]", keys::<Listen>()),
        ("[webhook]", keys::<Webhook>()),
    ]
}

/// The keys of a table, as its derived `Deserialize` asks for them: the declaration above is the
/// only list of keys.
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
