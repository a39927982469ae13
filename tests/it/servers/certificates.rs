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

    /// Writes them into `folder`: `ca.pem`; `good`, `expired`, `self-signed`, `wrong-host` and
    /// `client`, each as `NAME.pem` with the certificate and its key.
    pub fn write_into(&self, folder: &Path) {
        for (name, content) in &self.files {
            let file = folder.join(name);
            fs::write(&file, content).unwrap();
            set_mode(&file, 0o600);
        }
    }

    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let own_names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1";
        let signed_itself = ["-days", "30"];
        let signed = ["-days", "30", "-CA", "ca.pem", "-CAkey", "ca.key"];
        make(folder, "ca", "", "", &signed_itself);
        make(folder, "good", "", own_names, &signed);
        make(folder, "expired", "2020-01-01", own_names, &signed);
        make(folder, "wrong-host", "", "subjectAltName=DNS:elsewhere.example.org", &signed);
        make(folder, "client", "", "extendedKeyUsage=clientAuth", &signed);
        make(folder, "self-signed", "", own_names, &signed_itself);

        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let both = |name: &str| read(&format!("{name}.pem")) + &read(&format!("{name}.key"));
        let files = vec![
            ("ca.pem", read("ca.pem")),
            ("good.pem", both("good")),
            ("expired.pem", both("expired")),
            ("wrong-host.pem", both("wrong-host")),
            ("client.pem", both("client")),
            ("self-signed.pem", both("self-signed")),
        ];
        Self { files }
    }
}

/// Makes `NAME.pem` and `NAME.key` in `folder`, a CA's when it has no `extension`; on the day
/// `made_on` when that is not empty.
fn make(folder: &Path, name: &str, made_on: &str, extension: &str, how_signed: &[&str]) {
    let mut command = match made_on {
        "" => Command::new("openssl"),
        day => {
            let mut command = Command::new("faketime");
            command.args([day, "openssl"]);
            command
        }
    };
    command.current_dir(folder).args(["req", "-x509", "-newkey", "ec", "-nodes"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    if !extension.is_empty() {
        command.args(["-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    // No configuration of the machine's: its extensions would be put in as well.
    let configuration = folder.join("openssl.cnf");
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
