//! The names of repositories that a person types: whole ones, and patterns such as `app*`.

use globset::GlobBuilder;

/// The names in `known` that `given` selects, in the order of `known`: each of `given` is a name, or else a
/// pattern with `*`, `?` or `[…]`; all when `given` is empty.
///
/// # Errors
/// The first of `given` that selects nothing.
pub fn selected(given: &[String], known: &[&str]) -> Result<Vec<String>, String> {
    let mut is_selected = vec![given.is_empty(); known.len()];
    for one in given {
        let pattern = GlobBuilder::new(one).build().ok().filter(|_| is_pattern(one));
        let pattern = pattern.filter(|_| !known.contains(&one.as_str()));
        let pattern = pattern.map(|pattern| pattern.compile_matcher());
        let matches = |name: &str| match &pattern {
            Some(pattern) => pattern.is_match(name),
            None => name == one,
        };
        if !known.iter().any(|name| matches(name)) {
            return Err(one.clone());
        }
        for (name, is_selected) in known.iter().zip(&mut is_selected) {
            *is_selected |= matches(name);
        }
    }
    let both = known.iter().zip(is_selected);
    Ok(both.filter(|(_, is_selected)| *is_selected).map(|(name, _)| (*name).to_owned()).collect())
}

/// Whether a word that is no repository's name may be a pattern.
pub fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_itself_and_a_pattern_all_that_match() {
        let known = ["app1", "app2", "db", "odd[1]", "odd*"];
        let select = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|it| (*it).to_owned()).collect();
            selected(&given, &known).map(|all| all.join(" "))
        };
        for (given, expected) in [
            (&[][..], Ok("app1 app2 db odd[1] odd*")),
            (&["db", "app1"], Ok("app1 db")),
            (&["app*"], Ok("app1 app2")),
            (&["app?", "db"], Ok("app1 app2 db")),
            (&["odd[1]"], Ok("odd[1]")),
            (&["odd*"], Ok("odd*")),
            (&["*"], Ok("app1 app2 db odd[1] odd*")),
            (&["web*"], Err("web*")),
            (&["app1", "nothing"], Err("nothing")),
            (&["[z-a]"], Err("[z-a]")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(select(given), expected, "{given:?}");
        }
    }
}
