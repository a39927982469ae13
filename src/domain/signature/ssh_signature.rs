//! Signatures as `ssh-keygen -Y sign` makes them, and git with `gpg.format = ssh`: PROTOCOL.sshsig of OpenSSH.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{self, Algorithm, digest};
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::public_key::{Fingerprint, KeyFault, KeyKind, KeyMaterial, PublicKey};
use super::ssh_wire::{SshReader, put_string};

/// The first line of a signature.
pub const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";
/// The largest signature that is read, in bytes; one by an RSA key of 8192 bits has 3,300.
const CAP: usize = 16 * 1024;
/// The flag of a signature on hardware by which a person touched the key.
const TOUCHED: u8 = 1;

/// A signature that was read and is not verified yet.
#[derive(Debug)]
pub struct SshSignature {
    key: Result<PublicKey, KeyFault>,
    fingerprint: Fingerprint,
    namespace: Vec<u8>,
    hash_name: Vec<u8>,
    /// The name of the algorithm, the signature, and for hardware the flags and the counter.
    value: Vec<u8>,
}

/// The reason why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// It is not one that `ssh-keygen` makes.
    Malformed,
    /// It is for this namespace.
    Namespace(String),
    /// Its key may not sign.
    Key(KeyFault),
    /// It was made on hardware, and no person touched the key.
    Untouched,
    /// It is not by its key, or not of this content.
    Wrong,
}

impl SshSignature {
    /// Reads an armored signature. What follows its last line may only be blank.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(armored: &[u8]) -> Result<Self, SignatureFault> {
        Self::read(armored).ok_or(SignatureFault::Malformed)
    }

    fn read(armored: &[u8]) -> Option<Self> {
        let armored = std::str::from_utf8(armored).ok().filter(|text| text.len() <= CAP)?;
        // The first line and the last are lines of their own.
        let inner = armored.strip_prefix(BEGIN)?.strip_prefix('\n')?;
        let inner = inner.trim_end().strip_suffix(END)?.strip_suffix('\n')?;
        let inner = inner.replace([' ', '\t', '\n', '\r', '\x0b', '\x0c'], "");
        let bytes = STANDARD.decode(inner).ok()?;
        let mut reader = SshReader::new(&bytes);
        let is_known = reader.take(MAGIC.len())? == MAGIC && reader.uint32()? == 1;
        let key = reader.string()?;
        let namespace = reader.string()?.to_owned();
        // Reserved: ignored, as the protocol says, and empty in what is signed.
        reader.string()?;
        let hash_name = reader.string()?.to_owned();
        let value = reader.string()?.to_owned();
        (is_known && reader.is_at_end()).then(|| Self {
            key: PublicKey::from_blob(key),
            fingerprint: Fingerprint::of(key),
            namespace,
            hash_name,
            value,
        })
    }

    /// The fingerprint of the key that it names.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Verifies that it was made over `message` for `namespace`, and returns its key.
    ///
    /// # Errors
    /// The reason why it does not count.
    pub fn verify(&self, message: &[u8], namespace: &str) -> Result<&PublicKey, SignatureFault> {
        if self.namespace != namespace.as_bytes() {
            let other = String::from_utf8_lossy(&self.namespace).chars().take(60).collect();
            return Err(SignatureFault::Namespace(other));
        }
        let key = self.key.as_ref().map_err(|fault| SignatureFault::Key(fault.clone()))?;
        let hash = match self.hash_name.as_slice() {
            b"sha256" => &digest::SHA256,
            b"sha512" => &digest::SHA512,
            _ => return Err(SignatureFault::Malformed),
        };
        let signed = self.signed(message, hash);
        let mut value = SshReader::new(&self.value);
        let (algorithm, bytes) =
            value.string().zip(value.string()).ok_or(SignatureFault::Malformed)?;
        let signed = match key.kind() {
            KeyKind::SkEd25519 | KeyKind::SkEcdsaP256 => {
                // Flags and a counter (PROTOCOL.u2f).
                let on_hardware = value.take(5).ok_or(SignatureFault::Malformed)?;
                if on_hardware.first().is_none_or(|flags| flags & TOUCHED == 0) {
                    return Err(SignatureFault::Untouched);
                }
                let application = digest(&digest::SHA256, &key.application);
                let content = digest(&digest::SHA256, &signed);
                [application.as_ref(), on_hardware, content.as_ref()].concat()
            }
            _ => signed,
        };
        if !value.is_at_end() {
            return Err(SignatureFault::Malformed);
        }
        match check(key, algorithm, &signed, bytes) {
            Some(()) => Ok(key),
            None => Err(SignatureFault::Wrong),
        }
    }

    /// What the key signed: the hash of the message, and what it was made for.
    fn signed(&self, message: &[u8], hash: &'static Algorithm) -> Vec<u8> {
        let hashed = digest(hash, message);
        let mut signed = MAGIC.to_vec();
        for part in [self.namespace.as_slice(), b"", &self.hash_name, hashed.as_ref()] {
            put_string(&mut signed, part);
        }
        signed
    }
}

/// `None`: `value` is no signature of `signed` by `key`, by the algorithm of this name.
fn check(key: &PublicKey, algorithm: &[u8], signed: &[u8], value: &[u8]) -> Option<()> {
    let plain = |way: &'static dyn VerificationAlgorithm, material: &[u8], value: &[u8]| {
        UnparsedPublicKey::new(way, material).verify(signed, value).ok()
    };
    let is_named = algorithm == key.kind().as_str().as_bytes();
    match (key.kind(), &key.material) {
        (KeyKind::Rsa, KeyMaterial::Rsa { exponent, modulus }) => {
            let way: &RsaParameters = match algorithm {
                b"rsa-sha2-256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                b"rsa-sha2-512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                _ => return None,
            };
            let value = padded(value, modulus.len())?;
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(way, signed, &value).ok()
        }
        _ if !is_named => None,
        (KeyKind::Ed25519 | KeyKind::SkEd25519, KeyMaterial::Ed25519(material)) => {
            plain(&signature::ED25519, material, value)
        }
        (KeyKind::EcdsaP256 | KeyKind::SkEcdsaP256, KeyMaterial::Ecdsa(point)) => {
            plain(&signature::ECDSA_P256_SHA256_FIXED, point, &two_numbers(value, 32)?)
        }
        (KeyKind::EcdsaP384, KeyMaterial::Ecdsa(point)) => {
            plain(&signature::ECDSA_P384_SHA384_FIXED, point, &two_numbers(value, 48)?)
        }
        _ => None,
    }
}

/// Two `mpint` as numbers of `length` bytes each.
fn two_numbers(value: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut reader = SshReader::new(value);
    let both = [padded(reader.positive()?, length)?, padded(reader.positive()?, length)?];
    reader.is_at_end().then(|| both.concat())
}

/// `number` with leading zeros, as `length` bytes.
fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(number.len())?;
    Some([&vec![0; zeros], number].concat())
}

#[cfg(test)]
mod tests;
