//! The secrets that are shared with forges, and the check that a request was made with one of them. The
//! body is fed in pieces. Does not know where a forge puts its signature.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// The prefix of secrets that GitLab generated; base64 follows.
const GITLAB_SECRET: &str = "whsec_";

/// The secrets shared with the forges, any of which may sign. Never displayed.
#[derive(Clone)]
pub struct WebhookSecrets(Vec<String>);

impl WebhookSecrets {
    /// The secrets in `text`, one in each line.
    ///
    /// # Errors
    /// There is none, or the first begins with a byte order mark, which no forge has.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.starts_with('\u{feff}') {
            return Err(
                "the file begins with a byte order mark, which would be a part of the secret\n\
                 hint: remove its first three bytes: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE"
                    .to_owned(),
            );
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Vec<String> = lines.map(str::to_owned).collect();
        if secrets.is_empty() {
            return Err("the secret is empty, so that any client could sign\n\
                 hint: write a long random line into the file, and the same at the forge: \
                 openssl rand -hex 32"
                .to_owned());
        }
        Ok(Self(secrets))
    }

    /// The number of secrets.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The start of a check of HMACs with SHA-256.
    pub fn check(&self) -> SignatureCheck {
        SignatureCheck::new(self.0.iter().map(|text| text.clone().into_bytes()))
    }

    /// The start of a check of GitLab's signatures: the secrets that it generated are decoded.
    pub fn gitlab_check(&self) -> SignatureCheck {
        let key = |text: &String| {
            let bytes =
                text.strip_prefix(GITLAB_SECRET).and_then(|text| STANDARD.decode(text).ok());
            bytes.unwrap_or_else(|| text.clone().into_bytes())
        };
        SignatureCheck::new(self.0.iter().map(key))
    }

    /// Whether `text` is one of the secrets, compared in constant time, so that the duration reveals
    /// nothing.
    pub fn contains(&self, text: &str) -> bool {
        let mut check = self.check();
        let signed = |secret: &String| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            hmac::sign(&key, secret.as_bytes()).as_ref().to_vec()
        };
        let tags: Vec<Vec<u8>> = self.0.iter().map(signed).collect();
        check.update(text.as_bytes());
        check.matches(&tags)
    }
}

impl fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// A check of signatures over text that comes in pieces.
pub struct SignatureCheck(Vec<(hmac::Key, hmac::Context)>);

impl SignatureCheck {
    fn new(keys: impl Iterator<Item = Vec<u8>>) -> Self {
        let begin = |bytes: Vec<u8>| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
            let context = hmac::Context::with_key(&key);
            (key, context)
        };
        Self(keys.map(begin).collect())
    }

    /// Adds the next piece of the signed text.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.iter_mut().for_each(|(_, context)| context.update(piece));
    }

    /// Whether one of `tags` is right with one of the keys.
    pub fn matches(&self, tags: &[Vec<u8>]) -> bool {
        self.0.iter().any(|(key, context)| {
            let ours = context.clone().sign();
            // HMACs of both are compared in constant time.
            let is_ours = |tag: &Vec<u8>| {
                hmac::verify(key, ours.as_ref(), hmac::sign(key, tag).as_ref()).is_ok()
            };
            tags.iter().any(is_ours)
        })
    }
}

impl fmt::Debug for SignatureCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignatureCheck")
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::bus::webhook::secret::*;

    #[test]
    fn an_empty_secret_is_none() {
        for text in ["", "\n", " \t\n \n"] {
            let error = WebhookSecrets::new(text).unwrap_err();
            assert!(error.contains("the secret is empty"), "{error}");
        }
        assert!(!format!("{:?}", WebhookSecrets::new("hush").unwrap()).contains("hush"));
    }

    #[test]
    fn each_line_is_a_secret_and_no_other_text_is() {
        let secrets = WebhookSecrets::new(" old \r\n\nnew one\n").unwrap();
        assert_eq!(secrets.count(), 2);
        for (text, is_one) in
            [("old", true), ("new one", true), ("", false), ("old\n", false), ("ol", false)]
        {
            assert_eq!(secrets.contains(text), is_one, "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_reported_with_a_remedy() {
        let error = WebhookSecrets::new("\u{feff}hush\n").unwrap_err();
        assert!(error.contains("byte order mark") && error.contains("hint: "), "{error}");
    }
}
