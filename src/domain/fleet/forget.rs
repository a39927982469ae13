//! Which machines `agent fleet forget` removes from a status repository. Removes nothing.

use chrono::{DateTime, Duration, Utc};

use super::{Member, NamePattern, SignClock, Silence};

/// Which machines somebody wants to forget.
#[derive(Clone, Debug)]
pub enum ForgetSelection {
    /// Those of these names or patterns: `HOST` is the machine with all that its users publish, `HOST/USER` and
    /// `HOST/USER/WORLD` are one of these, `HOST/state` is what the machine itself publishes.
    Named(Vec<NamePattern>),
    /// Those that gave no sign for at least this time.
    Silent(Duration),
}

/// What a selection selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectedMembers {
    /// What is to be forgotten.
    pub chosen: Vec<SelectedMember>,
    /// What seems to be silent for as long, by no other clock than its own.
    pub doubtful: Vec<SelectedMember>,
}

/// A machine, or one user's world on it.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedMember {
    /// The machine.
    pub member: Member,
    /// How long it gave no sign; `None`: it is not silent, or that cannot be known.
    pub silence: Option<Silence>,
}

impl ForgetSelection {
    /// Whether each machine was named, rather than found.
    pub fn is_by_name(&self) -> bool {
        match self {
            Self::Named(names) => names.iter().all(NamePattern::is_name),
            Self::Silent(_) => false,
        }
    }

    /// The names and patterns that select nothing of `members`.
    pub fn idle<'a>(&'a self, members: &[Member]) -> Vec<&'a str> {
        let Self::Named(names) = self else { return Vec::new() };
        let idle = names.iter().filter(|name| !members.iter().any(|one| is_named(one, name)));
        idle.map(NamePattern::as_str).collect()
    }

    /// What it selects of `members` at `now`.
    pub fn select(&self, members: Vec<Member>, now: DateTime<Utc>) -> SelectedMembers {
        let mut selected = SelectedMembers::default();
        for member in members {
            let silence = member.silence(now);
            let place = match (self, silence) {
                (Self::Named(names), _) => {
                    names.iter().any(|name| is_named(&member, name)).then_some(&mut selected.chosen)
                }
                (Self::Silent(length), Some(silence)) if now - silence.since >= *length => {
                    Some(match silence.clock {
                        SignClock::Reader => &mut selected.chosen,
                        SignClock::Machine => &mut selected.doubtful,
                    })
                }
                (Self::Silent(_), _) => None,
            };
            place.into_iter().for_each(|place| {
                place.push(SelectedMember { member: member.clone(), silence });
            });
        }
        selected
    }
}

fn is_named(member: &Member, name: &NamePattern) -> bool {
    match name.as_str().contains('/') {
        false => name.selects(member.name.host()),
        true => name.selects(&member.name.short()) || name.as_str() == member.name.branch(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fleet::{Said, Sighting};
    use crate::domain::report::presence::PresenceRef;

    fn now() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    fn member(name: &str) -> Member {
        let sighting = Sighting {
            id: "a".repeat(40).parse().unwrap(),
            first_seen: now(),
            moved: None,
            said: Said::Unreadable("no file".to_owned()),
        };
        let name = PresenceRef::parse(&format!("refs/heads/{name}/state")).unwrap();
        Member { name, sighting }
    }

    fn selected(patterns: &[&str]) -> Vec<String> {
        let all = ["web01", "web01/deploy", "web01/deploy/test-0123abcd", "web011", "web02/deploy"];
        let members: Vec<Member> = all.into_iter().map(member).collect();
        let names = patterns.iter().map(|it| NamePattern::parse(it).unwrap()).collect();
        let selection = ForgetSelection::Named(names);
        let selected = selection.select(members, now());
        selected.chosen.iter().map(|it| it.member.name.short()).collect()
    }

    #[test]
    fn a_host_is_all_that_it_publishes_and_a_user_is_one() {
        let whole = ["web01", "web01/deploy", "web01/deploy/test-0123abcd"];
        assert_eq!(selected(&["web01"]), whole);
        assert_eq!(selected(&["web01/state"]), ["web01"]);
        assert_eq!(selected(&["web01/deploy"]), ["web01/deploy"]);
        assert_eq!(selected(&["web01/deploy/test-0123abcd"]), ["web01/deploy/test-0123abcd"]);
        assert_eq!(selected(&["*/deploy"]), ["web01/deploy", "web02/deploy"]);
        assert_eq!(selected(&["web0?"]).len(), 4);
        assert_eq!(selected(&["web01*/state"]), Vec::<String>::new(), "a branch is named whole");
    }

    #[test]
    fn only_names_are_by_name() {
        let by_name = |text: &str| {
            ForgetSelection::Named(vec![NamePattern::parse(text).unwrap()]).is_by_name()
        };
        assert!(by_name("web01") && by_name("web01/deploy"));
        assert!(!by_name("web0*") && !by_name("web0[12]") && !by_name("{a,b}"));
        assert!(!ForgetSelection::Silent(Duration::days(14)).is_by_name());
    }
}
