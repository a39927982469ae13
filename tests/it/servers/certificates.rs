//! The certificates of the tests: a CA of their own and what it signed, made by openssl once per
//! test process. Nothing outside the tests trusts it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::sandbox::{Ran, set_mode, text};

/// Certificates and keys, each as PEM text by file name.
pub struct Certificates {
    files: Vec<(&'static str, String)>,
}

impl Certificates {
    /// The ones of this process.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Certificates> = OnceLock::new();
        MADE.get_or_init(Self::make)
    }

    /// Writes them into `directory`: `ca.pem`; `good`, `expired`, `self-signed`, `wrong-host`, `client`, `own`,
    /// `own-expired`, `p521`, `rsa-pss` and `chained`, each as `NAME.pem` with the certificate and its key.
    pub fn write_into(&self, dir: &Path) {
        for (name, content) in &self.files {
            let file = dir.join(name);
            fs::write(&file, content).unwrap();
            set_mode(&file, 0o600);
        }
    }

    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let own_names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1";
        let signed_itself = ["-days", "30"];
        let signed = ["-days", "30", "-CA", "ca.pem", "-CAkey", "ca.key"];
        make(dir, "ca", "", "", &signed_itself);
        make(dir, "good", "", own_names, &signed);
        make(dir, "expired", "2020-01-01", own_names, &signed);
        make(dir, "wrong-host", "", "subjectAltName=DNS:elsewhere.example.org", &signed);
        make(dir, "client", "", "extendedKeyUsage=clientAuth", &signed);
        make(dir, "self-signed", "", own_names, &signed_itself);
        make(dir, "between", "", "", &signed);
        let signed_by_it = ["-days", "30", "-CA", "between.pem", "-CAkey", "between.key"];
        make(dir, "chained", "", own_names, &signed_by_it);
        make_own(dir, "own", "", &["rsa:2048"]);
        make_own(dir, "own-expired", "2020-01-01", &["rsa:2048"]);
        make_own(dir, "p521", "", &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"]);
        make_own(dir, "rsa-pss", "", &["rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"]);

        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let both = |name: &str| read(&format!("{name}.pem")) + &read(&format!("{name}.key"));
        let files = vec![
            ("ca.pem", read("ca.pem")),
            ("good.pem", both("good")),
            ("expired.pem", both("expired")),
            ("wrong-host.pem", both("wrong-host")),
            ("client.pem", both("client")),
            ("self-signed.pem", both("self-signed")),
            ("chained.pem", read("chained.pem") + &read("between.pem") + &read("chained.key")),
            ("own.pem", both("own")),
            ("own-expired.pem", both("own-expired")),
            ("p521.pem", both("p521")),
            ("rsa-pss.pem", both("rsa-pss")),
        ];
        Self { files }
    }
}

/// openssl, on the day `made_on` when that is not empty.
fn openssl(made_on: &str) -> Command {
    let mut command = match made_on {
        "" => return Command::new("openssl"),
        _ => Command::new("faketime"),
    };
    command.args([made_on, "openssl"]);
    command
}

/// Makes `NAME.pem` and `NAME.key` in `directory` for `localhost`, as the shortest command that one finds
/// does: by the machine's configuration of openssl, an authority's and without alternative names.
fn make_own(dir: &Path, name: &str, made_on: &str, key: &[&str]) {
    let mut command = openssl(made_on);
    command.current_dir(dir).args([
        "req",
        "-x509",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
    ]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem"), "-newkey"]);
    Ran::of(command.args(key)).ok();
}

/// Makes `NAME.pem` and `NAME.key` in `directory`, a CA's when it has no `extension`; on the day
/// `made_on` when that is not empty.
fn make(dir: &Path, name: &str, made_on: &str, extension: &str, how_signed: &[&str]) {
    let mut command = openssl(made_on);
    command.current_dir(dir).args(["req", "-x509", "-newkey", "ec", "-nodes"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    if !extension.is_empty() {
        command.args(["-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    // No configuration of the machine's: its extensions would be put in as well.
    let configuration = dir.join("openssl.cnf");
    let content = match extension {
        "" => {
            "[req]\ndistinguished_name=name\nx509_extensions=ca\n[name]\n[ca]\n\
               basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n"
        }
        _ => "[req]\ndistinguished_name=name\n[name]\n",
    };
    fs::write(&configuration, content).unwrap();
    command.args(["-config", text(&configuration)]).args(how_signed);
    Ran::of(&mut command).ok();
}
