//! Picks a few strings out of a JSON object that comes in pieces, and skips the rest unread, so that the
//! memory it takes does not depend on the size of the object. What is skipped may hold any bytes: a commit
//! message in Latin-1 is no reason to miss a push. Does not know what the strings mean.

use std::collections::BTreeMap;

/// The longest picked string with its quotes and escapes, in bytes. A longer one is left out.
const LONGEST: usize = 8 << 10;
/// The limit of all picked strings and their pointers together, in bytes. What exceeds it is left out.
const ROOM: usize = 64 << 10;
/// The number of elements of an array that are looked at.
const MOST_ELEMENTS: usize = 100;

/// The picked strings, by their JSON pointers.
pub type PickedStrings = BTreeMap<String, String>;

/// The picker of strings, which is fed with the text piece by piece.
#[derive(Debug)]
pub struct JsonPicker {
    wanted: &'static [&'static str],
    picked: PickedStrings,
    /// The open objects and arrays on the way to wanted strings.
    open: Vec<OpenContainer>,
    /// The pointer of the value that is expected or read.
    at: String,
    state: PickerState,
    /// The string that is being read, with its quotes.
    text: Vec<u8>,
    room: usize,
}

#[derive(Debug)]
struct OpenContainer {
    /// The number of finished elements of an array; `None`: it is an object.
    elements: Option<usize>,
    /// The length of its own pointer.
    pointer: usize,
}

/// The part of the text that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PickerState {
    Value,
    /// A value, or the end of the empty array.
    FirstValue,
    Key,
    /// A key, or the end of the empty object.
    FirstKey,
    Colon,
    CommaOrEnd,
    /// The rest of a string that is a key or wanted.
    Text {
        is_key: bool,
        escaped: bool,
    },
    /// The rest of a value that is skipped, inside this many brackets.
    Skipped {
        depth: u64,
        in_string: bool,
        escaped: bool,
    },
    /// The rest of a number, `true`, `false` or `null`.
    Literal,
    /// White space after the object.
    Over,
    /// The text is no JSON object.
    Broken,
}

impl JsonPicker {
    /// Picks the strings at these JSON pointers, in which `*` stands for any element of an array.
    pub fn new(wanted: &'static [&'static str]) -> Self {
        Self {
            wanted,
            picked: PickedStrings::new(),
            open: Vec::new(),
            at: String::new(),
            state: PickerState::Value,
            text: Vec::new(),
            room: ROOM,
        }
    }

    /// Reads the next piece of the text.
    pub fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            self.state = self.after(byte);
        }
    }

    /// The picked strings after the last piece; `None`: the text is no JSON object.
    pub fn end(self) -> Option<PickedStrings> {
        (self.state == PickerState::Over).then_some(self.picked)
    }

    fn after(&mut self, byte: u8) -> PickerState {
        match self.state {
            PickerState::Skipped { depth, in_string, escaped } => {
                self.after_skipped(byte, depth, in_string, escaped)
            }
            PickerState::Text { is_key, escaped } => self.after_text(byte, is_key, escaped),
            PickerState::Literal => match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E' => PickerState::Literal,
                _ => {
                    self.state = self.value_ended();
                    self.after(byte)
                }
            },
            state if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => state,
            PickerState::Value => self.begin_value(byte),
            PickerState::FirstValue if byte == b']' => self.close(),
            PickerState::FirstValue => self.begin_value(byte),
            PickerState::FirstKey if byte == b'}' => self.close(),
            PickerState::Key | PickerState::FirstKey if byte == b'"' => self.begin_text(true),
            PickerState::Colon if byte == b':' => PickerState::Value,
            PickerState::CommaOrEnd => self.after_value(byte),
            _ => PickerState::Broken,
        }
    }

    fn begin_value(&mut self, byte: u8) -> PickerState {
        let skipped = |depth| PickerState::Skipped { depth, in_string: depth == 0, escaped: false };
        let within = self.open.last().and_then(|open| open.elements).unwrap_or_default();
        let fits = |pattern: &&&str| within < MOST_ELEMENTS && is_on_the_way(pattern, &self.at);
        let on_the_way = self.wanted.iter().find(fits);
        match byte {
            b'{' if on_the_way.is_some() => {
                self.open.push(OpenContainer { elements: None, pointer: self.at.len() });
                PickerState::FirstKey
            }
            _ if self.open.is_empty() => PickerState::Broken,
            b'[' if on_the_way.is_some() => {
                self.open.push(OpenContainer { elements: Some(0), pointer: self.at.len() });
                self.at += "/0";
                PickerState::FirstValue
            }
            b'{' | b'[' => skipped(1),
            b'"' => match self.wanted.iter().any(|pattern| is_at(pattern, &self.at)) {
                true if within < MOST_ELEMENTS => self.begin_text(false),
                _ => skipped(0),
            },
            b't' | b'f' | b'n' | b'-' | b'0'..=b'9' => PickerState::Literal,
            _ => PickerState::Broken,
        }
    }

    fn begin_text(&mut self, is_key: bool) -> PickerState {
        self.text.clear();
        self.text.push(b'"');
        PickerState::Text { is_key, escaped: false }
    }

    fn after_text(&mut self, byte: u8, is_key: bool, escaped: bool) -> PickerState {
        // One byte more than the limit shows that the string is too long.
        if self.text.len() <= LONGEST {
            self.text.push(byte);
        }
        match byte {
            b'"' if !escaped => {}
            _ => return PickerState::Text { is_key, escaped: byte == b'\\' && !escaped },
        }
        let is_whole = self.text.len() <= LONGEST;
        let text = serde_json::from_slice::<String>(&self.text).ok().filter(|_| is_whole);
        match (is_key, text) {
            (true, key) => {
                // A key with a slash could be taken for several; none of those wanted has one.
                let key = key.filter(|key| !key.contains(['/', '*'])).unwrap_or_default();
                self.at.push('/');
                self.at += &key;
                PickerState::Colon
            }
            (false, text) => {
                let text = text.unwrap_or_default();
                if let Some(left) = self.room.checked_sub(self.at.len() + text.len()) {
                    self.room = left;
                    self.picked.insert(self.at.clone(), text);
                }
                self.value_ended()
            }
        }
    }

    fn after_skipped(
        &mut self,
        byte: u8,
        depth: u64,
        in_string: bool,
        escaped: bool,
    ) -> PickerState {
        let (depth, in_string, escaped) = match byte {
            _ if escaped => (depth, true, false),
            b'\\' if in_string => (depth, true, true),
            b'"' => (depth, !in_string, false),
            b'{' | b'[' if !in_string => (depth + 1, false, false),
            b'}' | b']' if !in_string => (depth - 1, false, false),
            _ => (depth, in_string, false),
        };
        match (depth, in_string) {
            (0, false) => self.value_ended(),
            _ => PickerState::Skipped { depth, in_string, escaped },
        }
    }

    /// The state after a whole value, which is an element of the innermost container.
    fn value_ended(&mut self) -> PickerState {
        match self.open.last_mut() {
            Some(container) => {
                self.at.truncate(container.pointer);
                PickerState::CommaOrEnd
            }
            None => PickerState::Over,
        }
    }

    /// The state after `byte`, which follows a value in the innermost container.
    fn after_value(&mut self, byte: u8) -> PickerState {
        match (byte, self.open.last_mut()) {
            (b',', Some(OpenContainer { elements: Some(elements), .. })) => {
                *elements += 1;
                self.at += &format!("/{elements}");
                PickerState::Value
            }
            (b',', Some(_)) => PickerState::Key,
            (b'}', Some(OpenContainer { elements: None, .. }))
            | (b']', Some(OpenContainer { elements: Some(_), .. })) => self.close(),
            _ => PickerState::Broken,
        }
    }

    /// Ends the innermost container.
    fn close(&mut self) -> PickerState {
        if let Some(container) = self.open.pop() {
            self.at.truncate(container.pointer);
        }
        self.value_ended()
    }
}

/// Whether the pointer `at` is one that `pattern` means.
fn is_at(pattern: &str, at: &str) -> bool {
    pattern.split('/').count() == at.split('/').count() && is_on_the_way(pattern, at)
}

/// Whether the pointer `at` leads to one that `pattern` means, or is one.
fn is_on_the_way(pattern: &str, at: &str) -> bool {
    let mut parts = pattern.split('/');
    at.split('/').all(|step| parts.next().is_some_and(|part| part == "*" || part == step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::domain::bus::webhook::json_picker::*;

    const WANTED: &[&str] = &["/ref", "/repository", "/repository/name", "/changes/*/ref/id"];

    fn picked_in_pieces(text: &[u8], size: usize) -> Option<PickedStrings> {
        let mut picker = JsonPicker::new(WANTED);
        text.chunks(size).for_each(|piece| picker.feed(piece));
        picker.end()
    }

    fn picked(text: &[u8]) -> Option<PickedStrings> {
        let whole = picked_in_pieces(text, text.len().max(1));
        assert_eq!(picked_in_pieces(text, 1), whole);
        whole
    }

    fn strings(pairs: &[(&str, &str)]) -> Option<PickedStrings> {
        Some(pairs.iter().map(|&(at, text)| (at.to_owned(), text.to_owned())).collect())
    }

    #[test]
    fn wanted_strings_are_picked_and_all_else_is_skipped() {
        let text = br#" {"a":[1,{"ref":"x"},"]"],"ref":"caf\u00e9\"\\","n":-1.5E+3,"t":true,
            "repository":{"ref":"y","name":"spog","changes":[]},"e":{},"f":[],"s":"{\"ref",
            "changes":[{"ref":{"id":"one"}},7,{"ref":"no","ref":{"id":"two","x":null}}]} "#;
        let expected = [
            ("/ref", "caf\u{e9}\"\\"),
            ("/repository/name", "spog"),
            ("/changes/0/ref/id", "one"),
            ("/changes/2/ref/id", "two"),
        ];
        assert_eq!(picked(text), strings(&expected));
        assert_eq!(picked(br#"{"repository":"spog"}"#), strings(&[("/repository", "spog")]));
    }

    #[test]
    fn skipped_parts_may_hold_any_bytes() {
        let text =
            b"{\"m\":\"\xff\xfe\\\"\x01\n\\ud800\",\"o\":{\"\xe4\":[\"]\xfc\"]},\"ref\":\"a\"}";
        assert_eq!(picked(text), strings(&[("/ref", "a")]));
    }

    #[test]
    fn a_key_with_slashes_is_no_path() {
        assert_eq!(picked(br#"{"repository/name":"x","/":"y","*":"z"}"#), strings(&[]));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in [
            "",
            " ",
            "[]",
            "\"ref\"",
            "7",
            "{",
            "{}}",
            "{} x",
            "{\"ref\"}",
            "{\"ref\":}",
            "{,}",
            "{\"ref\":\"a\"",
            "{\"ref\":\"a\" \"b\":1}",
            "{\"a\":[1 2}",
            "{\"repository\":{]}",
            "{ref:1}",
            "{\"changes\":[}]}",
            "{\"a\":?}",
            "payload={}",
        ] {
            assert_eq!(picked(text.as_bytes()), None, "{text}");
        }
        assert_eq!(picked(b"{}"), strings(&[]));
    }

    #[test]
    fn memory_does_not_depend_on_what_comes() {
        let mut picker = JsonPicker::new(WANTED);
        let mut grown = 0;
        picker.feed(b"{\"repository\":{\"name\":\"spog\"},\"ref\":\"");
        let long = "x".repeat(1 << 20);
        for piece in [long.as_str(), "\",\"", long.as_str(), "\":", &"[".repeat(1 << 20)] {
            picker.feed(piece.as_bytes());
            grown = grown.max(picker.text.capacity() + picker.at.capacity());
        }
        picker.feed("]".repeat(1 << 20).as_bytes());
        picker.feed(b",\"changes\":[");
        for _ in 0..10_000 {
            let id = format!("{{\"ref\":{{\"id\":\"{}\"}}}},", &long[..4000]);
            picker.feed(id.as_bytes());
        }
        picker.feed(b"0]}");
        assert!(grown < 64 << 10, "{grown}");
        let picked = picker.end().unwrap();
        assert!(picked.values().map(String::len).sum::<usize>() < ROOM);
        assert_eq!(picked["/repository/name"], "spog");
        assert_eq!(picked["/ref"], "", "too long");
    }

    fn json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec!["ref", "repository", "name", "changes", "id", "x"]);
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| {
                    map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_picks_what_a_whole_parser_finds(value in json(), size in 1_usize..20) {
            let found = picked_in_pieces(value.to_string().as_bytes(), size);
            let expected = value.is_object().then(|| {
                let listed = (0..5).map(|at| format!("/changes/{at}/ref/id"));
                let pointers = ["/ref", "/repository", "/repository/name"].map(str::to_owned);
                let text = |at: String| Some((at.clone(), value.pointer(&at)?.as_str()?.to_owned()));
                // A pointer also leads into an object with numbers for keys; there are none here.
                pointers.into_iter().chain(listed).filter_map(text).collect::<PickedStrings>()
            });
            prop_assert_eq!(found, expected);
        }
    }
}
