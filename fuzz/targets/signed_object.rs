//! Any bytes as a commit, a tag or a signature: what is read from a commit is read again from what was signed of it,
//! and no signature counts for two messages.
//!
//! The first byte says what the rest is. A signature and its message are parted by a NUL.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use pmpy::domain::git::ObjectFormat;
use pmpy::domain::signature::signed_object;
use pmpy::domain::signature::ssh_signature::SshSignature;

fn commit(bytes: &[u8], format: ObjectFormat) {
    let Some(object) = signed_object::commit(bytes, format) else { return };
    assert!(object.parents.iter().all(|parent| parent.0.format() == format));
    let signed = &object.signed;
    assert!(signed.signature.is_some() || signed.payload.len() <= bytes.len());
    let again =
        signed_object::commit(&signed.payload, format).expect("what was signed is a commit");
    assert_eq!((&again.parents, again.committed_at), (&object.parents, object.committed_at));
    assert_eq!((&again.signed.payload, again.signed.signature), (&signed.payload, None));
    if let Some(armored) = &signed.signature {
        signature(armored, &signed.payload);
    }
}

fn tag(bytes: &[u8], format: ObjectFormat) {
    let Some(object) = signed_object::tag(bytes, format) else { return };
    assert_eq!(object.object.format(), format);
    assert!(!object.name.contains(&b'\n') && !object.kind.contains(&b'\n'));
    let signed = &object.signed;
    let again = signed_object::tag(&signed.payload, format).expect("what was signed is a tag");
    assert_eq!((again.object, again.name), (object.object, object.name));
    if let Some(armored) = &signed.signature {
        signature(armored, &signed.payload);
    }
}

fn signature(armored: &[u8], message: &[u8]) {
    let Ok(signature) = SshSignature::parse(armored) else { return };
    if let Ok(key) = signature.verify(message, "git") {
        assert_eq!(&key.fingerprint(), signature.fingerprint());
        let other = [message, b"\n"].concat();
        assert!(signature.verify(&other, "git").is_err(), "it counts for two messages");
    }
    assert!(signature.verify(message, "").is_err(), "git is no namespace of nothing");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let parted = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match which % 6 {
        0 => commit(bytes, ObjectFormat::Sha1),
        1 => commit(bytes, ObjectFormat::Sha256),
        2 => tag(bytes, ObjectFormat::Sha1),
        3 => tag(bytes, ObjectFormat::Sha256),
        4 => signature(&bytes[..parted], bytes.get(parted + 1..).unwrap_or_default()),
        _ => {
            // The bytes within the armor.
            let inner = STANDARD.encode(bytes);
            let begin = "-----BEGIN SSH SIGNATURE-----";
            let armored = format!("{begin}\n{inner}\n-----END SSH SIGNATURE-----\n");
            signature(armored.as_bytes(), b"what was signed\n");
        }
    }
});
