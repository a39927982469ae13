//! Branches, tags and trees at their targets, by the real agent: [`Publisher`] is a machine that
//! publishes one repository, and the person who pushes to it.
//!
//! ```text
//! DIR/targets/site       the target
//! DIR/runs               what the gate and the program behind it noted
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, text};

mod by_hand;
mod examples;
mod left;
mod life;
mod lost;
mod names;
mod obstacles;
mod programs;
mod readers;
mod refused;
mod shared;
mod steered;
mod stores;
mod watched;

/// The repository that is published.
pub const NAME: &str = "site";

/// A machine that publishes one repository.
pub struct Publisher {
    /// The machine.
    pub machine: Sandbox,
}

impl Publisher {
    /// In `mode`, with `keys` of its section beside mode and target. `main` has a page `one`; no tick
    /// has run yet.
    pub fn new(mode: &str, keys: &str) -> Self {
        let machine = Sandbox::with(NAME, &[("page", "one\n")]);
        fs::create_dir(machine.path("targets")).unwrap();
        let publisher = Self { machine };
        publisher.configure(mode, keys);
        publisher
    }

    /// The same in another mode or with other keys.
    pub fn configure(&self, mode: &str, keys: &str) {
        let target = self.machine.path("targets/site");
        let section = format!("[repo.{NAME}]\nmode = \"{mode}\"\ntarget = \"{}\"", text(&target));
        self.machine.configure(&format!("{section}\n{keys}\n"));
    }

    /// A path below the target.
    pub fn at(&self, below: &str) -> PathBuf {
        match below {
            "" => self.machine.path("targets/site"),
            below => self.machine.path("targets/site").join(below),
        }
    }

    /// The page that is seen in `directory`.
    pub fn page(&self, directory: &str) -> Option<String> {
        let page = fs::read_to_string(self.at(directory).join("page")).ok()?;
        Some(page.trim_end().to_owned())
    }

    /// The store of the target, in its mode.
    pub fn store(&self) -> PathBuf {
        let inside = self.at(".pmpy");
        if inside.is_dir() { inside } else { self.machine.path("targets/.site.pmpy") }
    }

    /// The files that releases left behind, below `.left`; sorted.
    pub fn left(&self) -> Vec<String> {
        let left = self.store().join(".left");
        let files = if left.is_dir() { self.machine.files_below(&left) } else { Vec::new() };
        let mut files: Vec<String> = files.iter().map(|file| text(file).to_owned()).collect();
        files.sort();
        files
    }

    /// The revision whose tree is seen in `directory`.
    #[track_caller]
    pub fn shown(&self, directory: &str) -> String {
        let link = fs::read_link(self.at(directory)).unwrap();
        link.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// What is seen in the target: the names, without the agent's store.
    pub fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".pmpy");
        names.sort();
        names
    }

    /// Pushes `page` to `branch`, on top of what that has, or else of `main`; the revision.
    pub fn push(&self, branch: &str, page: &str) -> String {
        self.push_files(branch, &[("page", &format!("{page}\n"))])
    }

    /// The same with any files.
    pub fn push_files(&self, branch: &str, files: &[(&str, &str)]) -> String {
        let desk = self.machine.desk(NAME);
        let head = format!("refs/heads/{branch}");
        let tip = self.tip(branch).unwrap_or_else(|| self.tip("main").unwrap());
        self.machine.git(&desk, &["checkout", "--quiet", "--detach", &tip]);
        for (path, content) in files {
            let file = desk.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        self.machine.git(&desk, &["add", "--all"]);
        self.machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        self.set(&head, "HEAD");
        self.machine.git(&desk, &["rev-parse", "HEAD"])
    }

    /// Lets `name`, a full one, be `revision` on the server, whatever it was before. The next tick
    /// believes it.
    pub fn set(&self, name: &str, revision: &str) {
        let desk = self.machine.desk(NAME);
        let url = self.machine.server(NAME);
        let refspec = format!("+{revision}:{name}");
        self.machine.git(&desk, &["push", "--quiet", text(&url), &refspec]);
        self.machine.answered_twice(NAME, name);
    }

    /// Deletes `name`, a full one, on the server. The next tick believes it.
    pub fn delete(&self, name: &str) {
        self.machine.git(&self.machine.server(NAME), &["update-ref", "-d", name]);
        self.machine.answered_twice(NAME, name);
    }

    /// Where `branch` is on the server.
    pub fn tip(&self, branch: &str) -> Option<String> {
        let mut git = self.machine.command("git");
        let name = format!("refs/heads/{branch}^{{commit}}");
        git.current_dir(self.machine.server(NAME)).args([
            "rev-parse",
            "--quiet",
            "--verify",
            &name,
        ]);
        let ran = Ran::of(&mut git);
        (ran.code == Some(0)).then(|| ran.stdout.trim().to_owned())
    }

    /// What `status --json` says of the repository's refs.
    pub fn published(&self) -> Vec<Value> {
        self.machine.row(NAME)["published"].as_array().unwrap().clone()
    }

    /// What `status --json` says of `name`, a full one.
    #[track_caller]
    pub fn entry(&self, name: &str) -> Value {
        let all = self.published();
        let found = all.iter().find(|entry| entry["ref"] == name);
        found.unwrap_or_else(|| panic!("status does not know {name}: {all:#?}")).clone()
    }

    /// State and reason of `name`, a full one.
    #[track_caller]
    pub fn stands(&self, name: &str) -> (String, String) {
        let entry = self.entry(name);
        let word = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        (word("state"), word("reason"))
    }

    /// Sure that `name`, a full one, stands at `state` for a reason with `words`.
    #[track_caller]
    pub fn is(&self, name: &str, state: &str, words: &str) {
        let (found, reason) = self.stands(name);
        assert!(found == state && reason.contains(words), "{name} is {found}: {reason}");
    }

    /// Lets the time pass that the failed attempt at `name`, a full one, has to wait.
    #[track_caller]
    pub fn wait_is_over(&self, name: &str) {
        let file = self.machine.private(NAME, "published");
        let mut book: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let next = next_try(&mut book, name);
        assert!(next.as_ref().is_some_and(|next| next.is_string()), "{name} does not wait");
        *next.unwrap() = "2020-01-01T00:00:00Z".into();
        fs::write(file, book.to_string()).unwrap();
    }

    /// What is on the disk below `directory`: names and contents, and what links say.
    pub fn snapshot(&self, dir: &Path) -> Vec<(PathBuf, String)> {
        let read = |path: &Path| match fs::read_link(path) {
            Ok(link) => format!("-> {}", link.display()),
            Err(_) => String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned(),
        };
        let files = self.machine.files_below(dir).into_iter();
        files.map(|file| (file.clone(), read(&dir.join(file)))).collect()
    }
}

fn next_try<'a>(book: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    // The record stands in an envelope that says its version.
    if book.get(name).is_none() {
        let inner = book.as_object_mut()?.values_mut().find(|value| value.get(name).is_some())?;
        return next_try(inner, name);
    }
    book.get_mut(name)?.get_mut("attempt")?.get_mut("next_try")
}

/// The full name of a branch.
pub fn branch(short: &str) -> String {
    format!("refs/heads/{short}")
}

/// The full name of a tag.
pub fn tag(short: &str) -> String {
    format!("refs/tags/{short}")
}
