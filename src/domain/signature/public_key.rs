//! Public keys of ssh, of the kinds that may sign here.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::ssh_wire::SshReader;
use crate::domain::text::EscapeControls;

/// The fewest and the most bits of an RSA key; the upper limit is `ring`'s.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The largest public exponent of an RSA key that `ring` takes: 33 bits.
const RSA_EXPONENT: u64 = (1 << 33) - 1;

/// A kind of key that may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// `ssh-ed25519`
    Ed25519,
    /// `ecdsa-sha2-nistp256`
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`
    EcdsaP384,
    /// `ssh-rsa`, whose signatures are by SHA-2.
    Rsa,
    /// `sk-ssh-ed25519@openssh.com`, on hardware.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`, on hardware.
    SkEcdsaP256,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ed25519,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::Rsa,
        Self::SkEd25519,
        Self::SkEcdsaP256,
    ];

    /// Its name in files and signatures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::Rsa => "ssh-rsa",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// The kind of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().as_bytes() == name)
    }
}

/// The numbers of a key, as `ring` wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyMaterial {
    Ed25519(Vec<u8>),
    /// The uncompressed point.
    Ecdsa(Vec<u8>),
    Rsa {
        exponent: Vec<u8>,
        modulus: Vec<u8>,
    },
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    pub(super) fingerprint: Fingerprint,
    pub(super) material: KeyMaterial,
    /// What a key on hardware is bound to, such as `ssh:`; empty for the others.
    pub(super) application: Vec<u8>,
}

/// The reason why bytes are no key that may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// A kind that may not sign, by its name, which may hold anything.
    Kind(String),
    /// The bytes are not those of a key of their kind.
    Malformed,
    /// An RSA key of this many bits.
    RsaBits(usize),
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(name) => {
                let kinds: Vec<&str> = KeyKind::ALL.iter().map(|kind| kind.as_str()).collect();
                write!(
                    f,
                    "keys of the kind \"{}\" may not sign; these may: {}",
                    name.escape_controls(),
                    kinds.join(", ")
                )
            }
            Self::Malformed => f.write_str("it is not a public key as ssh-keygen writes it"),
            Self::RsaBits(bits) => write!(
                f,
                "an RSA key has {} to {} bits, and this one has {bits}",
                RSA_BITS.start(),
                RSA_BITS.end()
            ),
        }
    }
}

impl PublicKey {
    /// The key with this encoding (RFC 4253, section 6.6; PROTOCOL.u2f of OpenSSH).
    ///
    /// # Errors
    /// When it is none, or none that may sign.
    pub fn from_blob(blob: &[u8]) -> Result<Self, KeyFault> {
        let name = SshReader::new(blob).string().ok_or(KeyFault::Malformed)?;
        let kind = KeyKind::named(name).ok_or_else(|| {
            KeyFault::Kind(String::from_utf8_lossy(name).chars().take(60).collect())
        })?;
        let (material, application) = parts(kind, blob).ok_or(KeyFault::Malformed)?;
        if let KeyMaterial::Rsa { modulus, exponent } = &material {
            let bits = bits_of(modulus);
            if !RSA_BITS.contains(&bits) {
                return Err(KeyFault::RsaBits(bits));
            }
            let exponent = exponent
                .iter()
                .try_fold(0_u64, |sum, &byte| Some(sum.checked_mul(256)? + u64::from(byte)));
            if !exponent.is_some_and(|it| it % 2 == 1 && (3..=RSA_EXPONENT).contains(&it)) {
                return Err(KeyFault::Malformed);
            }
        }
        Ok(Self { kind, fingerprint: Fingerprint::of(blob), material, application })
    }

    /// The key with this encoding in base64, as it is in files.
    ///
    /// # Errors
    /// As [`PublicKey::from_blob`].
    pub fn from_base64(text: &str) -> Result<Self, KeyFault> {
        Self::from_blob(&STANDARD.decode(text).map_err(|_| KeyFault::Malformed)?)
    }

    /// The kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The fingerprint, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }
}

/// The fingerprint of a key, such as `SHA256:2zMy…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of the key with this encoding, whatever its kind.
    pub fn of(blob: &[u8]) -> Self {
        Self(format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob))))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parts(kind: KeyKind, blob: &[u8]) -> Option<(KeyMaterial, Vec<u8>)> {
    let mut reader = SshReader::new(blob);
    reader.string()?;
    let material = match kind {
        KeyKind::Ed25519 | KeyKind::SkEd25519 => {
            let key = reader.string().filter(|key| key.len() == 32)?;
            KeyMaterial::Ed25519(key.to_owned())
        }
        KeyKind::EcdsaP256 | KeyKind::SkEcdsaP256 => point(&mut reader, b"nistp256", 65)?,
        KeyKind::EcdsaP384 => point(&mut reader, b"nistp384", 97)?,
        KeyKind::Rsa => {
            let (exponent, modulus) = (reader.positive()?, reader.positive()?);
            KeyMaterial::Rsa { exponent: exponent.to_owned(), modulus: modulus.to_owned() }
        }
    };
    let application = match kind {
        KeyKind::SkEd25519 | KeyKind::SkEcdsaP256 => reader.string()?.to_owned(),
        _ => Vec::new(),
    };
    reader.is_at_end().then_some((material, application))
}

/// A point of the curve of this name, which is not compressed and then has this many bytes.
fn point(reader: &mut SshReader, curve: &[u8], length: usize) -> Option<KeyMaterial> {
    let is_of_curve = reader.string()? == curve;
    let point = reader.string()?;
    let is_plain = point.len() == length && point.first() == Some(&4);
    (is_of_curve && is_plain).then(|| KeyMaterial::Ecdsa(point.to_owned()))
}

fn bits_of(number: &[u8]) -> usize {
    let zeros = number.first().map_or(0, |first| first.leading_zeros());
    number.len().saturating_mul(8) - zeros as usize
}

#[cfg(test)]
mod tests;
