//! Ref names and their directories. Generated names are tested in `tests/it/published_names.rs`.

use super::*;

fn plainly(short: &[u8], names: NamingRule) -> Result<String, NamingError> {
    directory(short, names, &BTreeMap::new())
}

fn revision(digit: char) -> Commit {
    digit.to_string().repeat(40).parse().unwrap()
}

fn rules(names: NamingRule, rename: &[(&str, &str)], matching: &[&str]) -> PublishRules {
    let matching: Vec<_> = matching.iter().map(|&pattern| pattern.to_owned()).collect();
    PublishRules {
        refs: RefSelection::Branches,
        names,
        rename: rename.iter().map(|&(from, to)| (from.to_owned(), to.to_owned())).collect(),
        matching: PathPatterns::new(&matching).unwrap(),
        room: LONGEST,
    }
}

/// The directory of each of `refs`, or `!` and the reason.
fn assigned(refs: &[&str], there: &[(&str, &str)], rules: &PublishRules) -> Vec<(String, String)> {
    let refs: Vec<_> = refs.iter().map(|&name| (name.to_owned(), Some(revision('a')))).collect();
    let there = there.iter().map(|&(dir, name)| (dir.to_owned(), name.to_owned())).collect();
    assign(&refs, &there, rules)
        .into_iter()
        .map(|one| (one.name, one.directory.unwrap_or_else(|reason| format!("!{reason}"))))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(name, dir)| (name.to_owned(), dir.to_owned())).collect()
}

#[test]
fn names_from_hell_become_one_plain_directory_each() {
    for (short, exact, puppet) in [
        (&b"main"[..], "main", Err(NamingError::Reserved("main"))),
        (b"master", "master", Err(NamingError::Reserved("master"))),
        (b"production", "production", Ok("production")),
        (b"Main", "Main", Ok("Main")),
        (b"v1.2.3+b-1_c", "v1.2.3+b-1_c", Ok("v1_2_3_b_1_c")),
        (b"a", "a", Ok("a")),
        (b"a/b", "a%2Fb", Ok("a_b")),
        (b"a%2Fb", "a%252Fb", Ok("a_2Fb")),
        (b"feature/x", "feature%2Fx", Ok("feature_x")),
        (b"$(id)", "%24%28id%29", Ok("__id_")),
        (b"`id`", "%60id%60", Ok("_id_")),
        (b"a\"b", "a%22b", Ok("a_b")),
        (b"a'b", "a%27b", Ok("a_b")),
        (b"a|b&c>d;e", "a%7Cb%26c%3Ed%3Be", Ok("a_b_c_d_e")),
        (b"-rf", "%2Drf", Ok("_rf")),
        (b"--", "%2D-", Ok("__")),
        (b".", "%2E", Ok("_")),
        (b"..", "%2E.", Ok("__")),
        (b"../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd", Ok("______etc_passwd")),
        (b"/etc", "%2Fetc", Ok("_etc")),
        (b".git", "%2Egit", Ok("_git")),
        (b".pmpy", "%2Epmpy", Ok("_pmpy")),
        (b"a\0b\n", "a%00b%0A", Ok("a_b_")),
        ("\u{fc}ber".as_bytes(), "%C3%BCber", Ok("_ber")),
        ("\u{202e}x".as_bytes(), "%E2%80%AEx", Ok("_x")),
        (b"\xff\xfe", "%FF%FE", Ok("__")),
        (b"con~1", "con%7E1", Ok("con_1")),
    ] {
        let shown = short.escape_ascii();
        assert_eq!(plainly(short, NamingRule::Exact), Ok(exact.to_owned()), "{shown}");
        assert_eq!(plainly(short, NamingRule::Puppet), puppet.map(str::to_owned), "{shown}");
    }
}

#[test]
fn what_no_directory_can_be_called_is_reported_in_words() {
    assert_eq!(plainly(&[b'x'; 255], NamingRule::Exact), Ok("x".repeat(255)));
    let long = plainly(&[b'/'; 86], NamingRule::Exact).unwrap_err().to_string();
    assert!(long.contains("258 bytes, and 255 are possible"), "{long}");
    assert!(plainly(&[b'/'; 86], NamingRule::Puppet).is_ok());
    for names in [NamingRule::Exact, NamingRule::Puppet] {
        assert_eq!(plainly(b"", names), Err(NamingError::Nameless));
    }
    let reserved = NamingError::Reserved("main").to_string();
    assert!(reserved.contains("no environment called \"main\""), "{reserved}");
}

#[test]
fn a_renamed_ref_has_the_name_that_it_was_given() {
    let puppet = rules(NamingRule::Puppet, &[("main", "production")], &[]);
    assert_eq!(
        assigned(&["refs/heads/main", "refs/heads/dev"], &[], &puppet),
        pairs(&[("refs/heads/main", "production"), ("refs/heads/dev", "dev")])
    );
}

#[test]
fn only_refs_of_the_kind_that_match_are_published() {
    let mut rules = rules(NamingRule::Exact, &[], &["v*", "!v0*"]);
    let refs = ["refs/heads/v1", "refs/tags/v2", "refs/heads/v0.1", "refs/notes/v3", "HEAD"];
    assert_eq!(assigned(&refs, &[], &rules), pairs(&[("refs/heads/v1", "v1")]));
    rules.refs = RefSelection::Tags;
    assert_eq!(assigned(&refs, &[], &rules), pairs(&[("refs/tags/v2", "v2")]));
}

#[test]
fn a_directory_has_one_ref_and_the_others_say_whose_it_is() {
    let puppet = rules(NamingRule::Puppet, &[], &[]);
    let refs = ["refs/heads/a/b", "refs/heads/a-b", "refs/heads/a_b", "refs/heads/a.b"];
    let of = |winner: &str, pairs: &[(String, String)]| {
        for (name, directory) in pairs {
            match directory.strip_prefix('!') {
                None => assert_eq!(name, winner),
                Some(reason) => assert!(
                    reason.starts_with(&format!("\"a_b\" is the directory of {winner}: ")),
                    "{reason}"
                ),
            }
        }
        assert_eq!(pairs.iter().filter(|(_, directory)| directory == "a_b").count(), 1);
    };
    // The holder of a directory keeps it, though another ref has exactly that name.
    of("refs/heads/a/b", &assigned(&refs, &[("a_b", "refs/heads/a/b")], &puppet));
    // Once the holder is gone, the ref of exactly that name is next.
    of("refs/heads/a_b", &assigned(&refs, &[("a_b", "refs/heads/gone")], &puppet));
    of("refs/heads/a_b", &assigned(&refs, &[], &puppet));
    // Then the first by name, in any order of the list.
    of("refs/heads/a-b", &assigned(&[refs[0], refs[3], refs[1]], &[], &puppet));
}

#[test]
fn a_renamed_ref_yields_to_the_one_that_is_called_so() {
    let rules = rules(NamingRule::Exact, &[("main", "production")], &[]);
    let refs = ["refs/heads/main", "refs/heads/production"];
    let both = assigned(&refs, &[], &rules);
    assert!(both[0].1.contains("is the directory of refs/heads/production"), "{}", both[0].1);
    assert_eq!(both[1].1, "production");
}

#[test]
fn names_that_differ_by_case_alone_are_two() {
    let exact = rules(NamingRule::Exact, &[], &[]);
    assert_eq!(
        assigned(&["refs/heads/a", "refs/heads/A"], &[], &exact),
        pairs(&[("refs/heads/a", "a"), ("refs/heads/A", "A")])
    );
}

#[test]
fn an_unfit_name_disturbs_no_other() {
    let mut rules = rules(NamingRule::Exact, &[], &[]);
    rules.room = 4;
    let all = assigned(&["refs/heads/toolong", "refs/heads/tool"], &[], &rules);
    assert!(all[0].1.contains("7 bytes, and 4 are possible"), "{}", all[0].1);
    assert_eq!(all[1].1, "tool");
}

#[test]
fn a_target_says_which_names_belong_to_it() {
    for (layout, directory, store, link, room) in [
        (TargetLayout::Checkout, "/srv", ".site.pmpy", "site", 255),
        (TargetLayout::Inside, "/srv/site", ".pmpy", "dev", 255),
        (TargetLayout::Sibling, "/srv", ".site.pmpy", "site_dev", 250),
    ] {
        let target = PublishTarget::new(layout, Path::new("/srv/site")).unwrap();
        assert_eq!(target.links_dir, Path::new(directory));
        assert_eq!(target.store(), store);
        assert_eq!(target.link("dev"), link);
        assert_eq!(target.room(), room);
        assert_eq!(PublishTarget::new(layout, Path::new("/")), None);
    }
}

#[test]
fn a_ref_without_a_commit_keeps_what_it_has_and_takes_nothing_from_others() {
    let rules = rules(NamingRule::Puppet, &[], &[]);
    let refs =
        [("refs/heads/a-b".to_owned(), None), ("refs/heads/a.b".to_owned(), Some(revision('a')))];
    let winner = |there: &[(&str, &str)]| {
        let there = there.iter().map(|&(dir, name)| (dir.to_owned(), name.to_owned())).collect();
        let all = assign(&refs, &there, &rules);
        all.into_iter().find(|one| one.directory.is_ok()).map(|one| one.name)
    };
    assert_eq!(winner(&[]).as_deref(), Some("refs/heads/a.b"));
    assert_eq!(winner(&[("a_b", "refs/heads/a-b")]).as_deref(), Some("refs/heads/a-b"));
}

#[test]
fn a_directory_name_gives_the_refs_it_may_be_of() {
    let exact = rules(NamingRule::Exact, &[], &[]);
    for short in ["main", "feature/x", "100%", "-rf", "über"] {
        let directory = plainly(short.as_bytes(), NamingRule::Exact).unwrap();
        assert_eq!(exact.name_of(&directory), format!("refs/heads/{short}"));
    }
    assert_eq!(rules(NamingRule::Puppet, &[], &[]).name_of("a_b"), "refs/heads/a_b");
    assert!(exact.selects("refs/heads/main") && !exact.selects("refs/tags/v1"));
    assert!(!rules(NamingRule::Exact, &[], &["!wip/**"]).selects("refs/heads/wip/x"));
}

#[test]
fn a_mark_is_no_directory_of_another_one_and_of_branches_and_tags_apart() {
    assert_eq!(mark("refs/heads/main").unwrap(), "refs/pmpy/seen/main");
    assert_eq!(mark("refs/heads/a/b").unwrap(), "refs/pmpy/seen/a%2Fb");
    assert_eq!(mark("refs/tags/main").unwrap(), "refs/pmpy/seen-tags/main");
    assert_eq!(mark("refs/notes/x"), None);
}
