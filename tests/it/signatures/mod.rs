//! Signatures as OpenSSH and git make them: what counts here, beside the verdict of `ssh-keygen -Y verify`.

mod keys;
mod objects;
mod random;
mod stricter;
mod verdicts;
