//! What a person sees in a browser, with eyes, with a screen reader and with a keyboard alone.

use serde_json::json;

use super::browser::{Browser, Node};
use super::*;

/// Names of the nodes with this role.
fn named(tree: &[Node], role: &str) -> Vec<String> {
    tree.iter().filter(|node| node.role == role).map(|node| node.name.clone()).collect()
}

/// The page loads nothing but itself, and breaks no rule of its own.
#[track_caller]
fn assert_alone(browser: &Browser, url: &str) {
    let asked = browser.requests();
    assert!(!asked.is_empty() && asked.iter().all(|it| it == url), "{asked:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// No text is beyond the edge of a narrow window, nor of a wide one.
#[track_caller]
fn assert_fits(browser: &mut Browser) {
    for width in [400, 830, 1280] {
        browser.resize(width);
        let found = browser.evaluate("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(found <= u64::from(width), "{found} pixels in a window of {width}");
    }
}

/// The smallest contrast of text and its background, as WCAG counts it.
const CONTRAST: &str = "(() => {
    const luminance = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => {
        v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const back = e => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if (!/rgba\\(0, 0, 0, 0\\)|transparent/.test(c)) return c; }
        return 'rgb(255, 255, 255)'; };
    let least = 99;
    for (const e of document.querySelectorAll('body *:not(svg *):not(script)')) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const [a, b] = [luminance(getComputedStyle(e).color), luminance(back(e))].sort((x, y) => y - x);
        least = Math.min(least, (a + 0.05) / (b + 0.05));
    }
    return least; })()";

#[test]
fn the_page_of_a_machine_is_readable_for_everybody() {
    let machine = busy_machine();
    let status = Status::on(&machine);
    let (_listener, web) = listener(&machine, &status);
    let mut browser = Browser::start(&machine);
    let url = url(&web, "/");
    browser.open(&url);
    assert_alone(&browser, &url);
    let shown = browser.text();
    for words in
        ["db", "failing", "held by ann: migration of the mail store", "exited 3", "4 repositories"]
    {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
    let tree = browser.tree();
    let headings = named(&tree, "heading");
    assert_eq!(headings[1..], ["Repositories", "The last day", "Last actions"]);
    let tables = named(&tree, "table");
    assert_eq!(
        tables,
        ["Each repository, the worst first", "What was done here, the newest first"]
    );
    assert_eq!(named(&tree, "rowheader")[0].split(' ').next(), Some("db"), "{tree:?}");
    let pictures = named(&tree, "image");
    assert!(
        pictures.iter().any(|name| name.contains("db: ") && name.contains("exited 3")),
        "{pictures:?}"
    );
    assert!(named(&tree, "link").contains(&"Fleet".to_owned()), "{tree:?}");
    assert_eq!(browser.evaluate("document.documentElement.lang"), "en");
    assert!(browser.evaluate("document.title").as_str().unwrap().contains("1 repository needs"));
    assert_fits(&mut browser);

    let mut colours = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        colours.push(browser.evaluate("getComputedStyle(document.body).backgroundColor"));
        let contrast = browser.evaluate(CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{scheme}: {contrast}");
    }
    assert_ne!(colours[0], colours[1]);

    let mut way = Vec::new();
    for _ in 0..5 {
        browser.press("Tab");
        way.push(browser.focus());
        let outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "the focus is visible: {way:?}");
    }
    assert_eq!(way, ["Skip to the content", "This machine", "Fleet", "status as JSON", "metrics"]);
    browser.open(&url);
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(browser.evaluate("document.activeElement.id"), "content");
}

#[test]
fn the_page_of_a_fleet_is_readable_for_everybody() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    fleet_in_a_rollout(&status, 24);
    let (_listener, web) = listener(&machine, &status);
    let mut browser = Browser::start(&machine);
    let url = url(&web, "/fleet");
    browser.open(&url);
    assert_alone(&browser, &url);
    let shown = browser.text();
    for words in [
        "24 machines",
        "main is 6b2c3d7 Release 42: new index",
        "12 of 24 machines run it; 8 to come, 2 held, 1 in need of a person, 1 silent.",
        "migration of the index",
        "work.sh exited with 1",
        "by its own clock",
    ] {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
    let tree = browser.tree();
    let headings = named(&tree, "heading");
    let expected = [
        "Fleet",
        "Rollouts",
        "ops",
        "site",
        "Machines to look at",
        "Holds",
        "Who runs what",
        "Machines on their way",
        "Machines as they should be",
    ];
    assert_eq!(headings, expected);
    let tables = named(&tree, "table");
    assert_eq!(
        tables[1..4],
        ["Who keeps which repository where it is", "ops", "site"],
        "{tables:?}"
    );
    assert!(named(&tree, "columnheader").contains(&"Revision".to_owned()));
    let pictures = named(&tree, "image");
    assert!(
        pictures.iter().any(|name| name.starts_with("12 of 24 machines run it")),
        "{pictures:?}"
    );
    assert_fits(&mut browser);
    browser.prefer("dark");
    let contrast = browser.evaluate(CONTRAST).as_f64().unwrap();
    assert!(contrast >= 4.5, "{contrast}");

    // The same as a file, by itself.
    let file = machine.path("fleet.html");
    machine.agent(&["fleet", "--html", text(&file)]).exits(1);
    let url = format!("file://{}", text(&file));
    browser.open(&url);
    assert_alone(&browser, &url);
    assert!(browser.text().contains("12 of 24 machines run it"));
    assert_eq!(named(&browser.tree(), "link"), ["Skip to the content"]);
}

#[test]
fn what_others_write_is_text_in_a_browser() {
    let evil = "<img src=http://127.0.0.1:9/x onerror=document.title='x'>\u{1b}[2J\u{202e}</style><script>x</script>";
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let mut said = row("failing", OLD);
    (said["name"], said["reason"], said["branch"]) = (json!(evil), json!(evil), json!(evil));
    said["acted"]["subject"] = json!(evil);
    said["holds"] = json!([{"by": evil, "reason": evil, "since": ago(Duration::hours(1))}]);
    let mut said = presence("web01", json!([said, {"name": "x", "state": evil}]));
    (said["agent"], said["part"]) = (json!(evil), json!(evil));
    status.publish("web01", &said);
    let (_listener, web) = listener(&machine, &status);
    let mut browser = Browser::start(&machine);
    let url = url(&web, "/fleet");
    browser.open(&url);
    assert_alone(&browser, &url);
    assert_eq!(browser.evaluate("document.querySelectorAll('img, script').length"), 0);
    let shown = browser.text();
    assert!(
        shown.contains("<img src=http://127.0.0.1:9/x") && shown.contains("\\u{202e}"),
        "{shown}"
    );
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
    assert_fits(&mut browser);
}
