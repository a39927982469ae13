//! One signature and two verdicts: ours, and that of `ssh-keygen -Y verify`.

use std::fmt;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use chrono::DateTime;
use jiff::tz::TimeZone;
use pmpy::domain::signature::allowed_signers::{AllowedSigners, SignerFault, SignersFault};
use pmpy::domain::signature::ssh_signature::{SignatureFault, SshSignature};
use tempfile::TempDir;

/// Whose signature it is.
pub const PRINCIPAL: &str = "ops@example.com";
/// Central Europe, with its summer time.
pub const CET: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// What is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// The file of those who may sign.
    pub signers: Vec<u8>,
    pub signature: Vec<u8>,
    pub message: Vec<u8>,
    /// When it was signed, in seconds.
    pub at: i64,
    /// The zone of the machine, as `TZ`.
    pub zone: &'static str,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at {} in {}, signers:", self.at, self.zone)?;
        writeln!(f, "{}", self.signers.escape_ascii())?;
        writeln!(f, "signature:\n{}", self.signature.escape_ascii())?;
        write!(f, "message:\n{}", self.message.escape_ascii())
    }
}

/// Our verdict.
#[derive(Debug, PartialEq, Eq)]
pub enum Ours {
    /// It counts, by the line with these principals.
    Counts(String),
    /// The file is refused.
    Signers(SignersFault),
    /// The signature is refused.
    Signature(SignatureFault),
    /// The signer is refused.
    Signer(SignerFault),
}

impl Case {
    /// Our verdict about the namespace `git`.
    pub fn ours(&self) -> Ours {
        let zone = TimeZone::posix(self.zone).unwrap();
        let signers = match AllowedSigners::parse(&self.signers, &zone) {
            Ok(signers) => signers,
            Err(fault) => return Ours::Signers(fault),
        };
        let signature = match SshSignature::parse(&self.signature) {
            Ok(signature) => signature,
            Err(fault) => return Ours::Signature(fault),
        };
        if let Err(fault) = signature.verify(&self.message, "git") {
            return Ours::Signature(fault);
        }
        let at = DateTime::from_timestamp(self.at, 0).unwrap();
        match signers.find(signature.fingerprint(), at) {
            Ok(signer) => Ours::Counts(signer.principals.clone()),
            Err(fault) => Ours::Signer(fault),
        }
    }

    /// Whether ssh-keygen accepts it as a signature by `principal`.
    pub fn counts_for_ssh_keygen(&self, dir: &TempDir, principal: &str) -> bool {
        let path = |name: &str| dir.path().join(name);
        fs::write(path("signers"), &self.signers).unwrap();
        fs::write(path("signature"), &self.signature).unwrap();
        fs::write(path("message"), &self.message).unwrap();
        let at = DateTime::from_timestamp(self.at, 0).unwrap().format("%Y%m%d%H%M%SZ");
        let status = Command::new("ssh-keygen")
            .args(["-q", "-Y", "verify", "-n", "git", "-f"])
            .arg(path("signers"))
            .args(["-I", principal, "-O", &format!("verify-time={at}"), "-s"])
            .arg(path("signature"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", self.zone)
            .stdin(Stdio::from(File::open(path("message")).unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(matches!(status.code(), Some(0 | 255)), "{status}: {self:?}");
        status.success()
    }
}

/// The name to ask ssh-keygen for, as git does: the first pattern of the line, which matches itself.
pub fn principal_of(principals: &str) -> &str {
    let mut patterns = principals.split(',');
    patterns.find(|it| !it.is_empty() && !it.starts_with('!')).unwrap()
}
