//! Hundreds of clones, each with its own branch set-up, configuration and remote, compared with `git pull`
//! in a copy: the same revision, or a state that says why not; never another one.

use super::*;

/// How a clone of `server/same.git` is set up: git commands in it, words by spaces.
static SETUPS: [(&str, &[&str]); 15] = [
    ("default", &[]),
    ("production", &["checkout -q production"]),
    ("other-name", &["checkout -q -b live --track origin/production"]),
    ("local", &["checkout -q -b mine --no-track origin/production"]),
    ("same-name", &["checkout -q -b topic --no-track origin/topic"]),
    (
        "second-remote",
        &[
            "remote add backup URL",
            "fetch -q backup",
            "checkout -q -b live --track backup/production",
        ],
    ),
    ("own-branch", &["checkout -q -b live --track main"]),
    ("two-merges", &["config --add branch.main.merge refs/heads/production"]),
    ("a-tag", &["config branch.main.merge refs/tags/v1"]),
    (
        "one-refspec",
        &[
            "config remote.origin.fetch +refs/heads/production:refs/remotes/origin/production",
            "checkout -q -b live --no-track origin/production",
        ],
    ),
    ("no-merge", &["checkout -q production", "config --unset branch.production.merge"]),
    ("short-merge", &["checkout -q production", "config branch.production.merge production"]),
    ("no-refspec", &["checkout -q production", "config --unset remote.origin.fetch"]),
    ("renamed-remote", &["remote rename origin upstream"]),
    ("an-address", &["checkout -q production", "config branch.production.remote URL"]),
];

/// Set-ups in which `git pull` refuses for want of an upstream, and the branch of the same name.
const SAME_NAME: [(&str, &str); 2] = [("same-name", "topic"), ("no-merge", "production")];

/// What became of the remote since, and whether the clone has a commit of its own.
const REMOTES: [(&str, bool); 9] = [
    ("ahead", false),
    ("gone", false),
    ("rewound", false),
    ("forced", false),
    ("head", false),
    ("empty", false),
    ("missing", false),
    ("same", true),
    ("ahead", true),
];

/// How the clone's configuration is changed besides.
const CONFIGURATIONS: [&str; 4] = ["plain", "relative", "two-urls", "rebase"];

/// The servers of [`REMOTES`], each made from `same`.
fn serve(machine: &Sandbox) {
    machine.serve("same", &[("page", "one\n")]);
    let (desk, same) = (machine.desk("same"), machine.server("same"));
    let first = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.git(&desk, &["tag", "v1"]);
    for branch in ["main", "production", "topic"] {
        machine.git(&desk, &["checkout", "--quiet", "--detach", &first]);
        fs::write(desk.join(branch), "new\n").unwrap();
        machine.git(&desk, &["add", "--all"]);
        machine.git(&desk, &["commit", "--quiet", "--message", branch]);
        machine
            .git(&desk, &["push", "--quiet", "origin", "v1", &format!("HEAD:refs/heads/{branch}")]);
    }
    let commit = |server: &Path, parent: &str, branch: &str| {
        let tree = format!("refs/heads/{branch}^{{tree}}");
        machine.git(server, &["commit-tree", &tree, "-p", parent, "-m", "more"])
    };
    for name in ["ahead", "gone", "rewound", "forced", "head"] {
        let server = machine.server(name);
        copy(&same, &server);
        for branch in ["main", "production", "topic"] {
            let full = format!("refs/heads/{branch}");
            let tip = match name {
                "gone" if branch == "main" => continue,
                "gone" => {
                    machine.git(&server, &["update-ref", "-d", &full]);
                    continue;
                }
                "rewound" => first.clone(),
                "forced" => commit(&server, &first, branch),
                _ => commit(&server, &full, branch),
            };
            machine.git(&server, &["update-ref", &full, &tip]);
        }
    }
    machine.git(&machine.server("head"), &["symbolic-ref", "HEAD", "refs/heads/production"]);
    machine.git(&machine.path(""), &["init", "--quiet", "--bare", text(&machine.server("empty"))]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// One clone, in the root and as a copy for `git pull`.
struct Member {
    name: String,
    setup: &'static str,
    /// Where HEAD and its branch were.
    before: (String, String),
    /// Where HEAD is after `git pull` in the copy.
    pulled: String,
}

/// HEAD of the clone at `path`: its commit and its branch.
fn head(path: &Path) -> (String, String) {
    let head = fs::read_to_string(path.join(".git/HEAD")).unwrap();
    let branch = head.trim().strip_prefix("ref: ").unwrap().to_owned();
    (fs::read_to_string(path.join(".git").join(&branch)).unwrap().trim().to_owned(), branch)
}

/// Makes the clones of one set-up, and pulls in their copies.
fn members(machine: &Sandbox, setup: &'static str, commands: &[&str]) -> Vec<Member> {
    let (template, same) = (machine.path(&format!("templates/{setup}")), machine.server("same"));
    let dir = machine.path("");
    machine.git(&dir, &["clone", "--quiet", "--template=", text(&same), text(&template)]);
    for line in commands {
        let words: Vec<_> =
            line.split(' ').map(|it| if it == "URL" { text(&same) } else { it }).collect();
        machine.git(&template, &words);
    }
    let own = machine.path(&format!("templates/{setup}-own"));
    copy(&template, &own);
    machine.git(&own, &["commit", "--quiet", "--allow-empty", "--message", "Of its own"]);
    let mut members = Vec::new();
    for (remote, has_own) in REMOTES {
        for configuration in CONFIGURATIONS {
            let own_word = if has_own { "-own" } else { "" };
            let name = format!("{setup}-{remote}{own_word}-{configuration}");
            let (clone, pull) = (machine.clone_of(&name), machine.path(&format!("pull/{name}")));
            copy(if has_own { &own } else { &template }, &clone);
            let config = clone.join(".git/config");
            let mut text_of = fs::read_to_string(&config).unwrap();
            text_of = text_of.replace("/same.git", &format!("/{remote}.git"));
            match configuration {
                "relative" => {
                    text_of = text_of.replace(text(&machine.path("server")), "../../server")
                }
                "two-urls" => {
                    let of = if setup == "renamed-remote" { "upstream" } else { "origin" };
                    text_of += &format!(
                        "[remote \"{of}\"]\n\turl = {}\n",
                        text(&machine.path("server/same.git"))
                    );
                }
                "rebase" => text_of += "[pull]\n\trebase = true\n",
                _ => {}
            }
            fs::write(&config, text_of).unwrap();
            copy(&clone, &pull);
            let before = head(&clone);
            // Whether it succeeds does not matter, only where it leads.
            Ran::of(machine.command("git").current_dir(&pull).args(["pull", "--quiet"]));
            members.push(Member { name, setup, before, pulled: head(&pull).0 });
        }
    }
    members
}

/// What is wrong with a member whose row in the status is `row`; `None`: nothing.
fn fault(machine: &Sandbox, member: &Member, row: &Value) -> Option<String> {
    let (ours, branch) = head(&machine.clone_of(&member.name));
    let (state, reason) = (row["state"].as_str().unwrap(), row["reason"].as_str());
    let reported = format!("{} is {state}: {}", member.name, reason.unwrap_or_default());
    if branch != member.before.1 {
        return Some(format!("{reported}; HEAD went from {} to {branch}", member.before.1));
    }
    if ours == member.pulled {
        return None;
    }
    let same_name = SAME_NAME.iter().find(|(setup, _)| *setup == member.setup);
    if let Some((_, branch)) = same_name {
        let remote = row["remote"].as_str().unwrap();
        let tip = fs::read_to_string(Path::new(remote).join("refs/heads").join(branch));
        return (tip.unwrap_or_default().trim() != ours)
            .then(|| format!("{reported}; not its name's"));
    }
    if ours != member.before.0 {
        return Some(format!("{reported}; it is at {ours}, and git pull at {}", member.pulled));
    }
    let says_why = !matches!(state, "current" | "ahead" | "new" | "behind") || reason.is_some();
    (!says_why).then(|| format!("{reported}; git pull is at {}", member.pulled))
}

#[test]
fn clones_that_git_made_are_pulled_as_git_pulls_them() {
    let machine = Sandbox::new();
    serve(&machine);
    fs::create_dir(machine.path("templates")).unwrap();
    fs::create_dir(machine.path("pull")).unwrap();
    machine.configure("[defaults]\nmode = \"in-place\"\n");
    let members: Vec<Member> = thread::scope(|scope| {
        let machine = &machine;
        let make = move |setups: &'static [(&str, &[&str])]| {
            scope.spawn(move || -> Vec<Member> {
                setups
                    .iter()
                    .flat_map(|(name, commands)| members(machine, name, commands))
                    .collect()
            })
        };
        let half = SETUPS.len() / 2;
        let halves = [make(&SETUPS[..half]), make(&SETUPS[half..])];
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    assert!(members.len() >= 500, "{}", members.len());
    machine.tick();
    let status = machine.status();
    let rows = status["repositories"].as_array().unwrap();
    let faults: Vec<String> = members
        .iter()
        .filter_map(|member| {
            let row = rows.iter().find(|row| row["name"] == *member.name).unwrap();
            fault(&machine, member, row)
        })
        .collect();
    let moved = members.iter().filter(|member| member.pulled != member.before.0).count();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), members.len(), faults.join("\n"));
    assert!(moved > members.len() / 8, "git pull moved only {moved}");
}
