//! The examples, with their paths under a temporary root, do what they say, as the users they name.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sandbox::{Ran, Sandbox, owner, set_mode, text};
use crate::users::give_all;

/// Who has no rights on any Debian.
const NOBODY: u32 = 65_534;

/// The machine has one list of users: those who change it do so one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ACCOUNTS: Mutex<()> = Mutex::new(());
    ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user of this machine, made here where it was missing, and taken away again at the end.
struct Account {
    name: &'static str,
    made: bool,
}

impl Account {
    fn of(name: &'static str) -> Self {
        let known = Ran::of(Command::new("id").arg(name)).code == Some(0);
        if !known {
            let mut add = Command::new("useradd");
            add.args(["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]);
            Ran::of(&mut add).ok();
        }
        Self { name, made: !known }
    }

    fn uid(&self) -> u32 {
        let id = Ran::of(Command::new("id").args(["-u", self.name])).ok();
        id.stdout.trim().parse().unwrap()
    }

    fn remove(&mut self) {
        if std::mem::take(&mut self.made) {
            Ran::of(Command::new("userdel").arg(self.name)).ok();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.made {
            let _ = Command::new("userdel").arg(self.name).status();
        }
    }
}

/// A machine that everybody may look into, with `directories` below it.
fn machine(dirs: &[&str]) -> Sandbox {
    let machine = Sandbox::new();
    for dir in ["", "root", "server"] {
        set_mode(&machine.path(dir), 0o755);
    }
    for dir in dirs {
        fs::create_dir_all(machine.path(dir)).unwrap();
    }
    fs::write(machine.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
    machine
}

/// Pushes `page` to `branch` of `name`; the revision. The server is `user`'s.
fn push(machine: &Sandbox, name: &str, branch: &str, page: &str, user: u32) -> String {
    let desk = machine.desk(name);
    fs::write(desk.join("page"), page).unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", page]);
    machine.git(&desk, &["push", "--quiet", "--force", "origin", &format!("HEAD:{branch}")]);
    give_all(&machine.server(name), user);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

/// Everything below `directory`, links and directories as well, is `user`'s.
#[track_caller]
fn assert_owned(dir: &Path, user: u32) {
    let mut all = vec![dir.to_owned()];
    while let Some(path) = all.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.uid(), user, "{}", path.display());
        if meta.is_dir() {
            all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

fn page(path: PathBuf) -> String {
    fs::read_to_string(path.join("page")).unwrap_or_default()
}

#[test]
fn the_configuration_of_the_predecessor_does_what_it_did_for_each_of_its_repositories() {
    let _alone = alone();
    let (rubyapps, www, puppet) =
        (Account::of("rubyapps"), Account::of("www-data"), Account::of("puppet"));
    let machine = machine(&["data/repos", "data/sites", "etc/puppet/environments"]);
    let (www_data, puppet_user) = (www.uid(), puppet.uid());
    lchown(machine.path("data/sites"), Some(www_data), None).unwrap();
    lchown(machine.path("etc/puppet/environments"), Some(puppet_user), None).unwrap();
    let repositories = [
        ("example-repo", "data/repos/example", rubyapps.uid()),
        ("spog", "data/repos/octopress-site", www_data),
        ("puppet-hieradata", "etc/puppet/hieradata", puppet_user),
        ("puppet-environments", "etc/puppet/puppet-environments", puppet_user),
    ];
    for (name, path, user) in repositories {
        let script = "touch ran\n";
        machine.serve(name, &[("page", "one"), ("bin/work/common/work.sh", script)]);
        let (server, clone) = (machine.server(name), machine.path(path));
        machine.git(&machine.path(""), &["clone", "--quiet", text(&server), text(&clone)]);
        give_all(&clone, user);
        give_all(&server, user);
    }
    let example = include_str!("../../../examples/stomp-git.toml");
    let root = text(&machine.path("")).trim_end_matches('/').to_owned();
    let moved = example
        .replace("\"/data/", &format!("\"{root}/data/"))
        .replace("\"/etc/puppet/", &format!("\"{root}/etc/puppet/"));
    machine.configure(&moved);
    machine.tick().ok();

    let mut tips = Vec::new();
    for (name, _, user) in repositories {
        tips.push(push(&machine, name, "main", "two", user));
    }
    push(&machine, "puppet-environments", "feature", "feature", puppet_user);
    machine.tick().ok();
    for ((name, path, user), tip) in repositories.iter().zip(&tips) {
        let clone = machine.path(path);
        assert_eq!(machine.state(name), "current");
        assert_eq!(machine.git(&clone, &["rev-parse", "refs/remotes/origin/main"]), *tip);
        // Nobody's scripts run, and only one of the clones has other files than before.
        assert!(!clone.join("ran").exists(), "{name}");
        let expected = if *name == "puppet-hieradata" { "two" } else { "one" };
        assert_eq!(page(clone.clone()), expected, "{name}");
        assert_owned(&clone, *user);
    }
    assert_eq!(page(machine.path("data/sites/www.my-octopress.co.uk")), "two");
    assert_owned(&machine.path("data/sites"), www_data);
    let environments = machine.path("etc/puppet/environments");
    assert_eq!(page(environments.join("main")), "two");
    assert_eq!(page(environments.join("feature")), "feature");
    assert_owned(&environments, puppet_user);

    let server = machine.server("puppet-environments");
    machine.git(&server, &["update-ref", "-d", "refs/heads/feature"]);
    machine.agent(&["tick", "puppet-environments"]).ok();
    assert!(environments.join("feature").symlink_metadata().is_err());
}

#[test]
fn a_user_who_is_removed_breaks_the_repository_and_what_is_shown_stays() {
    let _alone = alone();
    let mut account = Account::of("pmpy-guest");
    let machine = machine(&["sites"]);
    let user = account.uid();
    lchown(machine.path("sites"), Some(user), None).unwrap();
    machine.serve("site", &[("page", "one")]);
    machine.clone_to_root("site");
    give_all(&machine.clone_of("site"), user);
    give_all(&machine.server("site"), user);
    let target = machine.path("sites/site");
    machine.configure(&format!(
        "[repo.site]\nmode = \"checkout\"\nuser = \"pmpy-guest\"\ntarget = \"{}\"\n",
        text(&target)
    ));
    machine.tick().ok();
    assert_eq!((page(target.clone()), owner(&target.join("page"))), ("one".to_owned(), user));

    account.remove();
    push(&machine, "site", "main", "two", user);
    machine.tick().exits(1);
    let row = machine.row("site");
    assert_eq!(row["state"], "broken", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("pmpy-guest"), "{row:#}");
    assert_eq!(page(target), "one", "root does not do it instead");
    assert_owned(&machine.path("sites"), user);
}

#[test]
fn a_target_that_its_user_may_not_write_is_reported_with_the_remedy() {
    let _alone = alone();
    let machine = site_of_nobody();
    let target = machine.path("sites/site");
    machine
        .configure(&format!("[repo.site]\nmode = \"checkout\"\ntarget = \"{}\"\n", text(&target)));
    machine.tick().exits(1);
    let row = machine.row("site");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("let user 65534 write in"), "{row:#}");
    assert_eq!(fs::read_dir(machine.path("sites")).unwrap().count(), 0);

    lchown(machine.path("sites"), Some(NOBODY), None).unwrap();
    machine.agent(&["tick", "site"]).ok();
    assert_eq!((page(target), machine.state("site")), ("one".to_owned(), "current".to_owned()));

    // A store that is somebody else's is not used either.
    give_all(&machine.path("sites"), 0);
    push(&machine, "site", "main", "two", NOBODY);
    machine.tick().exits(1);
    let row = machine.row("site");
    assert!(row["reason"].as_str().unwrap().contains("belongs to user 0"), "{row:#}");
}

#[test]
fn a_missing_directory_above_a_target_is_made_by_its_user_or_reported_with_the_command() {
    let _alone = alone();
    let machine = site_of_nobody();
    let above = machine.path("sites/a/b");
    let target = above.join("site");
    machine
        .configure(&format!("[repo.site]\nmode = \"checkout\"\ntarget = \"{}\"\n", text(&target)));
    machine.tick().exits(1);
    let row = machine.row("site");
    let reason = row["reason"].as_str().unwrap();
    let missing =
        format!("the directory {} of the target is missing", text(&machine.path("sites/a")));
    assert!(reason.contains(&missing), "{row:#}");
    let check = machine.agent(&["check", "--offline"]).stdout;
    let command = format!("install -d -o nobody {}", text(&above));
    assert!(check.contains(&command), "{check}");

    lchown(machine.path("sites"), Some(NOBODY), None).unwrap();
    machine.agent(&["tick", "site"]).ok();
    assert_eq!(
        (page(target.clone()), machine.state("site")),
        ("one".to_owned(), "current".to_owned())
    );
    assert_eq!(fs::metadata(&above).unwrap().uid(), NOBODY);
    // As that user it also mends a store that was lost.
    fs::remove_dir_all(above.join(".site.pmpy")).unwrap();
    machine.tick().ok();
    assert_eq!(page(target), "one");
    assert_eq!(fs::metadata(above.join(".site.pmpy")).unwrap().uid(), NOBODY);
}

#[test]
fn a_directory_of_another_user_in_a_release_is_kept_with_the_release() {
    let _alone = alone();
    let machine = site_of_nobody();
    lchown(machine.path("sites"), Some(NOBODY), None).unwrap();
    let target = machine.path("sites/site");
    let keys = format!("mode = \"checkout\"\ntarget = \"{}\"\nkeep = 0", text(&target));
    machine.configure(&format!("[repo.site]\n{keys}\n"));
    machine.tick().ok();
    let first = fs::read_link(&target).unwrap();
    let first = first.file_name().unwrap().to_str().unwrap();
    fs::create_dir(target.join("uploads")).unwrap();
    fs::write(target.join("uploads/photo"), "photo").unwrap();
    give_all(&target.join("uploads"), 1);
    push(&machine, "site", "main", "two", NOBODY);
    machine.tick().ok();
    assert_eq!(page(target), "two");
    let left = machine.path("sites/.site.pmpy/.left");
    let kept = machine.files_below(&left);
    let photo = kept.iter().find(|it| it.ends_with("uploads/photo")).expect("it is kept");
    assert!(text(photo).starts_with(first), "{photo:?}");
    assert_eq!(fs::read_to_string(left.join(photo)).unwrap(), "photo");
}

/// A machine whose clone `site` belongs to [`NOBODY`], and the directory `sites`, which does not.
fn site_of_nobody() -> Sandbox {
    let machine = machine(&["sites"]);
    machine.serve("site", &[("page", "one")]);
    machine.clone_to_root("site");
    give_all(&machine.clone_of("site"), NOBODY);
    give_all(&machine.server("site"), NOBODY);
    machine
}

/// A machine with the example's repository `name` on its server, and the example laid over it:
/// below its own directory instead of `/`, from its own server, as `user`.
fn with_example(name: &str, example: &str, user: u32, branch: &str) -> Sandbox {
    let machine = machine(&["srv", "code", "clones"]);
    for dir in ["srv", "code", "clones"] {
        lchown(machine.path(dir), Some(user), None).unwrap();
    }
    let files = [("page", "one"), ("bin/validate", "[ \"$(cat page)\" != bad ]\n")];
    machine.serve(name, &files);
    push(&machine, name, branch, "one", user);
    let root = text(&machine.path("")).trim_end_matches('/').to_owned();
    let url = example.lines().find(|line| line.starts_with("url = ")).unwrap();
    let path = format!("path = \"{}\"", text(&machine.path("clones").join(name)));
    let moved = example
        .replace(url, &format!("url = \"{}\"\n{path}", text(&machine.server(name))))
        .replace("/srv/www/", &format!("{root}/srv/"))
        .replace("/srv/releases/", &format!("{root}/srv/"))
        .replace("/etc/puppetlabs/code/", &format!("{root}/code/"));
    machine.configure(&moved);
    machine
}

#[test]
fn the_example_of_a_site_publishes_a_branch_through_its_gate() {
    let _alone = alone();
    let www = Account::of("www-data");
    let example = include_str!("../../../examples/site/agent.toml");
    let machine = with_example("site", example, www.uid(), "main");
    machine.tick().ok();
    let site = machine.path("srv/site");
    assert_eq!((page(site.clone()), owner(&site.join("page"))), ("one".to_owned(), www.uid()));
    assert_eq!(owner(&machine.path("srv/site.published")), www.uid());
    push(&machine, "site", "main", "bad", www.uid());
    machine.tick().exits(1);
    assert_eq!(page(site.clone()), "one");
    push(&machine, "site", "main", "two", www.uid());
    machine.tick().ok();
    assert_eq!(page(site), "two");
}

#[test]
fn the_example_of_environments_publishes_branches_for_puppet() {
    let _alone = alone();
    let puppet = Account::of("puppet");
    let example = include_str!("../../../examples/publish-branches/agent.toml");
    let machine = with_example("environments", example, puppet.uid(), "production");
    for branch in ["feature/x", "wip/y"] {
        push(&machine, "environments", &format!("refs/heads/{branch}"), branch, puppet.uid());
    }
    machine.tick().ok();
    let environments = machine.path("code/environments");
    for (name, content) in
        [("production", "one"), ("production_next", "one"), ("feature_x", "feature/x")]
    {
        assert_eq!(page(environments.join(name)), content, "{name}");
    }
    assert_eq!(fs::read_dir(&environments).unwrap().count(), 4, "and the store");
    assert_owned(&environments, puppet.uid());
}

#[test]
fn the_example_of_releases_publishes_tags() {
    let _alone = alone();
    let www = Account::of("www-data");
    let example = include_str!("../../../examples/releases-by-tags/agent.toml");
    let machine = with_example("shop", example, www.uid(), "main");
    for tag in ["v1", "v2", "other"] {
        push(&machine, "shop", &format!("refs/tags/{tag}"), tag, www.uid());
    }
    machine.tick().ok();
    assert_eq!(page(machine.path("srv/shop/v1")), "v1");
    assert_eq!(page(machine.path("srv/shop/v2")), "v2");
    assert!(!machine.path("srv/shop/other").exists());
}
