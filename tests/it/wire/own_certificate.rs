//! Certificates that no authority signed, and kinds of keys that are not supported.

use crate::sandbox::{Sandbox, text};
use crate::servers::{Face, Https};

use super::{acted, converges, news, pull_from, reason};

/// The server's own certificate of `face` is the machine's `ca_file`.
fn trusting_itself(machine: &Sandbox, server: &Https, face: Face, url: String) {
    let settings = format!("ca_file = {:?}\n", server.certificate(face));
    pull_from(machine, &settings, &[("ops", url)]);
}

#[test]
fn a_server_is_trusted_whose_very_certificate_is_in_ca_file() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    for face in [Face::Own, Face::SelfSigned] {
        trusting_itself(&machine, &server, face, server.url_on(face, "ops"));
        let revision = news(&machine, "ops", &format!("{face:?}"));
        converges(&machine, "ops", &revision);
    }
}

#[test]
fn its_time_and_its_name_count_and_another_certificate_does_not() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let by_address = server.url_on(Face::Own, "ops").replace("localhost", "127.0.0.1");
    for (trusted, url, words) in [
        (Face::OwnExpired, server.url_on(Face::OwnExpired, "ops"), "expired on 2020"),
        (Face::Own, by_address, "is for another name"),
        (Face::WrongHost, server.url_on(Face::WrongHost, "ops"), "is for another name"),
        (Face::Own, server.url_on(Face::OwnExpired, "ops"), "certificate of localhost"),
        (Face::Own, server.url_on(Face::Good, "ops"), "signed by an unknown CA"),
    ] {
        trusting_itself(&machine, &server, trusted, url);
        machine.tick().exits(1);
        let why = reason(&machine, "ops");
        assert!(why.contains(words), "{trusted:?}: {why}");
    }
    assert_eq!(server.requests(), []);
}

#[test]
fn a_kind_of_key_that_is_not_supported_is_named_in_plain_words() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let is_plain = |why: &str| {
        assert!(why.contains("P-521") && why.contains("RSA-PSS"), "{why}");
        for word in ["client_cert", "ca_file is", "HandshakeFailure", "Error", "(", "{"] {
            assert!(!why.contains(word), "{word:?} in: {why}");
        }
    };
    for face in [Face::P521, Face::RsaPss] {
        trusting_itself(&machine, &server, face, server.url_on(face, "ops"));
        machine.tick().exits(1);
        is_plain(&reason(&machine, "ops"));
        let settings = format!(
            "ca_file = {:?}\nclient_cert = {:?}\n",
            server.ca_file(),
            text(&server.certificate(face))
        );
        pull_from(&machine, &settings, &[("ops", server.url_on(Face::ClientCertificate, "ops"))]);
        machine.tick().exits(1);
        let why = reason(&machine, "ops");
        assert!(why.contains("its key is of a kind that is not supported"), "{why}");
    }
}
