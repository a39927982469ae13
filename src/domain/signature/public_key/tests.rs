//! Which encodings are keys that may sign.

use super::*;
use crate::domain::signature::tests::{TestKey, strings};

/// An RSA key whose modulus has this many bits.
fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] = 0xff >> ((8 - bits % 8) % 8);
    modulus.insert(0, 0);
    strings(&[b"ssh-rsa", exponent, &modulus])
}

fn fault(blob: &[u8]) -> KeyFault {
    PublicKey::from_blob(blob).unwrap_err()
}

#[test]
fn a_fingerprint_is_that_of_ssh_keygen() {
    // ssh-keygen -lf key.pub
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIDVucIAUXMv771MZl5JeBtmLA/+ivzVoRSK3DrBDQVv4";
    let key = PublicKey::from_base64(key).unwrap();
    assert_eq!(key.fingerprint().to_string(), "SHA256:Ye2AzVx5KrBhLy8B/DKwjL6AQJLPQD4xzlSbL5eRoOM");
    assert_eq!(key.kind(), KeyKind::Ed25519);
}

#[test]
fn each_kind_that_may_sign_is_read() {
    let (p256, p384) = ([&[4_u8][..], &[1; 64]].concat(), [&[4_u8][..], &[1; 96]].concat());
    let all = [
        strings(&[b"ssh-ed25519", &[7; 32]]),
        strings(&[b"ecdsa-sha2-nistp256", b"nistp256", &p256]),
        strings(&[b"ecdsa-sha2-nistp384", b"nistp384", &p384]),
        rsa(2048, &[1, 0, 1]),
        strings(&[b"sk-ssh-ed25519@openssh.com", &[7; 32], b"ssh:"]),
        strings(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", &p256, b"ssh:ops"]),
    ];
    for (blob, kind) in all.iter().zip(KeyKind::ALL) {
        let key = PublicKey::from_blob(blob).unwrap();
        assert_eq!(key.kind(), kind);
        assert_eq!(key.fingerprint(), Fingerprint::of(blob));
        assert_eq!(KeyKind::named(kind.as_str().as_bytes()), Some(kind));
        // One byte more or less is none.
        assert_eq!(fault(&[blob.as_slice(), &[0]].concat()), KeyFault::Malformed);
        for length in 4 + kind.as_str().len()..blob.len() {
            assert_eq!(fault(&blob[..length]), KeyFault::Malformed, "{kind:?} {length}");
        }
    }
}

#[test]
fn an_rsa_key_has_2048_to_8192_bits() {
    for bits in [2048, 2049, 3072, 4096, 8191, 8192] {
        assert!(PublicKey::from_blob(&rsa(bits, &[1, 0, 1])).is_ok(), "{bits}");
    }
    for bits in [1, 1024, 2047, 8193, 16384] {
        assert_eq!(fault(&rsa(bits, &[1, 0, 1])), KeyFault::RsaBits(bits));
    }
    let text = fault(&rsa(1024, &[1, 0, 1])).to_string();
    assert_eq!(text, "an RSA key has 2048 to 8192 bits, and this one has 1024");
}

#[test]
fn leading_zeros_do_not_make_an_rsa_key_longer() {
    let modulus = [vec![0; 200], vec![0x7f; 128]].concat();
    let blob = strings(&[b"ssh-rsa", &[1, 0, 1], &modulus]);
    assert_eq!(fault(&blob), KeyFault::RsaBits(1023));
}

#[test]
fn the_exponent_of_an_rsa_key_is_odd_and_has_at_most_33_bits() {
    for exponent in [&[3][..], &[17], &[1, 0, 1], &[0, 1, 0, 1], &[1, 0xff, 0xff, 0xff, 0xff]] {
        assert!(PublicKey::from_blob(&rsa(2048, exponent)).is_ok(), "{exponent:?}");
    }
    let long = [1; 20];
    for exponent in [
        &[][..],
        &[0],
        &[1],
        &[2],
        &[1, 0, 0],
        &[2, 0, 0, 0, 1],
        &[0xff, 1],
        &long,
        &[1, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(fault(&rsa(2048, exponent)), KeyFault::Malformed, "{exponent:?}");
    }
}

#[test]
fn a_negative_modulus_is_none() {
    let blob = strings(&[b"ssh-rsa", &[1, 0, 1], &[0xff; 256]]);
    assert_eq!(fault(&blob), KeyFault::Malformed);
}

#[test]
fn a_point_is_of_its_curve_and_not_compressed() {
    let point = [&[4_u8][..], &[1; 64]].concat();
    let compressed = [&[2_u8][..], &[1; 32]].concat();
    let marked_alike = [&[2_u8][..], &[1; 64]].concat();
    for (curve, point) in [
        (&b"nistp384"[..], &point),
        (b"nistp256", &compressed),
        (b"nistp256", &marked_alike),
        (b"nistp256", &vec![0]),
        (b"nistp256", &Vec::new()),
    ] {
        let blob = strings(&[b"ecdsa-sha2-nistp256", curve, point]);
        assert_eq!(fault(&blob), KeyFault::Malformed, "{curve:?} {point:?}");
    }
}

#[test]
fn other_kinds_are_named() {
    for kind in [
        "ecdsa-sha2-nistp521",
        "ssh-dss",
        "ssh-ed25519-cert-v01@openssh.com",
        "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
        "SSH-ED25519",
        "ssh-ed25519\0",
        "",
    ] {
        let blob = strings(&[kind.as_bytes(), &[7; 32]]);
        assert_eq!(fault(&blob), KeyFault::Kind(kind.to_owned()));
    }
    let long = strings(&["ü".repeat(500).as_bytes()]);
    assert_eq!(fault(&long), KeyFault::Kind("ü".repeat(60)));
    let text = KeyFault::Kind("ssh-dss\u{18}\u{1b}".to_owned()).to_string();
    assert!(text.starts_with("keys of the kind \"ssh-dss\\u{18}\\u{1b}\" may"), "{text}");
    for kind in KeyKind::ALL {
        assert!(text.contains(kind.as_str()), "{text}");
    }
}

#[test]
fn base64_is_the_only_way_to_write_a_key() {
    let text = TestKey::of(1).text();
    let text = text.strip_prefix("ssh-ed25519 ").unwrap();
    assert!(PublicKey::from_base64(text).is_ok());
    let (start, end) = text.split_at(text.len() - 1);
    for wrong in [
        "".to_owned(),
        "*".to_owned(),
        start.to_owned(),
        format!("{text}="),
        format!("{text}A"),
        format!("{start}\n{end}"),
        format!("{start}-"),
    ] {
        assert_eq!(PublicKey::from_base64(&wrong).unwrap_err(), KeyFault::Malformed, "{wrong:?}");
    }
}
