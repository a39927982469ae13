//! The tutorials of `docs/`, typed as they stand there, on any machine that has the agent and git.

use std::fs;
use std::path::Path;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Beside, wait_until};

/// The fenced blocks of `docs/PAGE` below its heading `title`, in their order.
pub fn blocks(page: &str, title: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let page = fs::read_to_string(&path).unwrap();
    let marked = format!("## {title}\n");
    let (_, section) =
        page.split_once(&marked).unwrap_or_else(|| panic!("{} has no {title}", path.display()));
    let section = section.split("\n## ").next().unwrap();
    let fenced = section.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap().1.to_owned()).collect()
}

/// Types `docs/first-server.md` on `machine`, from its first block to its last.
pub fn first_server(machine: &MachineCopy) {
    let page = include_str!("../../docs/first-server.md");
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let mut typed = Vec::new();
    for block in blocks {
        let ran = machine.sh(block);
        // The bad release, alone in its block.
        let fails = block == "agent tick ops\n";
        assert_eq!(ran.code, Some(i32::from(fails)), "{block}\n{ran}");
        typed.push(ran);
    }
    assert!(typed[3].stdout.contains("release 1 on "), "{}", typed[3]);
    assert!(typed[5].stdout.contains("release 2 on "), "{}", typed[5]);
    assert!(typed[7].stdout.contains("no such table: bonkles"), "{}", typed[7]);
    assert!(typed[8].stdout.contains("release 2 on "), "{}", typed[8]);
    assert!(typed[10].stdout.contains("database migration"), "{}", typed[10]);
    assert!(
        !machine.path("/root/gitrepo/ops").exists() && !machine.path("/etc/cron.d/pmpy").exists()
    );
}

/// Types `docs/tutorial-production.md` on `machine`; a bad release never reaches production there. `before_the_end` runs
/// while all is still there.
pub fn production(machine: &MachineCopy, before_the_end: impl Fn()) {
    let page = include_str!("../../docs/tutorial-production.md");
    let mut beside = None;
    let mut typed = Vec::new();
    for block in page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()) {
        let block = block.replace("--stable 10s", "--stable 1s");
        if block.starts_with("while sleep") {
            beside = Some(in_the_second_terminal(machine, &block));
            continue;
        }
        if block.starts_with("rm ") {
            before_the_end();
            beside = None;
        }
        match typed.len() {
            4 => wait_until("all three have published", || {
                let refs = "git -C /srv/git/status.git for-each-ref";
                machine.sh(refs).ok().stdout.lines().count() == 3
            }),
            7 => wait_until("the machines have what was promoted", || {
                let page = |name| machine.read(&format!("/srv/machines/{name}/srv/www/index.html"));
                ["web1", "web2"].into_iter().all(|name| page(name).contains("release 2"))
            }),
            _ => {}
        }
        let ran = machine.sh(&block);
        // The bad release, alone in its block.
        let fails = block.starts_with("promote");
        assert_eq!(ran.code, Some(i32::from(fails)), "{block}\n{ran}");
        typed.push(ran.stdout);
    }
    assert!(beside.is_none());
    assert!(typed[4].contains("ops: production is "), "{}", typed[4]);
    assert!(typed[4].contains("current  3  canary web1 web2\n"), "{}", typed[4]);
    assert!(typed[9].contains("canary: rolled-back: "), "{}", typed[9]);
    for (at, wrong) in [(7, "release 1"), (10, "bonkles")] {
        assert_eq!(typed[at].matches("Welcome to release 2").count(), 3, "{}", typed[at]);
        assert!(!typed[at].contains(wrong), "{}", typed[at]);
    }
    assert!(!typed[10].contains("Release 3"), "{}", typed[10]);
    assert!(!machine.path("/srv/machines").exists());
}

/// What the reader lets run beside, as the first process of a namespace, with which all ends that it started. A
/// machine publishes once a minute; here a second is one.
fn in_the_second_terminal(machine: &MachineCopy, block: &str) -> Beside {
    let pause_is_over = r#"cd /srv/machines/$machine/var/lib/pmpy
        flock presence.lock sed -i 's/"tried": "[^"]*"/"tried": "2020-01-01T00:00:00Z"/' presence.json; cd /;"#;
    let block = block
        .replace("sleep 10", "sleep 1")
        .replace("; do on", &format!("; do {pause_is_over} on"));
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    Beside::start(&mut machine.command(&[&namespace[..], &["sh", "-c", &block]].concat()))
}
