//! The name of the ref that one world of a machine publishes at.

use std::fmt;

use ring::digest::{SHA256, digest};

use crate::domain::text::{EscapeControls, hexadecimal};

/// The last part of each such ref.
const LAST: &str = "state";
/// The most bytes of a machine's name: with user and world a ref has to be below 255 bytes at some forges.
const MOST_OF_A_HOST: usize = 100;
/// The most bytes of a user's name.
const MOST_OF_A_USER: usize = 64;
/// The most bytes of a directory's name in a world's name.
const MOST_OF_A_DIRECTORY: usize = 40;
/// The digits at the end of a world's name.
const DIGITS: usize = 8;

/// The ref of a publication: `refs/heads/NAME/state` for root's default world, `NAME/USER/state` for that of another
/// user, `NAME/USER/WORLD/state` for a root of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PresenceRef {
    host: String,
    user: Option<String>,
    world: Option<String>,
}

/// Why no ref can be named by these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidPresenceName {
    /// The name of the machine.
    Host(String),
    /// The name of the user.
    User(String),
    /// The user is called as the last part of each ref is.
    UserCalledState,
}

impl fmt::Display for InvalidPresenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(
                f,
                "\"{}\" cannot be the name of a machine in presence: at most {MOST_OF_A_HOST} letters, digits, '.', \
                 '_' and '-' are possible, beginning with a letter or a digit\n\
                 hint: set name below [node]",
                name.escape_controls()
            ),
            Self::User(name) => write!(
                f,
                "the user \"{}\" cannot publish presence: at most {MOST_OF_A_USER} letters, digits, '.', '_' and '-' \
                 are possible in a part of a ref\nhint: let root's tick work on these repositories: set user",
                name.escape_controls()
            ),
            Self::UserCalledState => f.write_str(
                "a user called state cannot publish presence: its refs would lie below NAME/state, which is root's\n\
                 hint: let root's tick work on these repositories: set user",
            ),
        }
    }
}

impl std::error::Error for InvalidPresenceName {}

/// The part of a ref for the root directory with the name `directory` at `path`: the name, then `-` and eight digits
/// of the path's SHA-256.
pub fn world_name(directory: &str, path: &[u8]) -> String {
    let mut name = String::new();
    for letter in directory.chars().take(MOST_OF_A_DIRECTORY) {
        // Neither a dot at the beginning nor two in a row can be in a ref.
        let is_good = match letter {
            '.' => !name.is_empty() && !name.ends_with('.'),
            _ => letter.is_ascii_alphanumeric() || letter == '_',
        };
        name.push(if is_good { letter } else { '-' });
    }
    let hash = hexadecimal(digest(&SHA256, path).as_ref());
    format!("{name}-{}", hash.get(..DIGITS).unwrap_or_default())
}

/// Whether git and every file system take `part` as a part of a ref, and a terminal shows it as it is.
fn is_part(part: &str, most: usize, first: fn(char) -> bool) -> bool {
    let is_good = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    part.len() <= most
        && part.starts_with(first)
        && part.chars().all(is_good)
        && !part.contains("..")
        && !part.ends_with('.')
        && !part.ends_with(".lock")
}

fn is_host(name: &str) -> bool {
    is_part(name, MOST_OF_A_HOST, |letter| letter.is_ascii_alphanumeric())
}

fn is_user(name: &str) -> bool {
    let first = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    is_part(name, MOST_OF_A_USER, first) && name != LAST
}

fn is_world(name: &str) -> bool {
    let most = MOST_OF_A_DIRECTORY + 1 + DIGITS;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let ends_well = name
        .rsplit_once('-')
        .is_some_and(|(_, digits)| digits.len() == DIGITS && digits.bytes().all(is_digit));
    ends_well && is_part(name, most, |letter| letter != '.')
}

impl PresenceRef {
    /// The ref of the machine `host` for root's default world.
    ///
    /// # Errors
    /// When a ref cannot have the name.
    pub fn of_machine(host: &str) -> Result<Self, InvalidPresenceName> {
        match is_host(host) {
            true => Ok(Self { host: host.to_owned(), user: None, world: None }),
            false => Err(InvalidPresenceName::Host(host.to_owned())),
        }
    }

    /// The ref of the machine `host` for the user `user`: for the world that [`world_name`] named, or for the default
    /// one (`None`; root's is [`PresenceRef::of_machine`]).
    ///
    /// # Errors
    /// When a ref cannot have the name of the machine or of the user.
    pub fn of_user(
        host: &str,
        user: &str,
        world: Option<String>,
    ) -> Result<Self, InvalidPresenceName> {
        let machine = Self::of_machine(host)?;
        match user {
            LAST => Err(InvalidPresenceName::UserCalledState),
            user if !is_user(user) => Err(InvalidPresenceName::User(user.to_owned())),
            user => Ok(Self { user: Some(user.to_owned()), world, ..machine }),
        }
    }

    /// Reads a full ref name; `None`: it is no ref of presence.
    pub fn parse(name: &str) -> Option<Self> {
        let inner = name.strip_prefix("refs/heads/")?.strip_suffix("/state")?;
        let parts: Vec<&str> = inner.split('/').collect();
        let (host, user, world) = match parts.as_slice() {
            [host] => (host, None, None),
            // Root's default world has the ref without a user.
            [_, "root"] => return None,
            [host, user] => (host, Some(user), None),
            [host, user, world] => (host, Some(user), Some(world)),
            _ => return None,
        };
        let is_good = is_host(host)
            && user.is_none_or(|user| is_user(user))
            && world.is_none_or(|world| is_world(world));
        let owned = |part: Option<&&str>| part.map(|&part| part.to_owned());
        let found = Self { host: (*host).to_owned(), user: owned(user), world: owned(world) };
        is_good.then_some(found)
    }

    /// The name of the machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The user; `None`: root's default world.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The name of the world; `None`: the default one.
    pub fn world(&self) -> Option<&str> {
        self.world.as_deref()
    }

    /// The name for people: `web01`, `web01/deploy` or `web01/deploy/test-0123abcd`.
    pub fn short(&self) -> String {
        let parts = [Some(self.host()), self.user(), self.world()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }

    /// The name of the branch, without `refs/heads/`.
    pub fn branch(&self) -> String {
        format!("{}/{LAST}", self.short())
    }
}

impl fmt::Display for PresenceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refs/heads/{}", self.branch())
    }
}
