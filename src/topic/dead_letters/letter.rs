//! One record that can never be taken, and how it is written down: as a record of another topic, or as a line.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::topic::{Entry, Record};

/// A record as it was read, and why it cannot be taken.
#[derive(Clone, Debug)]
pub struct Letter {
    entry: Entry,
    cause: Cause,
    /// Bytes of the value to keep, once the whole was too large for where letters go.
    value_bytes_max: Option<usize>,
}

/// Why a record can never be taken, in words for who has to look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is not what the topic carries.
    Unreadable(String),
    /// It was read, and refused for good by what comes next.
    Refused(String),
}

impl Cause {
    /// For metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Refused(_) => "refused",
        }
    }
}

/// One line, of at most 1 KiB and its label.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreadable(why) | Self::Refused(why)) = self;
        let end = why.floor_char_boundary(CAUSE_BYTES_MAX);
        let line: String = why[..end]
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        write!(f, "{}: {line}", self.label())
    }
}

impl Letter {
    pub fn new(entry: Entry, cause: Cause) -> Self {
        Self {
            entry,
            cause,
            value_bytes_max: None,
        }
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Makes it smaller: the beginning of its value, without other producers' headers. Each time half as much.
    pub fn cut(&mut self) {
        let half = |bytes| bytes / 2;
        self.value_bytes_max = Some(self.value_bytes_max.map_or(CUT_BYTES, half));
    }

    /// As a record of a topic for dead letters: what it was, and headers that say why it is there and whence.
    pub fn record(&self, origin: &str) -> Record {
        let Entry {
            position, record, ..
        } = &self.entry;
        let mut letter = Record::clone(record);
        if let Some(max) = self.value_bytes_max {
            letter.headers.clear();
            letter.value.truncate(max);
            letter.key.truncate(KEY_BYTES_MAX);
        }
        let mut put = |name, value: String| {
            let header = (Cow::Borrowed(name), Bytes::from(value));
            letter.headers.push(header);
        };
        put("dlq.cause", self.cause.to_string());
        put("dlq.topic", origin.to_owned());
        put("dlq.partition", position.partition.to_string());
        put("dlq.offset", position.offset.to_string());
        if self.entry.time_ms > 0 {
            put("dlq.time", self.entry.time_ms.to_string());
        }
        if letter.value.len() < record.value.len() {
            put("dlq.value_bytes", record.value.len().to_string());
        }
        letter
    }

    /// As a line of JSON, line feed included. What is not text is in base64, under a name that ends so.
    pub fn line(&self, origin: &str) -> Vec<u8> {
        let Entry {
            position,
            time_ms,
            record,
        } = &self.entry;
        let headers = record.headers.iter().map(|(name, value)| {
            let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
            put(&mut header, "value", value);
            Value::Object(header)
        });
        let headers: Vec<Value> = headers.collect();
        let mut line = Map::new();
        line.insert("cause".to_owned(), json!(self.cause.to_string()));
        line.insert("topic".to_owned(), json!(origin));
        line.insert("partition".to_owned(), json!(position.partition));
        line.insert("offset".to_owned(), json!(position.offset));
        line.insert("time".to_owned(), json!(time_ms));
        put(&mut line, "key", &record.key);
        put(&mut line, "value", &record.value);
        line.insert("headers".to_owned(), headers.into());
        let mut line = Value::Object(line).to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

fn put(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    use base64::Engine;
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            object.insert(format!("{name}_base64"), json!(text))
        }
    };
}

/// Longest cause, in bytes.
const CAUSE_BYTES_MAX: usize = 1 << 10;

/// What a cut letter keeps of a value, at first, and of a key.
const CUT_BYTES: usize = 64 << 10;
const KEY_BYTES_MAX: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::topic::Position;

    fn letter(value: &'static [u8], cause: Cause) -> Letter {
        let record = Record {
            key: Bytes::from_static(b"k"),
            headers: smallvec![("h".into(), Bytes::from_static(b"\xff"))],
            value: Bytes::from_static(value),
        };
        let position = Position {
            partition: 3,
            offset: 7,
        };
        let entry = Entry {
            position,
            time_ms: 5,
            record: record.into(),
        };
        Letter::new(entry, cause)
    }

    #[test]
    fn a_letter_is_the_record_with_cause_and_origin() {
        let letter = letter(b"{", Cause::Unreadable("no\nJSON".to_owned()));
        let record = letter.record("chat.messages");
        assert_eq!((&record.key[..], &record.value[..]), (&b"k"[..], &b"{"[..]));
        let header = |name| record.header(name).map(|value| &value[..]);
        assert_eq!(header("h"), Some(&b"\xff"[..]));
        assert_eq!(header("dlq.cause"), Some(&b"unreadable: no JSON"[..]));
        assert_eq!(header("dlq.topic"), Some(&b"chat.messages"[..]));
        assert_eq!(header("dlq.partition"), Some(&b"3"[..]));
        assert_eq!(header("dlq.offset"), Some(&b"7"[..]));
        assert_eq!(header("dlq.time"), Some(&b"5"[..]));
    }

    #[test]
    fn a_line_tells_the_same_and_what_is_no_text_in_base64() {
        let letter = letter(b"\xfe\x00", Cause::Refused("a\0b".to_owned()));
        let line = letter.line("chat.messages");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let line: Value = serde_json::from_slice(&line).unwrap();
        let expected = json!({
            "cause": "refused: a b", "topic": "chat.messages", "partition": 3, "offset": 7, "time": 5,
            "key": "k", "value_base64": "/gA=", "headers": [{"name": "h", "value_base64": "/w=="}],
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_cut_letter_says_what_it_was() {
        let mut letter = letter(&[b'x'; 100_000], Cause::Refused("é".repeat(1_000)));
        for kept in [65_536, 32_768] {
            letter.cut();
            let record = letter.record("t");
            assert_eq!(record.value.len(), kept);
            assert_eq!(record.header("dlq.value_bytes").unwrap(), "100000");
            assert_eq!(record.header("h"), None);
            let cause = record.header("dlq.cause").unwrap();
            assert_eq!(cause.len(), "refused: ".len() + 1_024);
        }
    }
}
