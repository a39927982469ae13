//! Signatures by ssh keys: who may sign, what a commit or a tag was signed with, and which commits have to be
//! signed before a revision is applied. Pure: bytes in, verdicts out. The cryptography is `ring`'s.

pub mod allowed_signers;
pub mod public_key;
pub mod signed_object;
pub mod ssh_signature;
mod ssh_wire;
pub mod way;

#[cfg(test)]
mod tests;
