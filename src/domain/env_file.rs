//! The `env_file` format: lines of `KEY=VALUE` as docker(1) and systemd.exec(5) read them, without any
//! substitution, so that a secret may hold any character. Pure.

/// The variables in `text`, in order. Empty lines and lines that begin with `#` are skipped; matching
/// single or double quotes around a value are removed.
///
/// # Errors
/// The number of the line that is no `KEY=VALUE`, without its content: it may be a secret.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (key, value) = line
            .split_once('=')
            .filter(|(key, _)| is_name(key))
            .filter(|(_, value)| !value.contains('\0'))
            .ok_or_else(|| format!("line {} is no KEY=VALUE", number + 1))?;
        let quoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        found.push((key.to_owned(), quoted.unwrap_or(value).to_owned()));
    }
    Ok(found)
}

fn is_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_are() {
        let text = "# note\n\nA=1\nexport B=\"x y\"\nC='$HOME`id`'\nD=a=b\nE=\nF=\"half\n";
        let pairs = parse(text).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("A", "1"),
                ("B", "x y"),
                ("C", "$HOME`id`"),
                ("D", "a=b"),
                ("E", ""),
                ("F", "\"half")
            ]
        );
    }

    #[test]
    fn an_error_names_the_line_and_never_its_content() {
        for text in ["A=1\nsecret", "1A=x", "A B=x", "=x"] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("line "), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
