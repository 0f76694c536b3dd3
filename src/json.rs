//! JSON as it stands in a client's packet: where values end and what containers are made of. Nothing is decoded, copied
//! or modelled.
//!
//! Takes exactly what RFC 8259 calls JSON, except that an escape `\u` may name half a surrogate pair: what a string
//! decodes to is for those to judge who decode it. Time and memory are linear, whatever is nested: nothing recurses.

use std::borrow::Cow;

/// The text is not JSON of the kind asked for, or its reader has had enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the JSON that is due")]
pub struct NotJson;

// === Raw ===

/// A value as it stands, without blanks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a str,
    /// A string that says what stands between its quotes.
    is_plain: bool,
}

impl<'a> Raw<'a> {
    pub fn get(self) -> &'a str {
        self.text
    }

    /// Whether it is a string that says what stands between its quotes.
    pub fn is_plain(self) -> bool {
        self.is_plain
    }

    /// What a string stands for; `None` when it is none, or not Unicode.
    pub fn decode(self) -> Option<Cow<'a, str>> {
        if self.is_plain {
            return Some(Cow::Borrowed(&self.text[1..self.text.len() - 1]));
        }
        decode(self.text)
    }
}

/// For those who have the text of a value from elsewhere.
impl<'a> From<&'a str> for Raw<'a> {
    fn from(text: &'a str) -> Self {
        Self {
            text,
            is_plain: false,
        }
    }
}

/// What a raw string stands for; `None` when `raw` is no string, or not Unicode.
pub fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let text = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str(raw).ok().map(Cow::Owned)
}

// === Reading ===

/// The one value that `text` holds.
pub fn value(text: &str) -> Result<Raw<'_>, NotJson> {
    let mut scanner = Scanner::new(text);
    let value = scanner.value()?;
    scanner.end().map(|()| value)
}

/// Hands over the elements of the array that `text` holds, one after the other, to be taken and given back, until
/// `each` declines one. What was handed over means nothing when this fails.
pub fn elements<'a>(
    text: &'a str,
    mut each: impl FnMut(Element<'_, 'a>) -> Result<Raw<'a>, NotJson>,
) -> Result<(), NotJson> {
    let mut scanner = Scanner::new(text);
    scanner.expect(b'[')?;
    if !scanner.takes(b']') {
        loop {
            each(Element(&mut scanner))?;
            match scanner.next()? {
                b',' => {}
                b']' => break,
                _ => return Err(NotJson),
            }
        }
    }
    scanner.end()
}

/// An element of an array that is still to be read.
pub struct Element<'s, 'a>(&'s mut Scanner<'a>);

impl<'a> Element<'_, 'a> {
    pub fn take(self) -> Result<Raw<'a>, NotJson> {
        self.0.value()
    }

    /// Takes it and, when it is an object, hands over its members on the way.
    pub fn take_with(self, mut each: impl FnMut(Member<'a>)) -> Result<Raw<'a>, NotJson> {
        if !self.0.takes(b'{') {
            return self.0.value();
        }
        let start = self.0.at - 1;
        self.0.members(|member| {
            each(member);
            Ok(())
        })?;
        Ok(self.0.raw(start, false))
    }
}

/// Hands over the members of the object that `text` holds until `each` declines one. What was handed over means nothing
/// when this fails.
pub fn members<'a>(
    text: &'a str,
    each: impl FnMut(Member<'a>) -> Result<(), NotJson>,
) -> Result<(), NotJson> {
    let mut scanner = Scanner::new(text);
    scanner.expect(b'{')?;
    scanner.members(each)?;
    scanner.end()
}

// === Value ===

/// A member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// A string.
    pub name: Raw<'a>,
    pub value: Raw<'a>,
}

/// A value that was perhaps read already: then its members are known and need no second reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    text: &'a str,
    members: Option<&'a [Member<'a>]>,
}

impl<'a> Value<'a> {
    /// `members` are all those of `text`, which is an object.
    pub fn read(text: &'a str, members: &'a [Member<'a>]) -> Self {
        Self {
            text,
            members: Some(members),
        }
    }

    pub fn get(self) -> &'a str {
        self.text
    }

    /// As [`members`] of its text.
    pub fn members(
        self,
        mut each: impl FnMut(Member<'a>) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        match self.members {
            Some(members) => members.iter().copied().try_for_each(each),
            None => members(self.text, &mut each),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self {
            text,
            members: None,
        }
    }
}

// === Writing ===

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    if unusual(bytes, 0) < bytes.len() {
        serde_json::to_writer(out, text).expect("a string always serialises into memory");
        return;
    }
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    out.extend_from_slice(bytes);
    out.push(b'"');
}

// === Scanner ===

/// Goes through a text once, from its beginning to its end.
struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    /// Steps over blanks; the byte behind them, which is not taken.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Takes the next byte that is not blank.
    fn next(&mut self) -> Result<u8, NotJson> {
        let byte = self.peek().ok_or(NotJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        self.takes(byte).then_some(()).ok_or(NotJson)
    }

    fn end(mut self) -> Result<(), NotJson> {
        self.peek().is_none().then_some(()).ok_or(NotJson)
    }

    /// Takes a string.
    fn string(&mut self) -> Result<Raw<'a>, NotJson> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let is_plain = self.string_end()?;
        Ok(self.raw(start, is_plain))
    }

    fn value(&mut self) -> Result<Raw<'a>, NotJson> {
        let first = self.next()?;
        let start = self.at - 1;
        let mut is_plain = false;
        match first {
            b'"' => is_plain = self.string_end()?,
            b'[' | b'{' => self.container(first == b'{')?,
            scalar => self.scalar(scalar)?,
        }
        Ok(self.raw(start, is_plain))
    }

    /// Takes the rest of an object whose brace has been taken.
    fn members(
        &mut self,
        mut each: impl FnMut(Member<'a>) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        if self.takes(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            let value = self.value()?;
            each(Member { name, value })?;
            match self.next()? {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(NotJson),
            }
        }
    }

    /// From `start` up to here.
    fn raw(&self, start: usize, is_plain: bool) -> Raw<'a> {
        Raw {
            text: &self.text[start..self.at],
            is_plain,
        }
    }

    /// Takes the rest of an array or object whose beginning has been taken, with all that is in it.
    fn container(&mut self, is_object: bool) -> Result<(), NotJson> {
        let mut open = Open::new(is_object);
        let mut is_empty = true;
        loop {
            // Here a value, the name of a member, or the container's end may follow.
            let mut first = self.next()?;
            let closing = if open.is_object() { b'}' } else { b']' };
            if first != closing || !is_empty {
                if open.is_object() {
                    if first != b'"' {
                        return Err(NotJson);
                    }
                    self.string_end()?;
                    self.expect(b':')?;
                    first = self.next()?;
                }
                if matches!(first, b'[' | b'{') {
                    open.push(first == b'{');
                    is_empty = true;
                    continue;
                }
                self.scalar(first)?;
                first = self.next()?;
            }
            // Here a comma or the container's end follows, and after that end, the same of the one around it.
            loop {
                let closing = if open.is_object() { b'}' } else { b']' };
                if first == closing {
                    if !open.pop() {
                        return Ok(());
                    }
                    first = self.next()?;
                } else if first == b',' {
                    break;
                } else {
                    return Err(NotJson);
                }
            }
            is_empty = false;
        }
    }

    /// Takes the rest of a string, number or literal.
    fn scalar(&mut self, first: u8) -> Result<(), NotJson> {
        match first {
            b'"' => self.string_end().map(drop),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            _ => Err(NotJson),
        }
    }

    fn literal(&mut self, rest: &[u8]) -> Result<(), NotJson> {
        if !self.bytes[self.at..].starts_with(rest) {
            return Err(NotJson);
        }
        self.at += rest.len();
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<(), NotJson> {
        let first = match first {
            b'-' => {
                let digit = *self.bytes.get(self.at).ok_or(NotJson)?;
                self.at += 1;
                digit
            }
            digit => digit,
        };
        match first {
            b'0' if self.digits() > 0 => return Err(NotJson),
            b'0' => {}
            b'1'..=b'9' => drop(self.digits()),
            _ => return Err(NotJson),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(NotJson);
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(NotJson);
            }
        }
        Ok(())
    }

    /// How many digits it took.
    fn digits(&mut self) -> usize {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    /// Takes what follows a string's first quote, up to and with the last. Whether it is without escapes.
    fn string_end(&mut self) -> Result<bool, NotJson> {
        let mut is_plain = true;
        loop {
            self.at = unusual(self.bytes, self.at);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(is_plain);
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(NotJson),
            }
            is_plain = false;
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        let length = match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
                if !digits.is_some_and(is_hex) {
                    return Err(NotJson);
                }
                6
            }
            _ => return Err(NotJson),
        };
        self.at += length;
        Ok(())
    }
}

/// The containers that are open, a bit each: 1 for an object.
struct Open {
    /// The innermost, at most 64; the lowest bit is the last of them.
    inner: u64,
    /// Those around them, by 64.
    outer: Vec<u64>,
    depth: usize,
}

impl Open {
    fn new(is_object: bool) -> Self {
        Self {
            inner: u64::from(is_object),
            outer: Vec::new(),
            depth: 1,
        }
    }

    fn push(&mut self, is_object: bool) {
        if self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(is_object);
        self.depth += 1;
    }

    /// False when that was the outermost.
    fn pop(&mut self) -> bool {
        self.inner >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
        self.depth > 0
    }

    /// Whether the innermost is an object.
    fn is_object(&self) -> bool {
        self.inner & 1 == 1
    }
}

// === Eight bytes at a time ===

/// Where, from `at` on, the first byte stands that does not stand for itself in a string: a quote, a backslash, a
/// control character. The end, when there is none.
fn unusual(bytes: &[u8], at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut rest = &bytes[at..];
    while let Some((chunk, behind)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // In each byte the highest bit, set where a subtraction went below 0. Above the lowest such byte it may be set
        // falsely. With its second bit turned a quote, alone of those that are not control characters, is below 0x21.
        let quote_or_control = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let found = (quote_or_control | backslash) & !word & (ONES * 0x80);
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = behind;
    }
    let is_unusual = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    let found = rest.iter().position(is_unusual);
    bytes.len() - rest.len() + found.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
    use serde_json::value::RawValue;

    use super::*;

    /// The value as serde_json sees it.
    fn expected(text: &str) -> Option<&str> {
        let raw: Result<&RawValue, _> = serde_json::from_str(text);
        raw.ok().map(RawValue::get)
    }

    struct Parts;

    impl<'de> Visitor<'de> for Parts {
        type Value = Vec<&'de str>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a container")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut parts = Vec::new();
            while let Some(raw) = seq.next_element::<&RawValue>()? {
                parts.push(raw.get());
            }
            Ok(parts)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut parts = Vec::new();
            while let Some((name, raw)) = map.next_entry::<&RawValue, &RawValue>()? {
                parts.extend([name.get(), raw.get()]);
            }
            Ok(parts)
        }
    }

    fn expected_parts(text: &str, is_object: bool) -> Option<Vec<&str>> {
        let mut json = serde_json::Deserializer::from_str(text);
        let parts = match is_object {
            true => json.deserialize_map(Parts),
            false => json.deserialize_seq(Parts),
        };
        parts.and_then(|parts| json.end().map(|()| parts)).ok()
    }

    fn parts(text: &str, is_object: bool) -> Option<Vec<&str>> {
        let mut parts = Vec::new();
        let read = match is_object {
            true => members(text, |Member { name, value }| {
                assert_eq!(name.decode(), decode(name.get()));
                parts.extend([name.get(), value.get()]);
                Ok(())
            }),
            false => elements(text, |element| {
                let value = element.take()?;
                assert_eq!(value.decode(), decode(value.get()));
                parts.push(value.get());
                Ok(value)
            }),
        };
        read.ok().map(|()| parts)
    }

    /// The elements again, and of those that are objects the members as they come on the way and as they come later.
    fn assert_same_on_the_way(text: &str) {
        let (mut plain, mut with) = (Vec::new(), Vec::new());
        let read = elements(text, |element| {
            let value = element.take()?;
            plain.push(value);
            Ok(value)
        });
        let read_with = elements(text, |element| {
            let mut on_the_way = Vec::new();
            let value = element.take_with(|member| on_the_way.push(member))?;
            with.push(value);
            let mut later = Vec::new();
            let read = members(value.get(), |member| {
                later.push(member);
                Ok(())
            });
            assert_eq!(read.is_ok(), value.get().starts_with('{'), "{text}");
            assert_eq!(on_the_way, later, "{text}");
            Ok(value)
        });
        assert_eq!(read, read_with, "{text}");
        assert_eq!(read.map(|()| plain), read_with.map(|()| with), "{text}");
    }

    fn assert_same(text: &str) {
        assert_same_on_the_way(text);
        assert_eq!(value(text).ok().map(Raw::get), expected(text), "{text}");
        for is_object in [false, true] {
            let (ours, theirs) = (parts(text, is_object), expected_parts(text, is_object));
            assert_eq!(ours, theirs, "{text}");
        }
    }

    #[test]
    fn strings_are_decoded_and_nothing_else() {
        assert_eq!(decode(r#""a\u0022\/é""#).as_deref(), Some("a\"/é"));
        assert!(matches!(decode(r#""a b""#), Some(Cow::Borrowed("a b"))));
        for raw in [r#""\ud800""#, "1", "", "\"", "null", "[\"a\"]"] {
            assert_eq!(decode(raw), None, "{raw}");
        }
    }

    #[test]
    fn what_is_json_and_what_is_not() {
        let texts = [
            "",
            " ",
            "null",
            "nul",
            "nullx",
            "true",
            "fals",
            "falsey",
            "0",
            "-0",
            "00",
            "01",
            "-",
            "1.",
            "1.5",
            ".5",
            "1e",
            "1e5",
            "1E+5",
            "1e-",
            "1e400",
            "1.5e3x",
            "12345678901234567890123",
            "+1",
            "NaN",
            r#""""#,
            r#"""#,
            r#""a"b"#,
            r#""\"#,
            r#""\""#,
            r#""\\""#,
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u12""#,
            r#""\ud800""#,
            r#""\/\b\f\n\r\t""#,
            "\"\u{1f}\"",
            "\"\u{7f}é\u{2028}\"",
            "\"1234567\u{0}\"",
            "[",
            "]",
            "[]",
            "[ ]",
            "[,]",
            "[1,]",
            "[1 2]",
            "[1]2",
            "[1}",
            "{}",
            "{ }",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            r#"{a:1}"#,
            r#"{1:1}"#,
            r#" { "a" : [ { } , [ ] , "x" ] , "a" : -1.5e+3 } "#,
            r#"[[[]],{"b":{"c":[{}]}}]"#,
            r#"[[]"#,
            r#"{"a":{}"#,
            "[{]}",
            "\u{a0}1",
            "[\n1\t,\r2 ]",
        ];
        texts.into_iter().for_each(assert_same);
    }

    #[test]
    fn nesting_costs_no_stack_and_is_told_apart_at_every_depth() {
        for depth in [1, 2, 63, 64, 65, 255, 256, 257, 100_000] {
            let open: String = (0..depth)
                .map(|n| if n % 3 == 0 { "[" } else { r#"{"":"# })
                .collect();
            let close: String = (0..depth)
                .rev()
                .map(|n| if n % 3 == 0 { "]" } else { "}" })
                .collect();
            let text = format!("{open}1{close}");
            assert_eq!(value(&text).map(Raw::get), Ok(text.as_str()), "{depth}");
            let wrong = text.replace("1}", "1]").replace("1]", "1}");
            assert_eq!(
                value(&wrong).ok().map(Raw::get),
                expected(&wrong),
                "{depth}"
            );
            assert_eq!(value(&text[..text.len() - 1]), Err(NotJson), "{depth}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_what_serde_json_says(text in r#"[\[\]{}:, "\\ux0-9a-f.eE+\-tnrsl\n\x00\PC]{0,24}"#) {
            assert_same(&text);
        }

        #[test]
        fn json_with_one_byte_changed_is_what_serde_json_says(
            json in json(), at: prop::sample::Index, byte in prop::sample::select(b"\"\\[]{}:, 0e.-\x01a".to_vec()),
        ) {
            assert_same(&json);
            let mut changed = json.into_bytes();
            let at = at.index(changed.len());
            changed[at] = byte;
            if let Ok(changed) = String::from_utf8(changed) {
                assert_same(&changed);
            }
        }

        #[test]
        fn a_string_is_written_as_serde_json_writes_it(text in r#"[a-z"\\\x00-\x20\x7f\PC]{0,40}"#) {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
        }

        #[test]
        fn the_first_unusual_byte_is_found_wherever_it_stands(
            bytes in prop::collection::vec(prop::sample::select(vec![b'a', b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff, 0x1f, 0, b'"', b'\\']), 0..40),
            from in 0usize..40,
        ) {
            let from = from.min(bytes.len());
            let plain = bytes[from..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | ..0x20)).count();
            prop_assert_eq!(unusual(&bytes, from), from + plain);
        }
    }

    fn json() -> impl Strategy<Value = String> {
        let text = r#"([a-z é]|\\u[0-9a-f]{4}|\\[nrt"\\/]){0,12}"#;
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?(e[+-]?[0-9]{1,2})?",
            text.prop_map(|text| format!("\"{text}\"")),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let member =
                (text, inner.clone()).prop_map(|(name, value)| format!("\"{name}\" :{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(" ,"))),
                prop::collection::vec(member, 0..4)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }
}
