//! Histories in memory with real signatures: which commits have to be signed before a revision is applied.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::domain::signature::tests::*;

impl Histories {
    /// The number of verified commits, or the first that does not count.
    fn judged(&self, tip: Commit, accepted: &Accepted) -> Result<usize, Refusal> {
        let signers = signers(&format!("ops {}", TestKey::of(1).text()));
        self.judged_by(&signers, tip, accepted)
    }

    fn judged_by(
        &self,
        signers: &AllowedSigners,
        tip: Commit,
        accepted: &Accepted,
    ) -> Result<usize, Refusal> {
        match judge(self, signers, tip, accepted) {
            Ok(vouched) => {
                assert!(vouched.signer.is_none() || vouched.commits > 0);
                Ok(vouched.commits)
            }
            Err(JudgeError::Refused(refusal)) => Err(refusal),
            Err(JudgeError::Unreadable(error)) => panic!("{error}"),
        }
    }
}

fn own(commit: Commit) -> Accepted {
    Accepted { own: Some(commit), ..Accepted::default() }
}

fn others(commits: &[Commit]) -> Accepted {
    Accepted { others: commits.to_vec(), ..Accepted::default() }
}

fn introduced(commit: Commit) -> Accepted {
    Accepted { introduction: Some(commit), ..Accepted::default() }
}

fn unsigned(commit: Commit) -> Result<usize, Refusal> {
    Err(Refusal::Commit(commit, Why::Unsigned))
}

#[test]
fn every_commit_since_the_accepted_one_is_signed() {
    let mut here = Histories::default();
    let all = here.line(None, "-sss");
    assert_eq!(here.judged(all[3], &own(all[0])), Ok(3));
    assert_eq!(here.judged(all[1], &own(all[0])), Ok(1));
    // What was accepted counts, signed or not.
    assert_eq!(here.judged(all[0], &own(all[0])), Ok(0));
    let tip = judge(&here, &signers(""), all[0], &own(all[0])).unwrap();
    assert_eq!(tip, Vouched { signer: None, commits: 0 });
}

#[test]
fn the_signer_of_the_revision_is_named() {
    let mut here = Histories::default();
    let all = here.line(None, "ss");
    let key = TestKey::of(1);
    let signers = signers(&format!("\"Pat \u{202e} Pusher\" {}", key.text()));
    let signer = judge(&here, &signers, all[1], &own(all[0])).unwrap().signer.unwrap();
    assert_eq!(signer.fingerprint, key.fingerprint());
    assert_eq!(signer.principals, "Pat \u{202e} Pusher".escape_controls());
}

#[test]
fn one_unsigned_commit_on_the_way_is_refused_below_a_signed_tip() {
    let mut here = Histories::default();
    let all = here.line(None, "ss-ss");
    assert_eq!(here.judged(all[4], &own(all[0])), unsigned(all[2]));
    assert_eq!(here.judged(all[4], &own(all[1])), unsigned(all[2]));
    assert_eq!(here.judged(all[4], &own(all[2])), Ok(2));
}

#[test]
fn a_signed_merge_vouches_for_the_unsigned_commits_that_it_brings() {
    let mut here = Histories::default();
    let below = here.line(None, "s")[0];
    let side = here.line(Some(below), "---");
    let main = here.line(Some(below), "s")[0];
    let merge = here.merge(&[main, side[2]]);
    assert_eq!(here.judged(merge, &own(below)), Ok(2));
    let after = here.line(Some(merge), "s")[0];
    assert_eq!(here.judged(after, &own(below)), Ok(3));
    // An octopus, and unrelated histories.
    let orphan = here.line(None, "-")[0];
    let octopus = here.merge(&[after, side[1], orphan]);
    assert_eq!(here.judged(octopus, &own(below)), Ok(4));
}

#[test]
fn an_unsigned_merge_is_refused_even_of_signed_commits() {
    let mut here = Histories::default();
    let below = here.line(None, "s")[0];
    let (left, right) = (here.line(Some(below), "s")[0], here.line(Some(below), "s")[0]);
    let merge = here.add(&[left, right], 9, None);
    assert_eq!(here.judged(merge, &own(below)), unsigned(merge));
}

#[test]
fn a_merge_whose_first_parent_is_elsewhere_needs_every_commit_signed() {
    // What `git pull` makes on a desk: the accepted commit is the second parent.
    let mut here = Histories::default();
    let below = here.line(None, "s")[0];
    let accepted = here.line(Some(below), "s")[0];
    let local = here.line(Some(below), "ss");
    let foxtrot = here.merge(&[local[1], accepted]);
    assert_eq!(here.judged(foxtrot, &own(accepted)), Ok(3));
    let local = here.line(Some(below), "-s");
    let foxtrot = here.merge(&[local[1], accepted]);
    assert_eq!(here.judged(foxtrot, &own(accepted)), unsigned(local[0]));
}

#[test]
fn another_history_needs_every_commit_signed() {
    let mut here = Histories::default();
    let accepted = here.line(None, "ss")[1];
    let orphan = here.line(None, "ss");
    assert_eq!(here.judged(orphan[1], &own(accepted)), Ok(2));
    let orphan = here.line(None, "-s");
    assert_eq!(here.judged(orphan[1], &own(accepted)), unsigned(orphan[0]));
    // Of a merge in it, both sides.
    let base = here.line(None, "s")[0];
    let (left, right) = (here.line(Some(base), "s")[0], here.line(Some(base), "-")[0]);
    let merge = here.merge(&[left, right]);
    assert_eq!(here.judged(merge, &own(accepted)), unsigned(right));
}

#[test]
fn rewritten_history_is_verified_from_where_it_parts() {
    let mut here = Histories::default();
    let all = here.line(None, "--s");
    let rewritten = here.line(Some(all[1]), "ss");
    assert_eq!(here.judged(rewritten[1], &own(all[2])), Ok(2));
    let rewritten = here.line(Some(all[1]), "-s");
    assert_eq!(here.judged(rewritten[1], &own(all[2])), unsigned(rewritten[0]));
}

#[test]
fn back_to_what_was_accepted_before_needs_no_signature() {
    let mut here = Histories::default();
    let all = here.line(None, "---s");
    for commit in all.iter().take(3) {
        assert_eq!(here.judged(*commit, &own(all[3])), Ok(0));
        assert!(was_accepted(&here, *commit, &own(all[3])).unwrap());
        assert!(was_accepted(&here, *commit, &others(&[all[3]])).unwrap());
    }
    assert!(!was_accepted(&here, all[3], &own(all[2])).unwrap());
    assert!(!was_accepted(&here, all[0], &Accepted::default()).unwrap());
}

#[test]
fn what_a_merge_brought_is_no_revision_of_its_own_unless_it_is_signed() {
    let mut here = Histories::default();
    let below = here.line(None, "s")[0];
    let side = here.line(Some(below), "-s-");
    let main = here.line(Some(below), "s")[0];
    let merge = here.merge(&[main, side[2]]);
    let tip = here.line(Some(merge), "s")[0];
    for accepted in [own(tip), others(&[tip]), others(&[main, merge])] {
        assert_eq!(here.judged(side[0], &accepted), unsigned(side[0]));
        assert_eq!(here.judged(side[1], &accepted), Ok(1));
        assert_eq!(here.judged(side[2], &accepted), unsigned(side[2]));
        assert_eq!(here.judged(main, &accepted), Ok(0));
        assert!(!was_accepted(&here, side[1], &accepted).unwrap());
        assert!(was_accepted(&here, below, &accepted).unwrap());
    }
}

#[test]
fn what_a_merge_brought_is_not_hidden_by_dates() {
    // The merge is the oldest but for the first commit: when it is read, the branch that it brought was gone through.
    for dates in [[100, 99, 0], [100, 99, 98], [0, 99, 100], [100, 0, 99]] {
        let mut here = Histories::default();
        let main = here.add(&[], 0, Some(&TestKey::of(1)));
        let root = here.add(&[], dates[2], None);
        let middle = here.add(&[root], dates[1], None);
        let side = here.add(&[middle], dates[0], None);
        let merge = here.add(&[main, side], 1, Some(&TestKey::of(1)));
        assert_eq!(here.judged(side, &own(merge)), unsigned(side), "{dates:?}");
        assert_eq!(here.judged(middle, &own(merge)), unsigned(middle), "{dates:?}");
        // Above it, all of that was vouched for.
        let above = here.add(&[side], 2, Some(&TestKey::of(1)));
        assert_eq!(here.judged(above, &own(merge)), Ok(1), "{dates:?}");
    }
}

#[test]
fn of_a_new_branch_every_commit_counts_that_no_accepted_one_contains() {
    let mut here = Histories::default();
    let main = here.line(None, "---");
    let branch = here.line(Some(main[1]), "ss");
    assert_eq!(here.judged(branch[1], &others(&[main[2]])), Ok(2));
    let branch = here.line(Some(main[1]), "-s");
    assert_eq!(here.judged(branch[1], &others(&[main[2]])), unsigned(branch[0]));
    // Where another ref was accepted with it, it counts no more.
    assert_eq!(here.judged(branch[1], &others(&[main[2], branch[0]])), Ok(1));
    // A new name for what was accepted.
    assert_eq!(here.judged(main[2], &others(&[main[2]])), Ok(0));
    assert_eq!(here.judged(main[0], &others(&[main[2]])), Ok(0));
    // A branch that merges: both its sides are new.
    let side = here.line(Some(main[2]), "-")[0];
    let first = here.line(Some(main[2]), "s")[0];
    let merge = here.merge(&[first, side]);
    assert_eq!(here.judged(merge, &others(&[main[2]])), unsigned(side));
}

#[test]
fn of_a_first_clone_the_tip_alone_is_verified() {
    let mut here = Histories::default();
    let all = here.line(None, "--s-");
    assert_eq!(here.judged(all[2], &Accepted::default()), Ok(1));
    assert_eq!(here.judged(all[3], &Accepted::default()), unsigned(all[3]));
    // It may end anywhere.
    here.objects.remove(&all[1]);
    assert_eq!(here.judged(all[2], &Accepted::default()), Ok(1));
}

#[test]
fn an_introduction_demands_a_descendant_of_it() {
    let mut here = Histories::default();
    let all = here.line(None, "--ss");
    assert_eq!(here.judged(all[3], &introduced(all[1])), Ok(2));
    assert_eq!(here.judged(all[3], &introduced(all[0])), unsigned(all[1]));
    assert_eq!(here.judged(all[3], &introduced(all[3])), Ok(1));
    assert_eq!(here.judged(all[1], &introduced(all[1])), unsigned(all[1]));
    let stranger = here.line(None, "s")[0];
    let refused = |tip, introduction| Err(Refusal::NotDescended(tip, introduction));
    assert_eq!(here.judged(stranger, &introduced(all[1])), refused(stranger, all[1]));
    assert_eq!(here.judged(all[2], &introduced(all[3])), refused(all[2], all[3]));
    let unknown: Commit = "9".repeat(40).parse().unwrap();
    assert_eq!(here.judged(all[3], &introduced(unknown)), refused(all[3], unknown));
    // By a second parent as well; then every commit between is signed.
    let foxtrot = here.merge(&[stranger, all[2]]);
    assert_eq!(here.judged(foxtrot, &introduced(all[2])), Ok(2));
    // Once something was accepted, it has no say.
    let accepted = Accepted { introduction: Some(stranger), ..own(all[2]) };
    assert_eq!(here.judged(all[3], &accepted), Ok(1));
}

#[test]
fn a_retired_key_that_backdates_is_refused_and_a_late_machine_gets_forward() {
    let (old, new) = (TestKey::of(1), TestKey::of(2));
    let retired = DateTime::from_timestamp(DAY + 1000, 0).unwrap();
    let day = retired.format("%Y%m%d%H%M%SZ");
    let signers =
        signers(&format!("old valid-before=\"{day}\" {}\nnew {}", old.text(), new.text()));
    let mut here = Histories::default();
    let first = here.add(&[], 0, Some(&old));
    let second = here.add(&[first], 900, Some(&old));
    let third = here.add(&[second], 2000, Some(&new));
    let late = here.add(&[second], 1001, Some(&old));
    let backdated = here.add(&[third], 500, Some(&old));
    let expired = |commit| {
        let fault = SignerFault::Expired(retired);
        Err(Refusal::Commit(commit, Why::Signer(old.fingerprint(), fault)))
    };
    // A machine that was off while the key was retired.
    assert_eq!(here.judged_by(&signers, third, &own(first)), Ok(2));
    assert_eq!(here.judged_by(&signers, second, &Accepted::default()), Ok(1));
    assert_eq!(here.judged_by(&signers, late, &own(first)), expired(late));
    // The date of what was accepted counts, also within one way.
    assert_eq!(here.judged_by(&signers, backdated, &own(third)), expired(backdated));
    assert_eq!(here.judged_by(&signers, backdated, &own(first)), expired(backdated));
    assert_eq!(here.judged_by(&signers, backdated, &others(&[third])), expired(backdated));
    assert_eq!(here.judged_by(&signers, backdated, &others(&[first, third])), expired(backdated));
}

#[test]
fn a_key_does_not_sign_before_its_time() {
    let key = TestKey::of(1);
    let signers = signers(&format!("ops valid-after=\"20251122090010Z\" {}", key.text()));
    let from = at("2025-11-22T09:00:10Z");
    assert_eq!(from.timestamp(), DAY + 10);
    let mut here = Histories::default();
    let early = here.add(&[], 9, Some(&key));
    let right = here.add(&[early], 10, Some(&key));
    let fault = Why::Signer(key.fingerprint(), SignerFault::NotYetValid(from));
    assert_eq!(
        here.judged_by(&signers, early, &Accepted::default()),
        Err(Refusal::Commit(early, fault))
    );
    assert_eq!(here.judged_by(&signers, right, &own(early)), Ok(1));
}

#[test]
fn a_parent_that_is_missing_is_a_refusal() {
    let mut here = Histories::default();
    let all = here.line(None, "ssss");
    let accepted = here.line(None, "s")[0];
    here.objects.remove(&all[1]);
    let missing = Err(Refusal::MissingParent(all[2], all[1]));
    assert_eq!(here.judged(all[3], &own(all[0])), missing);
    assert_eq!(here.judged(all[3], &own(accepted)), missing);
    assert_eq!(here.judged(all[3], &others(&[accepted])), missing);
    // What lies below the accepted commit is not asked for.
    assert_eq!(here.judged(all[3], &own(all[2])), Ok(1));
}

#[test]
fn a_revision_that_cannot_be_read_is_no_fault_of_it() {
    let here = Histories::default();
    let unknown: Commit = "9".repeat(40).parse().unwrap();
    for accepted in [Accepted::default(), own("8".repeat(40).parse().unwrap())] {
        match judge(&here, &signers(""), unknown, &accepted) {
            Err(JudgeError::Unreadable(ObjectError::Missing(id))) => assert_eq!(id, unknown.0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn accepted_commits_that_were_collected_hide_nothing() {
    let mut here = Histories::default();
    let gone: Commit = "9".repeat(40).parse().unwrap();
    let all = here.line(None, "sss");
    assert_eq!(here.judged(all[2], &own(gone)), Ok(3));
    assert_eq!(here.judged(all[2], &others(&[gone, all[1]])), Ok(1));
    assert!(!was_accepted(&here, all[0], &own(gone)).unwrap());
}

#[test]
fn what_is_not_as_git_makes_it_is_refused() {
    let mut here = Histories::default();
    let below = here.line(None, "s")[0];
    let text = here.objects[&below].clone();
    let twice = String::from_utf8(text).unwrap();
    let twice = twice.replacen("committer ", &format!("parent {below}\ncommitter "), 1);
    let odd = here.put(twice.into_bytes());
    let above = here.line(Some(odd), "s")[0];
    let malformed = Err(Refusal::Commit(odd, Why::Malformed));
    assert_eq!(here.judged(odd, &Accepted::default()), malformed);
    assert_eq!(here.judged(odd, &own(below)), malformed);
    assert_eq!(here.judged(above, &own(below)), malformed);
    assert_eq!(here.judged(above, &Accepted::default()), Ok(1));
}

#[test]
fn each_fault_of_a_signature_is_named() {
    let mut here = Histories::default();
    let (key, stranger) = (TestKey::of(1), TestKey::of(2));
    let plain = here.line(None, "-")[0];
    let text = String::from_utf8(here.objects[&plain].clone()).unwrap();
    let with = |here: &mut Histories, signature: &str| {
        let header = format!("gpgsig {}\n\n", signature.trim_end().replace('\n', "\n "));
        here.put(text.replacen("\n\n", &format!("\n{header}"), 1).into_bytes())
    };
    let other_namespace =
        armored(&sshsig(&key.blob(), "file", &key.value("file", text.as_bytes())));
    let signature = |fault| Why::Signature(Some(key.fingerprint()), fault);
    for (armor, why) in [
        (key.sign(b"other"), signature(SignatureFault::Wrong)),
        (other_namespace, signature(SignatureFault::Namespace("file".to_owned()))),
        (
            stranger.sign(text.as_bytes()),
            Why::Signer(stranger.fingerprint(), SignerFault::Unlisted),
        ),
        (
            "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----".to_owned(),
            Why::OtherKind,
        ),
        ("x".to_owned(), Why::OtherKind),
        (BEGIN.to_owned(), Why::Signature(None, SignatureFault::Malformed)),
    ] {
        let commit = with(&mut here, &armor);
        assert_eq!(here.judged(commit, &own(plain)), Err(Refusal::Commit(commit, why)), "{armor}");
    }
    let right = with(&mut here, &key.sign(text.as_bytes()));
    assert_eq!(here.judged(right, &own(plain)), Ok(1));
    // A wrong signature by a key of another time says that it is wrong.
    let early = signers(&format!("ops valid-after=\"20990101\" {}", key.text()));
    let wrong = with(&mut here, &key.sign(b"other"));
    assert_eq!(
        here.judged_by(&early, wrong, &own(plain)),
        Err(Refusal::Commit(wrong, signature(SignatureFault::Wrong)))
    );
}

#[test]
fn sentences_say_what_is_wrong() {
    let key = TestKey::of(1).fingerprint();
    let signature = |fault| Why::Signature(Some(key.clone()), fault);
    let signer = |fault| Why::Signer(key.clone(), fault);
    let moment = at("2026-01-01T12:30:00Z");
    let dss = KeyFault::Kind("ssh-dss\n".to_owned());
    for (why, sentence) in [
        (Why::Unsigned, "is not signed".to_owned()),
        (Why::Renamed("v\n1".to_owned()), "is a tag that was signed as v\\n1".to_owned()),
        (
            signature(SignatureFault::Untouched),
            format!("is signed by {key} without a touch of that key"),
        ),
        (
            signature(SignatureFault::Namespace("\u{1b}".to_owned())),
            format!("has a signature by {key} for \"{}\", not for git", "\u{1b}".escape_controls()),
        ),
        (
            signature(SignatureFault::Key(dss)),
            "is signed by a key of the kind ssh-dss\\n, which may not sign".to_owned(),
        ),
        (
            signature(SignatureFault::Wrong),
            format!("has a wrong signature by {key}: it was changed after it was signed"),
        ),
        (
            signer(SignerFault::Unlisted),
            format!("is signed by {key}, which /etc/ops.signers does not list"),
        ),
        (
            signer(SignerFault::Expired(moment)),
            format!("is signed by {key}, which /etc/ops.signers lists until 2026-01-01 12:30 UTC"),
        ),
    ] {
        assert_eq!(why.sentence("/etc/ops.signers"), sentence);
    }
}

#[test]
fn a_signed_tag_suffices_when_its_name_is_that_of_the_ref() {
    let mut here = Histories::default();
    let all = here.line(None, "--");
    let key = TestKey::of(1);
    let listed = signers(&format!("ops {}", key.text()));
    let judged =
        |signers: &AllowedSigners, name: &str, bytes: &[u8], accepted: &Accepted| match judge_tag(
            &here,
            signers,
            (name, bytes),
            accepted,
        ) {
            Ok(vouched) => Ok(vouched.signer.unwrap().fingerprint),
            Err(JudgeError::Refused(Refusal::Tag(of, why))) if of == name => Err(why),
            Err(other) => panic!("{other:?}"),
        };
    let tag = signed_tag(all[1], "v1.2", 50);
    for accepted in [Accepted::default(), own(all[0]), others(&[all[0]])] {
        assert_eq!(judged(&listed, "v1.2", &tag, &accepted), Ok(key.fingerprint()));
        let renamed = Err(Why::Renamed("v1.2".to_owned()));
        assert_eq!(judged(&listed, "v1.3", &tag, &accepted), renamed);
        assert_eq!(judged(&listed, "refs/tags/v1.2", &tag, &accepted), renamed);
        let text = String::from_utf8(tag.clone()).unwrap();
        let forged = text.replacen("v1.2", "v1.3", 1).into_bytes();
        let wrong = Why::Signature(Some(key.fingerprint()), SignatureFault::Wrong);
        assert_eq!(judged(&listed, "v1.3", &forged, &accepted), Err(wrong));
        let plain = text.split_once("-----BEGIN").unwrap().0.as_bytes();
        assert_eq!(judged(&listed, "v1.2", plain, &accepted), Err(Why::Unsigned));
        assert_eq!(judged(&listed, "v1.2", b"object x", &accepted), Err(Why::Malformed));
    }
    // A retired key does not tag before what was accepted.
    let retired = signers(&format!("ops valid-before=\"20251122090100Z\" {}", key.text()));
    assert_eq!(judged(&retired, "v1.2", &tag, &own(all[0])), Ok(key.fingerprint()));
    let mut here = Histories::default();
    let late = here.add(&[], 61, None);
    let refused = judge_tag(&here, &retired, ("v1.2", &tag), &own(late));
    assert!(
        matches!(&refused, Err(JudgeError::Refused(Refusal::Tag(_, Why::Signer(..))))),
        "{refused:?}"
    );
}

#[test]
fn many_commits_are_read_a_few_times_each() {
    let mut here = Histories::default();
    let main = here.line(None, &"-".repeat(2000));
    let tip = here.line(Some(main[1999]), "s")[0];
    here.reads.set(0);
    assert_eq!(here.judged(tip, &own(main[0])), unsigned(main[1]));
    assert!(here.reads.get() <= 2 * 2001 + 10, "{} reads", here.reads.get());
    // Dates by which all of it is gone through before the accepted commit is read.
    let accepted = here.add(&[main[0], main[1999]], -1, None);
    here.reads.set(0);
    assert_eq!(here.judged(tip, &own(accepted)), Ok(1));
    assert!(here.reads.get() <= 4 * 2002 + 10, "{} reads", here.reads.get());
    // And in their usual order only what is new.
    let above = here.line(Some(tip), "ss")[1];
    here.reads.set(0);
    assert_eq!(here.judged(above, &others(&[tip])), Ok(2));
    assert!(here.reads.get() < 20, "{} reads", here.reads.get());
}

/// A commit of a random history: by how much its parents are older in the order of creation, its date, and whether it
/// is signed.
type Drawn = (Vec<usize>, i64, bool);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let parents = prop_oneof![
        1 => Just(Vec::new()),
        6 => vec(1..4_usize, 1),
        4 => vec(1..8_usize, 2),
        1 => vec(1..8_usize, 3),
    ];
    // Few dates, so that some are the same.
    vec((parents, 0..12_i64, prop::bool::weighted(0.8)), 1..24)
}

/// All that `tips` contain, by going through everything.
fn ancestors(all: &[Vec<usize>], tips: &[usize]) -> BTreeSet<usize> {
    let (mut seen, mut open) = (BTreeSet::new(), tips.to_vec());
    while let Some(number) = open.pop() {
        if seen.insert(number) {
            open.extend(&all[number]);
        }
    }
    seen
}

/// The commit and its first parents.
fn first_parents(all: &[Vec<usize>], tip: usize) -> Vec<usize> {
    std::iter::successors(Some(tip), |&number| all[number].first().copied()).collect()
}

/// What has to be signed, as the rules say it.
fn to_verify(
    all: &[Vec<usize>],
    tip: usize,
    own: Option<usize>,
    others: &[usize],
) -> BTreeSet<usize> {
    let from: Vec<usize> = own.iter().chain(others).copied().collect();
    if from.contains(&tip) {
        return BTreeSet::new();
    }
    if from.is_empty() {
        return BTreeSet::from([tip]);
    }
    let way = first_parents(all, tip);
    if let Some(end) = way.iter().position(|number| Some(*number) == own) {
        return way[..end].iter().copied().collect();
    }
    let new: BTreeSet<usize> = &ancestors(all, &[tip]) - &ancestors(all, &from);
    let was_accepted = from.iter().any(|from| first_parents(all, *from).contains(&tip));
    match new.is_empty() && !was_accepted {
        true => BTreeSet::from([tip]),
        false => new,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn of_any_history_what_has_to_be_signed_is_what_the_rules_say(
        drawn in drawn(),
        tip in any::<prop::sample::Index>(),
        own in proptest::option::weighted(0.7, any::<prop::sample::Index>()),
        others in vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let (mut here, key) = (Histories::default(), TestKey::of(1));
        let (mut ids, mut parents) = (Vec::new(), Vec::new());
        for (number, (older, date, is_signed)) in drawn.iter().enumerate() {
            let mut of: Vec<usize> =
                older.iter().filter_map(|older| number.checked_sub(*older)).collect();
            let mut seen = BTreeSet::new();
            of.retain(|parent| seen.insert(*parent));
            let parent_ids: Vec<Commit> = of.iter().map(|parent| ids[*parent]).collect();
            ids.push(here.add(&parent_ids, *date, is_signed.then_some(&key)));
            parents.push(of);
        }
        let index = |drawn: prop::sample::Index| drawn.index(ids.len());
        let (tip, own) = (index(tip), own.map(index));
        let others: Vec<usize> = others.into_iter().map(index).collect();
        let accepted = Accepted {
            own: own.map(|number| ids[number]),
            others: others.iter().map(|number| ids[*number]).collect(),
            introduction: None,
        };
        let expected = to_verify(&parents, tip, own, &others);
        // The set, without what dates have hidden.
        let way = Way { source: &here, accepted: &accepted };
        let ToVerify { steps, unless_in } = way.to_verify(ids[tip]).unwrap();
        let number = |id: &Commit| ids.iter().position(|it| it == id).unwrap();
        let mut history = None;
        let found: BTreeSet<usize> = steps
            .iter()
            .filter(|id| !way.was_hidden(**id, ids[tip], &unless_in, &mut history).unwrap())
            .map(number)
            .collect();
        prop_assert_eq!(&found, &expected);
        // The verdict.
        let unsigned: Vec<Commit> =
            expected.iter().filter(|it| !drawn[**it].2).map(|it| ids[*it]).collect();
        match here.judged(ids[tip], &accepted) {
            Ok(commits) => {
                prop_assert!(unsigned.is_empty(), "{unsigned:?} passed");
                prop_assert!(commits >= expected.len());
            }
            Err(Refusal::Commit(commit, Why::Unsigned)) => prop_assert!(unsigned.contains(&commit)),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        let is_accepted = own.iter().chain(&others)
            .any(|from| first_parents(&parents, *from).contains(&tip));
        prop_assert_eq!(was_accepted(&here, ids[tip], &accepted).unwrap(), is_accepted);
    }
}
