//! Parses `~/.netrc` as curl does. Text in, one entry out; reads no file.

/// The login for one host.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct NetrcEntry {
    pub(super) login: String,
    pub(super) password: String,
}

/// The first entry for `host` (and for `user`, if given), or the default one; `None` when there is none
/// with a password.
pub(super) fn find(text: &str, host: &str, user: Option<&str>) -> Option<NetrcEntry> {
    let mut words = words(text).into_iter();
    let mut entries: Vec<(bool, Option<String>, Option<String>)> = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => {
                let is_it = words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                entries.push((is_it, None, None));
            }
            "default" => entries.push((true, None, None)),
            "login" => {
                let login = words.next();
                entries.last_mut().into_iter().for_each(|entry| entry.1.clone_from(&login));
            }
            "password" => {
                let password = words.next();
                entries.last_mut().into_iter().for_each(|entry| entry.2.clone_from(&password));
            }
            "account" => drop(words.next()),
            _ => {}
        }
    }
    entries.into_iter().filter(|(is_it, ..)| *is_it).find_map(|(_, login, password)| {
        let login = match (login, user) {
            (Some(login), Some(user)) if login != user => return None,
            (Some(login), _) => login,
            (None, user) => user?.to_owned(),
        };
        Some(NetrcEntry { login, password: password? })
    })
}

/// Splits the file into words: quoted ones may hold spaces, `#` begins a comment line, and the lines of
/// a macro up to an empty one are left out.
fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut is_macro = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            is_macro = false;
        }
        if is_macro || line.starts_with('#') {
            continue;
        }
        let mut rest = line.chars().peekable();
        while rest.next_if(|c| c.is_whitespace()).is_some() || rest.peek().is_some() {
            let mut word = String::new();
            let is_quoted = rest.next_if_eq(&'"').is_some();
            while let Some(c) = rest.next() {
                match c {
                    '\\' if is_quoted => word.extend(rest.next()),
                    '"' if is_quoted => break,
                    c if c.is_whitespace() && !is_quoted => break,
                    c => word.push(c),
                }
            }
            if is_quoted || !word.is_empty() {
                all.push(word);
            }
        }
        if all.iter().rev().nth(1).is_some_and(|word| word == "macdef") {
            all.truncate(all.len().saturating_sub(2));
            is_macro = true;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\nmachine a.example.org login pat password secret\n\
        machine b.example.org\n  login \"pa t\"\n  account x\n  password \"se\\\"cret 1\"\n\
        macdef init\nmachine evil.example.org login x password y\n\n\
        machine c.example.org login one password 1 machine c.example.org login two password 2\n\
        machine d.example.org password 4\ndefault login any password body\n";

    fn found(host: &str, user: Option<&str>) -> Option<(String, String)> {
        find(FILE, host, user).map(|entry| (entry.login, entry.password))
    }

    fn pair(login: &str, password: &str) -> Option<(String, String)> {
        Some((login.to_owned(), password.to_owned()))
    }

    #[test]
    fn an_entry_is_found_by_its_host() {
        assert_eq!(found("A.example.org", None), pair("pat", "secret"));
        assert_eq!(found("b.example.org", None), pair("pa t", "se\"cret 1"));
        assert_eq!(found("elsewhere.example.org", None), pair("any", "body"));
        assert_eq!(find("machine a login b", "a", None), None);
        assert_eq!(find("", "a", None), None);
    }

    #[test]
    fn a_named_user_picks_among_the_entries() {
        assert_eq!(found("c.example.org", None), pair("one", "1"));
        assert_eq!(found("c.example.org", Some("two")), pair("two", "2"));
        assert_eq!(found("c.example.org", Some("three")), None);
        assert_eq!(found("d.example.org", Some("pat")), pair("pat", "4"));
    }

    #[test]
    fn a_macro_is_no_entry() {
        assert_eq!(found("evil.example.org", None), pair("any", "body"));
    }

    #[test]
    fn no_text_makes_it_panic_or_hang() {
        for text in
            ["\"", "machine", "machine \"", "macdef", "login x", "machine a password \\", " \t "]
        {
            assert_eq!(find(text, "a", None), None, "{text}");
        }
    }
}
