//! Polling without XHR: answers that are scripts, requests that are forms. For old browsers, over
//! either revision of Engine.IO.
//!
//! Only the wrapping is here: inside are the text payloads of [`super::engineio`] or
//! [`super::engineio_v3`], binary messages as base64.

use percent_encoding::percent_decode;
use thiserror::Error;

// === Answers ===

/// Which of the page's functions is called with an answer: the `j` of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(u32);

impl Index {
    /// The digits of `j`, whatever else is in it: nothing of the client's gets into the script but a
    /// number. `None` if they are none, or too large for a count.
    pub fn parse(j: &str) -> Option<Self> {
        let digits: String = j.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok().map(Self)
    }
}

/// Appends the answer with that payload, the text of a polling answer: a script that hands it to the
/// page. It is at most six times as long.
pub fn write_answer(out: &mut Vec<u8>, index: Index, payload: &str) {
    out.extend_from_slice(b"___eio[");
    out.extend_from_slice(itoa::Buffer::new().format(index.0).as_bytes());
    out.extend_from_slice(b"](");
    let mut json = serde_json::to_string(payload).expect("a string can be written to memory");
    // They may stand in JSON, but in a script of an old browser they end the line.
    for (character, escape) in [('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")] {
        if json.contains(character) {
            json = json.replace(character, escape);
        }
    }
    out.extend_from_slice(json.as_bytes());
    out.extend_from_slice(b");");
}

/// The content type of an answer.
pub const CONTENT_TYPE: &str = "text/javascript; charset=UTF-8";

// === Requests ===

/// Why a request has no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormError {
    #[error("the form has no field d")]
    MissingField,
}

/// The payload in a request's body, a form with the field `d`; never longer than the body. It is not
/// looked at, and need not be UTF-8.
///
/// Browsers change the line ends of a form, so clients write them as `\n`, and a `\n` that was there
/// before with its backslash doubled.
///
/// # Errors
/// [`FormError::MissingField`].
pub fn payload(body: &[u8]) -> Result<Vec<u8>, FormError> {
    let mut fields = body.split(|&byte| byte == b'&');
    let field = fields
        .find_map(|field| field.strip_prefix(b"d="))
        .ok_or(FormError::MissingField)?;
    let spaced: Vec<u8> = field
        .iter()
        .map(|&byte| if byte == b'+' { b' ' } else { byte })
        .collect();
    let mut payload: Vec<u8> = percent_decode(&spaced).collect();
    restore_line_ends(&mut payload);
    Ok(payload)
}

/// In place: what is restored is shorter than what stands for it.
fn restore_line_ends(text: &mut Vec<u8>) {
    let (mut read, mut written) = (0, 0);
    while read < text.len() {
        let (byte, taken) = match &text[read..] {
            // The backslash is kept; the `n` behind it is next.
            [b'\\', b'\\', b'n', ..] => (b'\\', 2),
            [b'\\', b'n', ..] => (b'\n', 2),
            [byte, ..] => (*byte, 1),
            [] => break,
        };
        text[written] = byte;
        written += 1;
        read += taken;
    }
    text.truncate(written);
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn answer(j: &str, payload: &str) -> String {
        let mut out = Vec::new();
        write_answer(&mut out, Index::parse(j).unwrap(), payload);
        String::from_utf8(out).unwrap()
    }

    fn text(body: &str) -> Result<String, FormError> {
        payload(body.as_bytes()).map(|payload| String::from_utf8(payload).unwrap())
    }

    #[test]
    fn an_answer_calls_the_page_with_a_string() {
        assert_eq!(answer("0", "1:6"), r#"___eio[0]("1:6");"#);
        assert_eq!(
            answer("12", "10:42[\"a\\n\"]\u{1e}\n"),
            r#"___eio[12]("10:42[\"a\\n\"]\u001e\n");"#
        );
        assert_eq!(
            answer("1", "a\u{2028}\u{2029}\u{2028}é😀</script>"),
            r#"___eio[1]("a\u2028\u2029\u2028é😀</script>");"#
        );
    }

    #[test]
    fn an_index_is_digits_whatever_the_client_sends() {
        assert_eq!(Index::parse("12"), Some(Index(12)));
        assert_eq!(Index::parse("a1](alert())//2"), Some(Index(12)));
        assert_eq!(Index::parse("007"), Some(Index(7)));
        assert_eq!(Index::parse("4294967295"), Some(Index(u32::MAX)));
        for none in [
            "",
            "x",
            "-",
            "4294967296",
            "99999999999999999999999999",
            "١",
        ] {
            assert_eq!(Index::parse(none), None, "{none}");
        }
    }

    #[test]
    fn line_ends_are_restored_and_backslashes_halved() {
        for (form, expected) in [
            ("d=2%3A4a", "2:4a"),
            ("d=a+b%2Bc", "a b+c"),
            (r"d=a%5Cnb", "a\nb"),
            (r"d=a\nb", "a\nb"),
            (r"d=a\\nb", r"a\nb"),
            (r"d=a\\\nb", r"a\\nb"),
            (r"d=a\\\\nb", r"a\\\nb"),
            (r"d=\\", r"\\"),
            (r"d=\\x\n\", "\\\\x\n\\"),
            ("d=%F0%9F%98%80", "😀"),
            ("d=", ""),
            ("a=1&d=x&d=y", "x"),
            ("d=%zz%4", "%zz%4"),
        ] {
            assert_eq!(text(form).as_deref(), Ok(expected), "{form}");
        }
        assert_eq!(payload(b"d=%FF\xFE"), Ok(vec![0xFF, 0xFE]));
    }

    #[test]
    fn a_form_without_the_field_has_no_payload() {
        for wrong in ["", "d", "D=a", "dd=a", "a=1", "&&", "a=1&e=d="] {
            assert_eq!(text(wrong), Err(FormError::MissingField), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn payloads_come_back_from_a_form(payload in "([\\\\n\n]|\\PC){0,40}") {
            // What clients do, and cannot undo where a line ends in a backslash; JSON has no such lines.
            prop_assume!(!payload.contains("\\\n"));
            let escaped = payload.replace("\\n", "\\\\n").replace('\n', "\\n");
            let form = format!("d={}", utf8_percent_encode(&escaped, NON_ALPHANUMERIC));
            prop_assert_eq!(text(&form), Ok(payload));
        }

        #[test]
        fn answers_are_scripts_of_one_line(payload in "(\\PC|[\u{2028}\u{2029}\\x00-\\x1f\"\\\\]){0,40}") {
            let answer = answer("3", &payload);
            let is_one_line = !answer.contains(['\n', '\r', '\u{2028}', '\u{2029}']);
            prop_assert!(is_one_line);
            prop_assert!(answer.len() <= 6 * payload.len() + "___eio[3](\"\");".len());
            let json = answer.strip_prefix("___eio[3](").and_then(|rest| rest.strip_suffix(");"));
            prop_assert_eq!(serde_json::from_str::<String>(json.unwrap()).unwrap(), payload);
        }
    }
}
