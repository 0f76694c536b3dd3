//! What a client asks to be written: parsed once at the door, valid for good afterwards.
//!
//! Ids are decoded; the text is kept as the JSON it came in, so that what was sent is what is stored. Sealing a draft
//! writes the message's JSON, once.

use std::borrow::Cow;

use crate::chat::id::{ConversationId, ID_BYTES_MAX, MessageId};
use crate::chat::message::{LOG_ENDING, Sealed, push_timestamp};
use crate::chat::rejection::Rejection;
use crate::json::{self, Member, NotJson, Raw, Value};

/// Longest `attachment_url`, in bytes.
pub const ATTACHMENT_URL_BYTES_MAX: usize = 8 * 1024;

/// Longest attachment file name or media type, in bytes.
pub const ATTACHMENT_FIELD_BYTES_MAX: usize = 1024;

// === Draft ===

/// A message that may be written: it has a sender, a receiver, and text or an attachment, all within their limits.
/// What is borrowed stands so between the quotes of a client's JSON, without escapes.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    sender: Cow<'a, str>,
    receiver: Cow<'a, str>,
    conversation: Cow<'a, str>,
    /// JSON string, quotes included.
    text: Cow<'a, str>,
    attachment_url: Option<Cow<'a, str>>,
    attachment_filename: Option<Cow<'a, str>>,
    attachment_mimetype: Option<Cow<'a, str>>,
    client_message_id: Option<Cow<'a, str>>,
}

/// Why there is no draft, and the `client_message_id` to answer with, when that much could be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub rejection: Rejection,
    pub client_message_id: Option<String>,
}

/// An upload: what the form said and what became of the file.
#[derive(Debug)]
pub struct Attachment {
    pub sender: String,
    pub receiver: String,
    pub conversation: String,
    pub text: Option<String>,
    pub client_message_id: Option<String>,
    pub url: String,
    pub filename: String,
    pub mimetype: String,
}

impl<'a> Draft<'a> {
    /// Reads the argument of a `chatMessage` event. Unknown and server-made fields are ignored; of a repeated field the
    /// last counts; `null` and `""` mean missing.
    pub fn parse(json: &'a str) -> Result<Self, Refused> {
        Self::read(json.into())
    }

    /// As [`Draft::parse`], of an argument whose members may be known already.
    pub fn read(json: Value<'a>) -> Result<Self, Refused> {
        let refuse = |rejection| Refused {
            rejection,
            client_message_id: None,
        };
        let fields = Fields::read(json)
            .map_err(|NotJson| refuse(Rejection::Invalid("the message must be an object")))?;
        let client_message_id =
            id(fields.client_message_id, "client_message_id").map_err(refuse)?;
        Self::from_fields(&fields, client_message_id.clone()).map_err(|rejection| Refused {
            rejection,
            client_message_id: client_message_id.map(Cow::into_owned),
        })
    }

    fn from_fields(
        fields: &Fields<'a>,
        client_message_id: Option<Cow<'a, str>>,
    ) -> Result<Self, Rejection> {
        let sender =
            id(fields.sender_id, "sender_id")?.ok_or(Rejection::Invalid("sender_id is missing"))?;
        let receiver = id(fields.receiver_id, "receiver_id")?
            .ok_or(Rejection::Invalid("receiver_id is missing"))?;
        let conversation = match id(fields.conversation_id, "conversation_id")? {
            Some(given) => given,
            None => ConversationId::text_between(&sender, &receiver).into(),
        };
        let text = text(fields.text_content)?;
        let attachment_url = bounded(fields.attachment_url, ATTACHMENT_URL_BYTES_MAX)?;
        if attachment_url.as_ref().is_some_and(|url| !is_safe_url(url)) {
            return Err(Rejection::Invalid(
                "attachment_url must be http(s) or /uploads/…",
            ));
        }
        if text.is_none() && attachment_url.is_none() {
            return Err(Rejection::Invalid(
                "the message has neither text nor attachment",
            ));
        }
        Ok(Self {
            sender,
            receiver,
            conversation,
            text: Cow::Borrowed(text.unwrap_or("\"\"")),
            attachment_url,
            attachment_filename: bounded(fields.attachment_filename, ATTACHMENT_FIELD_BYTES_MAX)?,
            attachment_mimetype: bounded(fields.attachment_mimetype, ATTACHMENT_FIELD_BYTES_MAX)?,
            client_message_id,
        })
    }

    /// The message that an upload becomes. Empty optional fields count as missing.
    pub fn attachment(upload: Attachment) -> Result<Draft<'static>, Rejection> {
        let mut text = Vec::new();
        json::push_string(&mut text, upload.text.as_deref().unwrap_or_default());
        Ok(Draft {
            sender: given(upload.sender, "sender_id is missing")?,
            receiver: given(upload.receiver, "receiver_id is missing")?,
            conversation: given(upload.conversation, "conversation_id is missing")?,
            text: String::from_utf8(text).expect("JSON is UTF-8").into(),
            attachment_url: Some(upload.url.into()),
            attachment_filename: Some(upload.filename.into()),
            attachment_mimetype: Some(upload.mimetype.into()),
            client_message_id: match upload.client_message_id {
                Some(id) if !id.is_empty() => Some(given(id, "")?),
                _ => None,
            },
        })
    }

    /// The `client_message_id`, if the client gave one.
    pub fn client_message_id(&self) -> Option<&str> {
        self.client_message_id.as_deref()
    }

    /// The id that every resend of this draft gets: `None` without a `client_message_id`.
    pub fn derived_id(&self) -> Option<MessageId> {
        let client_message_id = self.client_message_id.as_deref()?;
        let text = json::decode(&self.text).unwrap_or_default();
        Some(MessageId::derived([
            b"message".as_slice(),
            self.sender.as_bytes(),
            self.conversation.as_bytes(),
            client_message_id.as_bytes(),
            text.as_bytes(),
            self.attachment_filename
                .as_deref()
                .unwrap_or_default()
                .as_bytes(),
        ]))
    }

    /// Writes the message: its JSON as the log keeps it, under `id`, at `unix_ms`.
    pub fn seal(&self, id: MessageId, unix_ms: u64) -> Sealed {
        let is_attachment = self.attachment_url.is_some();
        let kind = if is_attachment { "attachment" } else { "text" };
        let mut out = Vec::with_capacity(320 + self.text.len() + 2 * self.conversation.len());
        out.extend_from_slice(b"{\"_id\":\"");
        out.extend_from_slice(&id.to_hex());
        out.extend_from_slice(b"\",\"conversation_id\":");
        push_string(&mut out, &self.conversation);
        field(&mut out, b",\"sender_id\":", Some(&self.sender));
        out.extend_from_slice(b",\"receiver_id\":");
        let receiver = out.len();
        push_string(&mut out, &self.receiver);
        let receiver = receiver..out.len();
        out.extend_from_slice(b",\"text_content\":");
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(b",\"message_type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        push_timestamp(&mut out, unix_ms);
        out.push(b'"');
        for (name, value) in [
            (b",\"attachment_url\":".as_slice(), &self.attachment_url),
            (b",\"attachment_filename\":", &self.attachment_filename),
            (b",\"attachment_mimetype\":", &self.attachment_mimetype),
            (b",\"client_message_id\":", &self.client_message_id),
        ] {
            field(&mut out, name, value.as_ref());
        }
        out.extend_from_slice(LOG_ENDING);
        let value = out.len();
        out.push(b'[');
        out.extend_from_within(receiver);
        out.push(b']');
        let may_be_resent = self.client_message_id.is_some();
        Sealed::new(id, kind, may_be_resent, out, value, &self.conversation)
    }
}

/// Inline, so that the length of `name` is known where it is copied.
#[inline(always)]
fn field(out: &mut Vec<u8>, name: &[u8], value: Option<&Cow<'_, str>>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        push_string(out, value);
    }
}

/// What a [`Draft`] borrows needs no look at whether it has to be escaped.
#[expect(clippy::ptr_arg, reason = "whether it is borrowed is what counts")]
fn push_string(out: &mut Vec<u8>, text: &Cow<'_, str>) {
    match text {
        Cow::Borrowed(plain) => {
            out.reserve(plain.len() + 2);
            out.push(b'"');
            out.extend_from_slice(plain.as_bytes());
            out.push(b'"');
        }
        Cow::Owned(text) => json::push_string(out, text),
    }
}

// === Fields ===

/// The fields we read, as they came.
#[derive(Default)]
struct Fields<'a> {
    sender_id: Option<Raw<'a>>,
    receiver_id: Option<Raw<'a>>,
    conversation_id: Option<Raw<'a>>,
    text_content: Option<Raw<'a>>,
    attachment_url: Option<Raw<'a>>,
    attachment_filename: Option<Raw<'a>>,
    attachment_mimetype: Option<Raw<'a>>,
    client_message_id: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn read(json: Value<'a>) -> Result<Self, NotJson> {
        let mut fields = Self::default();
        json.members(|Member { name, value }| {
            let name = name.decode().ok_or(NotJson)?;
            let field = match &*name {
                "sender_id" => &mut fields.sender_id,
                "receiver_id" => &mut fields.receiver_id,
                "conversation_id" => &mut fields.conversation_id,
                "text_content" => &mut fields.text_content,
                "attachment_url" => &mut fields.attachment_url,
                "attachment_filename" => &mut fields.attachment_filename,
                "attachment_mimetype" => &mut fields.attachment_mimetype,
                "client_message_id" => &mut fields.client_message_id,
                _ => return Ok(()),
            };
            *field = Some(value);
            Ok(())
        })?;
        Ok(fields)
    }
}

fn id<'a>(value: Option<Raw<'a>>, name: &'static str) -> Result<Option<Cow<'a, str>>, Rejection> {
    value.map_or(Ok(None), |value| id_from_json(value, name))
}

/// An id as clients give it: a string of 1 to [`ID_BYTES_MAX`] bytes, or a JSON integer within 64 bits, taken as its
/// decimal digits. `null` and `""` are `None`. `name` names it in the refusal.
pub fn id_from_json<'a>(
    json: impl Into<Raw<'a>>,
    name: &'static str,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    let json = json.into();
    let invalid = || Rejection::Invalid(invalid_id(name));
    let id = match json.get().as_bytes().first() {
        Some(b'"') => json.decode().ok_or_else(invalid)?,
        Some(b'n') => return Ok(None),
        Some(b'-' | b'0'..=b'9') => integer(json.get()).ok_or_else(invalid)?.into(),
        _ => return Err(invalid()),
    };
    match id.len() {
        0 => Ok(None),
        1..=ID_BYTES_MAX => Ok(Some(id)),
        _ => Err(Rejection::TooLarge("an id is longer than 1024 bytes")),
    }
}

/// The text of a refusal is fixed at compile time: it never holds what a client sent.
fn invalid_id(name: &str) -> &'static str {
    match name {
        "sender_id" => "sender_id must be a string or an integer",
        "receiver_id" => "receiver_id must be a string or an integer",
        "conversation_id" => "conversation_id must be a string or an integer",
        "client_message_id" => "client_message_id must be a string or an integer",
        _ => "an id must be a string or an integer",
    }
}

/// The text's JSON; `None` when missing. Lone surrogate escapes are refused: no UTF-8 can hold them.
fn text(value: Option<Raw<'_>>) -> Result<Option<&str>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    match value.get() {
        "null" | "\"\"" => Ok(None),
        json if !json.starts_with('"') => Err(Rejection::Invalid("text_content must be a string")),
        json if is_unicode(value) => Ok(Some(json)),
        _ => Err(Rejection::Invalid("text_content is not Unicode")),
    }
}

/// Whether every escape of a string stands for text: of the others the scan has seen that they do.
fn is_unicode(string: Raw<'_>) -> bool {
    string.is_plain()
        || memchr::memmem::find(string.get().as_bytes(), b"\\u").is_none()
        || string.decode().is_some()
}

fn bounded(value: Option<Raw<'_>>, bytes_max: usize) -> Result<Option<Cow<'_, str>>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    match value.get() {
        "null" | "\"\"" => Ok(None),
        _ => match value.decode() {
            Some(text) if text.len() <= bytes_max => Ok(Some(text)),
            Some(_) => Err(Rejection::TooLarge("an attachment field is too long")),
            None => Err(Rejection::Invalid("attachment fields must be strings")),
        },
    }
}

fn integer(json: &str) -> Option<String> {
    let signed = json.parse::<i64>().map(|n| n.to_string());
    signed
        .or_else(|_| json.parse::<u64>().map(|n| n.to_string()))
        .ok()
}

fn given(id: String, missing: &'static str) -> Result<Cow<'static, str>, Rejection> {
    match id.len() {
        0 => Err(Rejection::Invalid(missing)),
        1..=ID_BYTES_MAX => Ok(id.into()),
        _ => Err(Rejection::TooLarge("an id is longer than 1024 bytes")),
    }
}

/// An address a browser may open without running anything: our own `/uploads/…`, or http(s). Blanks and control
/// characters are refused wherever they stand, since browsers drop some of them before they look at the scheme.
fn is_safe_url(url: &str) -> bool {
    let clean = !url
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || c == '\\');
    let starts = |prefix: &str| {
        url.len() > prefix.len()
            && url.is_char_boundary(prefix.len())
            && url[..prefix.len()].eq_ignore_ascii_case(prefix)
    };
    clean && (url.starts_with("/uploads/") || starts("http://") || starts("https://"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn sealed(draft: &Value) -> Value {
        let json = draft.to_string();
        let sealed = Draft::parse(&json)
            .unwrap()
            .seal(MessageId([7; 12]), 1_700_000_000_123);
        serde_json::from_slice(&sealed.value).unwrap()
    }

    fn refusal(json: &str) -> Rejection {
        Draft::parse(json).unwrap_err().rejection
    }

    #[test]
    fn a_text_message_has_the_contracts_fields_in_order() {
        let json = r#"{"sender_id":"ann","receiver_id":"bob","text_content":"hi \u00e9","x":[1]}"#;
        let sealed = Draft::parse(json)
            .unwrap()
            .seal(MessageId([7; 12]), 1_700_000_000_123);
        assert_eq!(
            std::str::from_utf8(&sealed.value).unwrap(),
            concat!(
                r#"{"_id":"070707070707070707070707","conversation_id":"ann:bob","sender_id":"ann","#,
                r#""receiver_id":"bob","text_content":"hi \u00e9","message_type":"text","#,
                r#""timestamp":"2023-11-14T22:13:20.123Z","is_spam":false}"#
            )
        );
        assert_eq!(sealed.recipients, r#"["bob"]"#);
        assert_eq!(sealed.conversation.as_str(), "ann:bob");
    }

    #[test]
    fn what_a_client_escaped_is_escaped_again_where_it_has_to_be() {
        let given = json!({"sender_id": "a\"", "receiver_id": "b\\\n", "conversation_id": "\u{1}",
            "text_content": "\"", "attachment_url": "/uploads/x", "attachment_filename": "\"x\\\"",
            "attachment_mimetype": "\t/\"", "client_message_id": "\"\""});
        let message = sealed(&given);
        for (name, value) in given.as_object().unwrap() {
            assert_eq!(&message[name], value, "{name}");
        }
        let sealed = Draft::parse(&given.to_string())
            .unwrap()
            .seal(MessageId([7; 12]), 0);
        let recipients: Vec<String> = serde_json::from_slice(&sealed.recipients).unwrap();
        assert_eq!(recipients, ["b\\\n"]);
        assert_eq!(sealed.conversation.as_str(), "\u{1}");
    }

    #[test]
    fn server_made_fields_of_a_client_are_ignored() {
        let message = sealed(
            &json!({"sender_id": "a", "receiver_id": "b", "text_content": "t",
            "_id": "x", "is_spam": true, "timestamp": 1, "seq": 9, "message_type": "system"}),
        );
        assert_eq!(message["_id"], "070707070707070707070707");
        assert_eq!(message["is_spam"], false);
        assert_eq!(message["message_type"], "text");
        assert!(message.get("seq").is_none());
    }

    #[test]
    fn an_attachment_needs_no_text() {
        let message = sealed(
            &json!({"sender_id": "a", "receiver_id": "b", "attachment_url": "/uploads/x.png"}),
        );
        assert_eq!(message["text_content"], "");
        assert_eq!(message["message_type"], "attachment");
    }

    #[test]
    fn a_file_name_without_a_file_is_kept_and_stays_text() {
        let message = sealed(
            &json!({"sender_id": "a", "receiver_id": "b", "text_content": "t",
            "attachment_filename": "f"}),
        );
        assert_eq!(message["attachment_filename"], "f");
        assert_eq!(message["message_type"], "text");
    }

    #[test]
    fn integers_become_their_digits() {
        for (given, taken) in [
            ("7", "7"),
            ("-7", "-7"),
            ("18446744073709551615", "18446744073709551615"),
            ("-0", "0"),
        ] {
            let json = format!(r#"{{"sender_id":{given},"receiver_id":"b","text_content":"t"}}"#);
            assert_eq!(Draft::parse(&json).unwrap().sender, taken);
        }
        for given in ["18446744073709551616", "1.5", "1e3", "true", "[1]", "{}"] {
            let json = format!(r#"{{"sender_id":{given},"receiver_id":"b","text_content":"t"}}"#);
            assert!(matches!(refusal(&json), Rejection::Invalid(_)), "{given}");
        }
    }

    #[test]
    fn null_and_empty_mean_missing() {
        for missing in ["null", r#""""#] {
            let json = format!(
                r#"{{"sender_id":"a","receiver_id":"b","text_content":"t","conversation_id":{missing},"client_message_id":{missing}}}"#
            );
            let draft = Draft::parse(&json).unwrap();
            assert_eq!(draft.conversation, "a:b");
            assert_eq!(draft.client_message_id(), None);
            let json = format!(r#"{{"sender_id":{missing},"receiver_id":"b","text_content":"t"}}"#);
            assert!(matches!(refusal(&json), Rejection::Invalid(_)));
            let json = format!(r#"{{"sender_id":"a","receiver_id":"b","text_content":{missing}}}"#);
            assert!(matches!(refusal(&json), Rejection::Invalid(_)));
        }
    }

    #[test]
    fn blanks_are_text() {
        assert_eq!(
            sealed(&json!({"sender_id": "a", "receiver_id": "b", "text_content": "  "}))["text_content"],
            "  "
        );
    }

    #[test]
    fn ids_have_at_most_1024_bytes() {
        for name in [
            "sender_id",
            "receiver_id",
            "conversation_id",
            "client_message_id",
        ] {
            let mut draft = json!({"sender_id": "a", "receiver_id": "b", "text_content": "t"});
            draft[name] = "x".repeat(ID_BYTES_MAX).into();
            sealed(&draft);
            draft[name] = "x".repeat(ID_BYTES_MAX + 1).into();
            assert!(
                matches!(refusal(&draft.to_string()), Rejection::TooLarge(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn attachment_fields_are_bounded() {
        let limits = [
            ("attachment_filename", ATTACHMENT_FIELD_BYTES_MAX, ""),
            ("attachment_mimetype", ATTACHMENT_FIELD_BYTES_MAX, ""),
            ("attachment_url", ATTACHMENT_URL_BYTES_MAX, "/uploads/"),
        ];
        for (name, bytes_max, prefix) in limits {
            let mut draft = json!({"sender_id": "a", "receiver_id": "b", "text_content": "t"});
            let fill = "x".repeat(bytes_max - prefix.len());
            draft[name] = format!("{prefix}{fill}").into();
            sealed(&draft);
            draft[name] = format!("{prefix}{fill}x").into();
            assert!(
                matches!(refusal(&draft.to_string()), Rejection::TooLarge(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_clients_message() {
        let refused = Draft::parse(r#"{"client_message_id":"c1"}"#).unwrap_err();
        assert_eq!(refused.client_message_id.as_deref(), Some("c1"));
    }

    #[test]
    fn lone_surrogates_are_refused_and_pairs_are_kept() {
        let json = |text: &str| {
            format!(r#"{{"sender_id":"a","receiver_id":"b","text_content":"{text}"}}"#)
        };
        assert!(matches!(refusal(&json(r"\ud83d")), Rejection::Invalid(_)));
        assert!(matches!(refusal(&json(r"x\udc00y")), Rejection::Invalid(_)));
        assert!(Draft::parse(&json(r"\ud83d\ude00 \\ud83d")).is_ok());
        assert!(matches!(
            refusal(r#"{"sender_id":"\ud800","receiver_id":"b","text_content":"t"}"#),
            Rejection::Invalid(_)
        ));
    }

    #[test]
    fn only_addresses_that_run_nothing_are_taken() {
        for url in [
            "/uploads/a.png",
            "http://x",
            "HTTPS://x/y?z",
            "https://é.example/ü",
        ] {
            assert!(is_safe_url(url), "{url}");
        }
        for url in [
            "javascript:alert(1)",
            " javascript:alert(1)",
            "java\nscript:x",
            "data:text/html,x",
            "file:///etc/passwd",
            "//evil.example",
            "/other",
            "http://",
            "https:\\\\x",
            "ht\ttps://x",
            "",
        ] {
            assert!(!is_safe_url(url), "{url:?}");
        }
    }

    #[test]
    fn deep_nesting_in_a_field_nobody_reads_is_skipped() {
        let deep = format!("{}{}", "[".repeat(450_000), "]".repeat(450_000));
        let json =
            format!(r#"{{"x":{deep},"sender_id":"a","receiver_id":"b","text_content":"t"}}"#);
        assert!(Draft::parse(&json).is_ok());
        let json = format!(r#"{{"sender_id":{deep},"receiver_id":"b","text_content":"t"}}"#);
        assert!(matches!(refusal(&json), Rejection::Invalid(_)));
    }

    #[test]
    fn not_an_object_is_refused() {
        for json in ["[]", "1", "null", "\"x\"", "", "{", "[{}]"] {
            assert!(matches!(refusal(json), Rejection::Invalid(_)), "{json}");
        }
    }

    #[test]
    fn a_resend_has_the_same_id_however_it_is_escaped_and_other_text_another() {
        let id = |json: &str| Draft::parse(json).unwrap().derived_id();
        let first =
            id(r#"{"sender_id":"a","receiver_id":"b","text_content":"é","client_message_id":1}"#);
        assert!(first.is_some());
        assert_eq!(
            first,
            id(
                r#"{"client_message_id":"1","text_content":"\u00e9","receiver_id":"b","sender_id":"a"}"#
            )
        );
        assert_ne!(
            first,
            id(r#"{"sender_id":"a","receiver_id":"b","text_content":"e","client_message_id":1}"#)
        );
        assert_eq!(
            id(r#"{"sender_id":"a","receiver_id":"b","text_content":"e"}"#),
            None
        );
    }

    proptest! {
        #[test]
        fn every_text_comes_back_equal(text in "\\PC{1,40}|[\\x00-\\x1f\\u{2028}\\u{feff}\u{1e}]{1,8}") {
            let message = sealed(&json!({"sender_id": "a", "receiver_id": "b", "text_content": text}));
            prop_assert_eq!(message["text_content"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn parse_is_total(json in ".{0,80}") {
            let _ = Draft::parse(&json);
        }
    }
}
