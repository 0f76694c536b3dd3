//! Polling by scripts and forms: the `j` of a request, a line feed, the body of its form.
//!
//! A form's payload is what the rules applied one after the other make of it; an answer is one call with a number and a
//! string, which is the payload again.

use chat_svc::protocol::jsonp::{self, Index};

pub fn run(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    let (j, form) = data.split_at(end.unwrap_or(data.len()));
    let form = form.get(1..).unwrap_or_default();
    let index = str::from_utf8(j).ok().and_then(Index::parse);
    if let Ok(payload) = jsonp::payload(form) {
        assert!(payload.len() <= form.len());
        assert_eq!(payload, plainly(form));
        if let (Some(index), Ok(payload)) = (index, str::from_utf8(&payload)) {
            answer(index, payload);
        }
    }
    if let (Some(index), Ok(payload)) = (index, str::from_utf8(form)) {
        answer(index, payload);
    }
}

fn answer(index: Index, payload: &str) {
    let mut out = Vec::new();
    jsonp::write_answer(&mut out, index, payload);
    let script = String::from_utf8(out).expect("a script is text");
    assert!(!script.contains(['\n', '\r', '\u{2028}', '\u{2029}']));
    assert!(script.len() <= 6 * payload.len() + 32);
    let call = script
        .strip_prefix("___eio[")
        .and_then(|rest| rest.strip_suffix(");"));
    let (number, string) = call
        .and_then(|call| call.split_once("]("))
        .expect("it is a call");
    assert!(number.parse::<u32>().is_ok());
    let string: String = serde_json::from_str(string).expect("its argument is JSON");
    assert_eq!(string, payload);
}

/// The field's bytes, with the rules for line ends applied one after the other.
fn plainly(form: &[u8]) -> Vec<u8> {
    let field = form
        .split(|&byte| byte == b'&')
        .find(|field| field.starts_with(b"d="));
    let field = field.expect("there is a payload, so there is the field");
    let mut decoded = Vec::new();
    let mut rest = &field[2..];
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let hex = |digit: &u8| char::from(*digit).to_digit(16);
        match (byte, behind) {
            (b'%', [high, low, behind @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                let digits = [*high, *low].map(|digit| hex(&digit).expect("it is a digit"));
                decoded.push((digits[0] * 16 + digits[1]) as u8);
                rest = behind;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    let mut single = Vec::new();
    let mut rest = decoded.as_slice();
    while let Some(&byte) = rest.first() {
        let (written, taken): (&[u8], usize) = match rest {
            [b'\\', b'\\', b'n', ..] => (b"\\\\n", 3),
            [b'\\', b'n', ..] => (b"\n", 2),
            _ => (std::slice::from_ref(&byte), 1),
        };
        single.extend_from_slice(written);
        rest = &rest[taken..];
    }
    let mut halved = Vec::new();
    let mut rest = single.as_slice();
    while let Some(&byte) = rest.first() {
        if let Some(behind) = rest.strip_prefix(b"\\\\n") {
            halved.extend_from_slice(b"\\n");
            rest = behind;
        } else {
            halved.push(byte);
            rest = &rest[1..];
        }
    }
    halved
}
