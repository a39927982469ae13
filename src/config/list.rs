//! The grammar of lists. Does not know the grammar of their items, see [`super::value`].

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::value::{Pattern, absolute_path};

/// A program and its arguments; no shell splits them.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Argv(pub Vec<String>);

impl TryFrom<Vec<String>> for Argv {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        let hint =
            "hint: write a program and its arguments, such as [\"/usr/local/bin/page\", \"-q\"]";
        match words.first() {
            None => Err(format!("the list is empty\n{hint}")),
            Some(program) if program.trim().is_empty() => {
                Err(format!("the program has no name\n{hint}"))
            }
            _ if words.iter().any(|word| word.contains('\0')) => {
                Err(format!("no argument can hold a NUL character\n{hint}"))
            }
            _ => Ok(Self(words)),
        }
    }
}

/// An [`Argv`] whose program is an absolute path.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct AbsoluteArgv(pub Vec<String>);

impl TryFrom<Vec<String>> for AbsoluteArgv {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        let Argv(words) = words.try_into()?;
        words.first().map(|program| absolute_path(program)).transpose()?;
        Ok(Self(words))
    }
}

/// An [`Argv`] whose program is an absolute path, or a bare name that is searched in `PATH`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ProgramArgv(pub Vec<String>);

impl TryFrom<Vec<String>> for ProgramArgv {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        let Argv(words) = words.try_into()?;
        let path = words.first().filter(|program| program.contains('/'));
        path.map(|program| absolute_path(program)).transpose()?;
        Ok(Self(words))
    }
}

/// A non-empty list.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<T>")]
pub struct NonEmptyList<T>(pub Vec<T>);

impl<T> TryFrom<Vec<T>> for NonEmptyList<T> {
    type Error = String;

    fn try_from(all: Vec<T>) -> Result<Self, String> {
        if all.is_empty() {
            return Err("the list is empty\nhint: name at least one, or leave the key out".into());
        }
        Ok(Self(all))
    }
}

/// The patterns of `paths`. Patterns that only exclude would leave nothing to deploy, ever.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<Pattern>")]
pub struct PathPatternList(pub Vec<String>);

impl TryFrom<Vec<Pattern>> for PathPatternList {
    type Error = String;

    fn try_from(all: Vec<Pattern>) -> Result<Self, String> {
        if !all.is_empty() && all.iter().all(|pattern| pattern.0.starts_with('!')) {
            return Err("every pattern excludes paths, so that none is left\n\
                 hint: begin the list with \"**\", which is every path"
                .to_owned());
        }
        Ok(Self(all.into_iter().map(|pattern| pattern.0).collect()))
    }
}

/// One value, or a non-empty list.
#[derive(Clone, Debug)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string in double quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany(vec![T::deserialize(text.into_deserializer())?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let NonEmptyList(all) =
                    NonEmptyList::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(OneOrMany(all))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
