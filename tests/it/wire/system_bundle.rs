//! The bundle with the authorities that the system trusts: a server is believed when a chain leads to one of
//! them, however many others there are, and by nothing else.

use std::fs;
use std::path::Path;

use super::{acted, reason};
use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::{Face, Https};

/// A tick that polls `ops` at `url` with this bundle; the state, and its reason.
fn polled(machine: &Sandbox, url: &str, bundle: &Path) -> (String, String) {
    machine.configure(&format!("[repo.ops]\nurl = {url:?}\ninsecure = true\n"));
    Ran::of(machine.agent_command(&["tick", "ops"]).env("SSL_CERT_FILE", bundle));
    (machine.state("ops"), reason(machine, "ops"))
}

/// A bundle as distributions make it, with many authorities and comments.
fn bundle(machine: &Sandbox, server: &Https, authorities: &[String]) -> std::path::PathBuf {
    let others = [Face::SelfSigned, Face::Own, Face::OwnExpired].map(|face| {
        let both = fs::read_to_string(server.certificate(face)).unwrap();
        let end = both.find("-----END CERTIFICATE-----").unwrap();
        both[..end].to_owned() + "-----END CERTIFICATE-----\n"
    });
    let file = machine.path("bundle.pem");
    fs::write(&file, format!("# One\n{}\n{}# Two", others.concat(), authorities.concat())).unwrap();
    file
}

/// An authority with the name of the tests' own, and another key.
fn impostor(machine: &Sandbox) -> String {
    let (key, file) = (machine.path("impostor.key"), machine.path("impostor.pem"));
    let mut openssl = machine.command("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-days", "30", "-subj", "/CN=ca", "-keyout", text(&key), "-out", text(&file)]);
    Ran::of(&mut openssl).ok();
    fs::read_to_string(file).unwrap()
}

#[test]
fn a_chain_has_to_lead_to_an_authority_of_the_systems_bundle() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let authority = fs::read_to_string(server.ca_file()).unwrap();
    let impostor = impostor(&machine);
    let dos = authority.replace('\n', "\r\n");
    let url = |face| server.url_on(face, "ops");
    for authorities in [&[authority.clone()][..], &[dos], &[impostor.clone(), authority.clone()]] {
        let bundle = bundle(&machine, &server, authorities);
        for face in [Face::Good, Face::Chained] {
            let (state, reason) = polled(&machine, &url(face), &bundle);
            assert_eq!(state, "current", "{face:?}: {reason}");
        }
        for (face, why) in [(Face::Expired, "expired on"), (Face::WrongHost, "is for another name")]
        {
            let (state, reason) = polled(&machine, &url(face), &bundle);
            assert!(state != "current" && reason.contains(why), "{face:?}: {state}: {reason}");
        }
    }
    for authorities in [&[][..], &[impostor]] {
        let bundle = bundle(&machine, &server, authorities);
        for face in [Face::Good, Face::Chained] {
            let (state, reason) = polled(&machine, &url(face), &bundle);
            assert!(state != "current" && reason.contains("certificate"), "{state}: {reason}");
        }
    }
    let bundle = bundle(&machine, &server, &[]);
    assert!(polled(&machine, &url(Face::Good), &bundle).1.contains("unknown CA"));
}

#[test]
fn without_tls_no_bundle_is_needed_and_with_it_its_fault_is_named() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let none = machine.path("none.pem");
    for content in [None, Some("hello\n")] {
        if let Some(content) = content {
            fs::write(&none, content).unwrap();
        }
        let (state, why) = polled(&machine, &server.url_on(Face::Plain, "ops"), &none);
        assert_eq!(state, "current", "{why}");
        let (state, why) = polled(&machine, &server.url("ops"), &none);
        let fault = if content.is_some() { "holds no certificate" } else { "is not there" };
        assert!(state != "current" && why.contains(fault), "{state}: {why}");
    }
}
