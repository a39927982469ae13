//! A headless Chromium of Debian's, steered through two pipes by the DevTools protocol: JSON messages with a NUL
//! behind each. It resolves no name and reaches nothing but this machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::Running;

/// How long is waited for an answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A browser with one page. Dropping it ends all its processes.
pub struct Browser {
    input: File,
    output: Receiver<Value>,
    session: String,
    sent: u64,
    /// What it told since the last navigation.
    events: Vec<Value>,
    log: std::path::PathBuf,
    _running: Running,
}

/// A node of the accessibility tree, as a screen reader sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    pub role: String,
    pub name: String,
}

impl Browser {
    pub fn start(machine: &Sandbox) -> Self {
        let dir = machine.path("browser");
        fs::create_dir(&dir).unwrap();
        let (input, output, log) = (dir.join("in"), dir.join("out"), dir.join("log"));
        Ran::of(machine.command("mkfifo").args([text(&input), text(&output)])).ok();
        let found = Ran::of(machine.command("sh").args(["-c", "command -v chromium"]));
        assert_eq!(found.code, Some(0), "chromium is missing: tests/run tools installs it");
        let profile = format!("--user-data-dir={}", text(&dir.join("profile")));
        let arguments = [
            "-c",
            "exec chromium \"$@\" 3<browser/in 4>browser/out",
            "sh",
            "--headless",
            // The tests are root.
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--disable-breakpad",
            "--no-first-run",
            "--no-pings",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            &profile,
            "about:blank",
        ];
        let running = Running::start(machine, "sh", &arguments, &log);
        // In the order in which the shell opens them.
        let input = File::options().write(true).open(&input).unwrap();
        let output = read(File::open(&output).unwrap());
        let (session, sent, events) = (String::new(), 0, Vec::new());
        let mut browser = Self { input, output, session, sent, events, log, _running: running };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Network", "Accessibility", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the protocol.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let heard = self.hear();
            if heard["id"] == json!(self.sent) {
                assert!(heard["error"].is_null(), "{method}: {}", heard["error"]);
                return heard["result"].clone();
            }
            self.events.push(heard);
        }
    }

    #[track_caller]
    fn hear(&self) -> Value {
        self.output.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("{error}\n{}", fs::read_to_string(&self.log).unwrap_or_default())
        })
    }

    /// Opens `url`, and waits until it is loaded.
    #[track_caller]
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let went = self.call("Page.navigate", json!({"url": url}));
        assert!(went["errorText"].is_null(), "{url}: {went}");
        while !self.events.iter().any(|it| it["method"] == "Page.loadEventFired") {
            let heard = self.hear();
            self.events.push(heard);
        }
    }

    /// The URLs that were asked for since the last navigation began.
    pub fn requests(&self) -> Vec<String> {
        self.told("Network.requestWillBeSent", |it| &it["request"]["url"])
    }

    /// What the browser complains of since the last navigation began, such as a broken policy.
    pub fn complaints(&self) -> Vec<String> {
        self.told("Log.entryAdded", |it| &it["entry"]["text"])
    }

    fn told(&self, method: &str, pick: impl Fn(&Value) -> &Value) -> Vec<String> {
        let events = self.events.iter().filter(|it| it["method"] == method);
        events.map(|it| pick(&it["params"]).as_str().unwrap().to_owned()).collect()
    }

    /// The value of an expression in the page. The pages have no scripts; this is the tester's.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let found = self.call("Runtime.evaluate", asked);
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// The text that a person sees.
    pub fn text(&mut self) -> String {
        self.evaluate("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Makes the window so wide, in pixels.
    pub fn resize(&mut self, width: u32) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// The colours that the person prefers: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": feature}));
    }

    /// Presses the tabulator key, or Enter.
    pub fn press(&mut self, key: &str) {
        let number = match key {
            "Tab" => 9,
            "Enter" => 13,
            other => panic!("the key {other} is not known here"),
        };
        for kind in ["rawKeyDown", "char", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            if kind == "char" && text.is_empty() {
                continue;
            }
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": number, "nativeVirtualKeyCode": number,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The text of what has the focus.
    pub fn focus(&mut self) -> String {
        let text = self.evaluate("document.activeElement.innerText.trim()");
        text.as_str().unwrap().to_owned()
    }

    /// What a screen reader is told, from the top to the bottom.
    pub fn tree(&mut self) -> Vec<Node> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let heard = nodes.filter(|node| node["ignored"] != json!(true));
        heard.map(|node| Node { role: word(&node["role"]), name: word(&node["name"]) }).collect()
    }

    /// Writes a picture of the page's upper `height` pixels as PNG.
    pub fn picture(&mut self, width: u32, height: u32, file: &Path) {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let asked = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", asked);
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// The messages that come, read by a thread that ends with the browser.
fn read(output: File) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        loop {
            let mut message = Vec::new();
            if output.read_until(0, &mut message).unwrap_or_default() == 0 {
                return;
            }
            message.pop();
            let Ok(message) = serde_json::from_slice(&message) else { return };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}
