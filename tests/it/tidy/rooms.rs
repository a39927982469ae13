//! The rooms: no circle of files, and in the engine no import of a room above.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, assert_none, sources};

/// The rooms of the engine from the ground up. Those of one line have the same rank.
const ENGINE: [&[&str]; 8] = [
    &["context", "request", "error", "finding"],
    &["discovery", "fleet"],
    &["repository"],
    &["run"],
    &["publish"],
    &["action"],
    &["tick"],
    &["operator", "machine", "listen"],
];

type Module = Vec<String>;

/// Which modules each module uses, by their paths. A module and its own submodules are one from
/// outside, so that what it uses of them does not count, and what they use of it does.
fn uses(sources: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let of = |source: &Source| source.module().into_iter().map(str::to_owned).collect::<Module>();
    let is_code =
        |source: &&Source| source.path != "src/main.rs" && !source.path.ends_with("/tests.rs");
    let all: BTreeSet<Module> = sources.iter().filter(is_code).map(of).collect();
    let mut uses = BTreeMap::new();
    for source in sources.iter().filter(is_code) {
        let module = of(source);
        let mut used = BTreeSet::new();
        for (_, mut path) in source.named_modules() {
            while !path.is_empty() && !all.contains(&path) {
                path.pop();
            }
            if !path.is_empty() && !path.starts_with(&module) {
                used.insert(path);
            }
        }
        uses.insert(module, used);
    }
    uses
}

/// The modules on a circle, each with one that it uses and that leads back to it.
fn circles(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let reaches = |from: &Module, to: &Module| {
        let (mut seen, mut pending) = (BTreeSet::new(), vec![from]);
        while let Some(next) = pending.pop() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                pending.extend(uses.get(next).into_iter().flatten());
            }
        }
        false
    };
    let mut found = Vec::new();
    for (module, used) in uses {
        let back = used.iter().filter(|used| reaches(used, module));
        found.extend(back.map(|used| {
            format!("{} uses {}, which leads back to it", module.join("::"), used.join("::"))
        }));
    }
    found
}

/// What rooms of the engine use of rooms above them.
fn arrows_upwards(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let rank = |module: &Module| match module.as_slice() {
        [layer, room, ..] if layer == "engine" => {
            ENGINE.iter().position(|rooms| rooms.contains(&room.as_str()))
        }
        _ => None,
    };
    let mut found = Vec::new();
    for (module, used) in uses {
        let Some(own) = rank(module) else { continue };
        let above = used.iter().filter(|used| rank(used).is_some_and(|rank| rank > own));
        found.extend(above.map(|used| {
            format!("{} may not use {}: that room is above it", module.join("::"), used.join("::"))
        }));
    }
    found
}

#[test]
fn no_two_files_use_each_other() {
    assert_none(&circles(&uses(&sources(&["src"]))));
}

#[test]
fn each_room_of_the_engine_uses_only_the_rooms_below_it() {
    let all = sources(&["src"]);
    let rooms: BTreeSet<&str> = all
        .iter()
        .filter(|source| source.is_in("engine"))
        .filter_map(|source| source.module().get(1).copied())
        .collect();
    assert_eq!(rooms, ENGINE.concat().into_iter().collect(), "each room has its rank here");
    assert_none(&arrows_upwards(&uses(&all)));
}

#[test]
fn a_circle_and_an_arrow_upwards_are_found() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let planted = [
        file("src/engine/tick.rs", "use crate::engine::run::log;\n"),
        file("src/engine/run/log.rs", "use super::record::Record;\n"),
        file("src/engine/run/record.rs", "use crate::engine::tick::{self, Tick};\n"),
        file("src/engine/run.rs", "use crate::engine::run::log;\n"),
    ];
    let uses = uses(&planted);
    let on_a_circle = ["engine::run::log", "engine::run::record", "engine::tick"];
    let found = circles(&uses);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().zip(on_a_circle).all(|(found, module)| found.starts_with(module)));
    let upwards = arrows_upwards(&uses);
    assert!(matches!(upwards.as_slice(), [one] if one.starts_with("engine::run::record ")));
}
