//! Finds the JSON in a body that comes in pieces: the first field of a form, or the body itself. The
//! content type is ignored, because some clients label everything a form.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The beginning of a form with the JSON in its first field.
const FIELD: &[u8] = b"payload=";

/// The decoder of a body.
#[derive(Debug)]
pub enum FormField {
    /// The body so far is this much of [`FIELD`].
    Begun(usize),
    /// The body is the JSON itself.
    Plain,
    /// The value of the field; the last bytes may be the beginning of an escape.
    Field(Vec<u8>),
    /// What follows the field.
    Over,
}

impl FormField {
    /// The decoder at the start of a body.
    pub fn new() -> Self {
        Self::Begun(0)
    }

    /// The JSON in the next piece of the body.
    pub fn decode<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::Plain => Cow::Borrowed(piece),
            Self::Over => Cow::Borrowed(&[]),
            Self::Field(rest) => {
                rest.extend_from_slice(piece);
                let end = rest.iter().position(|&byte| byte == b'&');
                // An escape has three bytes: one that lacks some of them waits for the next piece.
                let escape = rest.iter().rev().take(2).position(|&byte| byte == b'%');
                let ready = end.unwrap_or(rest.len() - escape.map_or(0, |back| back + 1));
                let decoded = decoded(rest.get(..ready).unwrap_or_default());
                rest.drain(..ready);
                if end.is_some() {
                    *self = Self::Over;
                }
                Cow::Owned(decoded)
            }
            Self::Begun(length) => {
                let begun = *length;
                let same = |(one, other): &(&u8, &u8)| one == other;
                let left = FIELD.get(begun..).unwrap_or_default();
                let more = piece.iter().zip(left).take_while(same).count();
                let rest = piece.get(more..).unwrap_or_default();
                *length += more;
                if *length == FIELD.len() {
                    *self = Self::Field(Vec::new());
                    return self.decode(rest);
                }
                if rest.is_empty() {
                    return Cow::Borrowed(rest);
                }
                *self = Self::Plain;
                let start = FIELD.get(..begun).unwrap_or_default();
                if start.is_empty() { Cow::Borrowed(piece) } else { [start, piece].concat().into() }
            }
        }
    }
}

fn decoded(field: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> =
        field.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use crate::domain::bus::webhook::form_field::*;

    #[test]
    fn the_field_is_decoded_wherever_the_pieces_end() {
        for (body, json) in [
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("pay", ""),
            ("payroll={}", "payroll={}"),
            ("payload=%7B%22a%22%3A+1%7D&x=%41", "{\"a\": 1}"),
            ("payload=%7B%zz%41", "{%zzA"),
            ("payload=", ""),
            ("", ""),
        ] {
            for size in 1..=body.len().max(1) {
                let mut field = FormField::new();
                let pieces = body.as_bytes().chunks(size);
                let all: Vec<u8> = pieces.flat_map(|piece| field.decode(piece).to_vec()).collect();
                assert_eq!(String::from_utf8(all).unwrap(), json, "{body} by {size}");
            }
        }
    }
}
