//! Socket.IO revision 5: the packets inside Engine.IO messages, read without a copy and appended to
//! a buffer.
//!
//! JSON goes through raw: arguments are checked to be JSON and handed on as they were written, so
//! key order, long numbers and lone surrogate escapes survive. Reading never recurses, however deep
//! the client nests; whoever parses an argument further has to bound its depth. Which namespaces
//! exist, and which packet may come when, is not known here. What revision 4 writes in another way
//! is in [`super::socketio_v4`].

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::json::{self, Member, NotJson, Raw};

// === Packet ===

/// A packet as it stands in the text of an Engine.IO message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub kind: Kind,
    /// `/` unless given; with its query, if it has one.
    pub namespace: &'a str,
    /// The ack id as the client wrote it: 1 to [`ACK_ID_DIGITS_MAX`] digits.
    pub id: Option<&'a str>,
    /// Binary messages that follow: 1 to [`ATTACHMENTS_MAX`] for the binary kinds, 0 for the
    /// others.
    pub attachments: usize,
    /// What stands behind, not looked at yet; never empty.
    pub data: Option<&'a str>,
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
    ConnectError,
    BinaryEvent,
    BinaryAck,
}

impl Kind {
    fn from_digit(digit: u8) -> Option<Self> {
        match digit {
            b'0' => Some(Self::Connect),
            b'1' => Some(Self::Disconnect),
            b'2' => Some(Self::Event),
            b'3' => Some(Self::Ack),
            b'4' => Some(Self::ConnectError),
            b'5' => Some(Self::BinaryEvent),
            b'6' => Some(Self::BinaryAck),
            _ => None,
        }
    }

    fn digit(self) -> u8 {
        match self {
            Self::Connect => b'0',
            Self::Disconnect => b'1',
            Self::Event => b'2',
            Self::Ack => b'3',
            Self::ConnectError => b'4',
            Self::BinaryEvent => b'5',
            Self::BinaryAck => b'6',
        }
    }
}

/// Why a packet cannot be read. The connection is then to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    #[error("unknown packet type")]
    UnknownType,
    #[error("the number of attachments is missing or out of range")]
    Attachments,
    #[error("the ack id is too long")]
    AckId,
    #[error("a packet of this type has no data")]
    UnexpectedData,
    #[error("the data is not JSON of the expected shape")]
    Data,
    #[error("the event has no name")]
    EventName,
    #[error("the event's name is reserved")]
    ReservedName,
    #[error("a placeholder does not name an attachment")]
    Placeholder,
}

/// Reads the text of an Engine.IO message, without the message's type.
///
/// A binary kind that announces no attachment is given as the plain kind. A namespace may end
/// without its comma when nothing follows. Each kind is read, also those that only servers send.
///
/// # Errors
/// What is wrong with the text up to its data; the data itself is left to [`event`], [`ack_args`]
/// and [`auth`].
pub fn parse(text: &str) -> Result<Packet<'_>, ParseError> {
    let digit = text.bytes().next().ok_or(ParseError::UnknownType)?;
    let mut kind = Kind::from_digit(digit).ok_or(ParseError::UnknownType)?;
    let mut rest = &text[1..];
    let mut attachments = 0;
    if let Kind::BinaryEvent | Kind::BinaryAck = kind {
        (attachments, rest) = split_attachments(rest)?;
        kind = match kind {
            Kind::BinaryEvent if attachments == 0 => Kind::Event,
            Kind::BinaryAck if attachments == 0 => Kind::Ack,
            binary => binary,
        };
    }
    let (namespace, rest) = split_namespace(rest);
    let (id, data) = split_digits(rest);
    if id.len() > ACK_ID_DIGITS_MAX {
        return Err(ParseError::AckId);
    }
    if kind == Kind::Disconnect && !data.is_empty() {
        return Err(ParseError::UnexpectedData);
    }
    Ok(Packet {
        kind,
        namespace,
        id: (!id.is_empty()).then_some(id),
        attachments,
        data: (!data.is_empty()).then_some(data),
    })
}

fn split_attachments(text: &str) -> Result<(usize, &str), ParseError> {
    let (digits, rest) = split_digits(text);
    let rest = rest.strip_prefix('-').ok_or(ParseError::Attachments)?;
    match digits.parse() {
        Ok(count) if count <= ATTACHMENTS_MAX => Ok((count, rest)),
        _ => Err(ParseError::Attachments),
    }
}

fn split_namespace(text: &str) -> (&str, &str) {
    if text.starts_with('/') {
        text.split_once(',').unwrap_or((text, ""))
    } else {
        ("/", text)
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

// === Data ===

/// An event as the client sent it. Large: read where it stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventArgs<'a> {
    /// Borrowed unless it has escapes. A number's name is the number as it was written.
    pub name: Cow<'a, str>,
    /// The JSON of each argument, raw and without blanks around it.
    pub args: Args<'a>,
    /// The first [`MEMBERS_KEPT`] members of the first argument, if it is an object.
    members: SmallVec<[Member<'a>; MEMBERS_KEPT]>,
    has_more_members: bool,
}

impl<'a> EventArgs<'a> {
    /// Reads the data of an event into an empty one: an array of a name and at most [`ARGS_MAX`] arguments, nothing
    /// else. After an error it holds whatever was read.
    ///
    /// # Errors
    /// [`ParseError::Data`] if it is no JSON array, [`ParseError::EventName`] if it does not start with
    /// a string or a number, [`ParseError::ReservedName`] if clients must not send an event of that
    /// name.
    pub fn read(&mut self, data: &'a str) -> Result<(), ParseError> {
        let mut name = None;
        let read = json::elements(data, |element| {
            if name.is_none() {
                let raw = element.take()?;
                name = Some(raw);
                return Ok(raw);
            }
            let raw = match self.args.len() {
                0 => element.take_with(|member| match self.members.len() {
                    ..MEMBERS_KEPT => self.members.push(member),
                    _ => self.has_more_members = true,
                })?,
                1..ARGS_MAX => element.take()?,
                _ => return Err(NotJson),
            };
            self.args.push(raw.get());
            Ok(raw)
        });
        read.map_err(|NotJson| ParseError::Data)?;
        self.name = event_name(name.ok_or(ParseError::EventName)?)?;
        if RESERVED_NAMES.contains(&&*self.name) {
            return Err(ParseError::ReservedName);
        }
        Ok(())
    }

    /// The first argument, with what is known of it; a missing one is `null`.
    pub fn first(&self) -> json::Value<'_> {
        match self.args.first() {
            Some(object) if object.starts_with('{') && !self.has_more_members => {
                json::Value::read(object, &self.members)
            }
            first => json::Value::from(first.copied().unwrap_or("null")),
        }
    }
}

/// Raw JSON values. One or two need no memory of their own.
pub type Args<'a> = SmallVec<[&'a str; 2]>;

/// As [`EventArgs::read`], for who need not hurry.
pub fn event(data: &str) -> Result<EventArgs<'_>, ParseError> {
    let mut event = EventArgs::default();
    event.read(data).map(|()| event)
}

/// Reads the data of an ack: an array of at most [`ARGS_MAX`] + 1 elements, which may be empty.
///
/// # Errors
/// [`ParseError::Data`] if it is no JSON array.
pub fn ack_args(data: &str) -> Result<Args<'_>, ParseError> {
    let mut args = Args::new();
    let read = json::elements(data, |element| {
        let raw = element.take()?;
        match args.len() {
            ..=ARGS_MAX => args.push(raw.get()),
            _ => return Err(NotJson),
        }
        Ok(raw)
    });
    read.map_err(|NotJson| ParseError::Data)?;
    Ok(args)
}

/// Checks the data of a CONNECT: an object, without blanks around it. Its members are left as they
/// are.
///
/// # Errors
/// [`ParseError::Data`] if it is no JSON object.
pub fn auth(data: &str) -> Result<&str, ParseError> {
    let object = json::value(data).map_err(|NotJson| ParseError::Data)?.get();
    object
        .starts_with('{')
        .then_some(object)
        .ok_or(ParseError::Data)
}

fn event_name(raw: Raw<'_>) -> Result<Cow<'_, str>, ParseError> {
    match raw.get().as_bytes().first() {
        Some(b'"') => raw.decode().ok_or(ParseError::EventName),
        Some(b'-' | b'0'..=b'9') => Ok(Cow::Borrowed(raw.get())),
        _ => Err(ParseError::EventName),
    }
}

/// Arguments of an event or of an ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Raw JSON each; placeholders in it point to the attachments.
    pub args: &'a [&'a str],
    /// At most [`ATTACHMENTS_MAX`].
    pub attachments: &'a [Bytes],
}

impl Payload<'_> {
    /// Bytes of the arguments and what separates them.
    pub fn size(&self) -> usize {
        self.args.iter().map(|arg| arg.len() + 1).sum()
    }
}

impl<'a, const N: usize> From<&'a [&'a str; N]> for Payload<'a> {
    /// Arguments without attachments.
    fn from(args: &'a [&'a str; N]) -> Self {
        Self {
            args,
            attachments: &[],
        }
    }
}

// === Placeholders ===

/// Checks that every placeholder `{"_placeholder":true,"num":n}` in the data of a binary packet
/// names one of its attachments: `n` is an integer below `attachments`. They may stand anywhere, in
/// any order, and be named twice.
///
/// # Errors
/// [`ParseError::Placeholder`], or [`ParseError::Data`] if the data is not JSON.
pub fn check_placeholders(data: &str, attachments: usize) -> Result<(), ParseError> {
    let json = json::value(data).map_err(|NotJson| ParseError::Data)?.get();
    let mut open: SmallVec<[Object; 16]> = SmallVec::new();
    let mut at = 0;
    // Arrays need no care: a key belongs to the innermost object that is open.
    while let Some(found) = memchr::memchr3(b'"', b'{', b'}', &json.as_bytes()[at..]) {
        at += found;
        match json.as_bytes()[at] {
            b'{' => open.push(Object::default()),
            b'}' => {
                let object = open.pop().unwrap_or_default();
                if object.is_placeholder && object.num.is_none_or(|num| num >= attachments) {
                    return Err(ParseError::Placeholder);
                }
            }
            _ => {
                let end = string_end(json, at);
                if let (Some(value), Some(object)) = (value_of_key(&json[end..]), open.last_mut()) {
                    object.note(&json[at..end], value);
                }
                at = end;
                continue;
            }
        }
        at += 1;
    }
    Ok(())
}

/// What is known of an object that is not closed yet. Of a key that comes twice, the last one
/// counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Object {
    pub is_placeholder: bool,
    /// The attachment that it names, if it is a placeholder.
    pub num: Option<usize>,
}

impl Object {
    /// Takes note of a key, with its quotes, and of the text where its value starts.
    pub fn note(&mut self, key: &str, value: &str) {
        match json::decode(key).as_deref() {
            Some("_placeholder") => self.is_placeholder = value.starts_with("true"),
            Some("num") => {
                let (digits, behind) = split_digits(value);
                let is_integer = !behind.starts_with(['.', 'e', 'E']);
                self.num = digits.parse().ok().filter(|_| is_integer);
            }
            _ => {}
        }
    }
}

/// Behind the closing quote of the string that starts at `start`, in valid JSON.
pub(super) fn string_end(json: &str, start: usize) -> usize {
    let bytes = json.as_bytes();
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// If what follows a string makes it a key: the text from its value on.
pub(super) fn value_of_key(behind: &str) -> Option<&str> {
    let value = behind.trim_ascii_start().strip_prefix(':')?;
    Some(value.trim_ascii_start())
}

// === Writing ===

/// Appends the message that accepts a CONNECT and tells the client its public id.
pub fn write_connect(out: &mut Vec<u8>, namespace: &str, sid: &str, pid: Option<&str>) {
    write_start(out, Kind::Connect, None, namespace);
    out.extend_from_slice(br#"{"sid":"#);
    json::push_string(out, sid);
    if let Some(pid) = pid {
        out.extend_from_slice(br#","pid":"#);
        json::push_string(out, pid);
    }
    out.push(b'}');
}

/// Appends the message that refuses a CONNECT. `data` is raw JSON.
pub fn write_connect_error(out: &mut Vec<u8>, namespace: &str, message: &str, data: Option<&str>) {
    write_start(out, Kind::ConnectError, None, namespace);
    out.extend_from_slice(br#"{"message":"#);
    json::push_string(out, message);
    if let Some(data) = data {
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.as_bytes());
    }
    out.push(b'}');
}

/// Appends the message that ends a namespace. Clients take it as final and stay away.
pub fn write_disconnect(out: &mut Vec<u8>, namespace: &str) {
    write_start(out, Kind::Disconnect, None, namespace);
}

/// Appends an event; `id` asks for an ack. Its attachments have to follow at once.
pub fn write_event(
    out: &mut Vec<u8>,
    namespace: &str,
    id: Option<u64>,
    name: &str,
    payload: Payload<'_>,
) {
    let kinds = (Kind::Event, Kind::BinaryEvent);
    write_head(out, kinds, payload.attachments, namespace);
    if let Some(id) = id {
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    }
    out.push(b'[');
    json::push_string(out, name);
    for arg in payload.args {
        out.push(b',');
        out.extend_from_slice(arg.as_bytes());
    }
    out.push(b']');
}

/// Appends the answer to the event whose ack id that is, as the client wrote it. Its attachments have to follow at
/// once.
pub fn write_ack(out: &mut Vec<u8>, namespace: &str, id: &str, payload: Payload<'_>) {
    let kinds = (Kind::Ack, Kind::BinaryAck);
    write_head(out, kinds, payload.attachments, namespace);
    out.extend_from_slice(id.as_bytes());
    out.push(b'[');
    for (n, arg) in payload.args.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(arg.as_bytes());
    }
    out.push(b']');
}

/// The first of the kinds without attachments, the second with some.
fn write_head(out: &mut Vec<u8>, kinds: (Kind, Kind), attachments: &[Bytes], namespace: &str) {
    match attachments.len() {
        0 => write_start(out, kinds.0, None, namespace),
        count => write_start(out, kinds.1, Some(count), namespace),
    }
}

pub(super) fn write_start(
    out: &mut Vec<u8>,
    kind: Kind,
    attachments: Option<usize>,
    namespace: &str,
) {
    out.extend_from_slice(&[ENGINE_MESSAGE, kind.digit()]);
    if let Some(attachments) = attachments {
        out.extend_from_slice(itoa::Buffer::new().format(attachments).as_bytes());
        out.push(b'-');
    }
    if namespace != "/" {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
}

/// Binary messages that may follow one packet.
pub const ATTACHMENTS_MAX: usize = 10;

/// Arguments of an event: an argument can be two bytes on the wire, and takes sixteen once read.
pub const ARGS_MAX: usize = 256;

/// Members of an event's first argument that are kept from its reading: twice the fields of a message. An object with
/// more is read again by who wants them.
const MEMBERS_KEPT: usize = 16;

/// Digits of an ack id: enough for 64 bits.
pub const ACK_ID_DIGITS_MAX: usize = 20;

const RESERVED_NAMES: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// The type of the Engine.IO packet that carries ours.
const ENGINE_MESSAGE: u8 = b'4';

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: Kind) -> Packet<'static> {
        Packet {
            kind,
            namespace: "/",
            id: None,
            attachments: 0,
            data: None,
        }
    }

    fn names_and_args(data: &str) -> Result<(String, Vec<&str>), ParseError> {
        event(data).map(|event| (event.name.into_owned(), event.args.to_vec()))
    }

    #[test]
    fn plain_packets() {
        assert_eq!(parse("0"), Ok(packet(Kind::Connect)));
        assert_eq!(parse("1"), Ok(packet(Kind::Disconnect)));
        let event = Packet {
            data: Some(r#"["a",1]"#),
            ..packet(Kind::Event)
        };
        assert_eq!(parse(r#"2["a",1]"#), Ok(event));
        let with_id = Packet {
            id: Some("0"),
            ..event
        };
        assert_eq!(parse(r#"20["a",1]"#), Ok(with_id));
        assert_eq!(parse("2"), Ok(packet(Kind::Event)));
        let refused = Packet {
            data: Some("{}"),
            ..packet(Kind::ConnectError)
        };
        assert_eq!(parse("4{}"), Ok(refused));
    }

    #[test]
    fn namespaces_with_and_without_their_comma() {
        for text in ["0/custom", "0/custom,"] {
            let expected = Packet {
                namespace: "/custom",
                ..packet(Kind::Connect)
            };
            assert_eq!(parse(text), Ok(expected));
        }
        assert_eq!(parse("1/ns").unwrap().namespace, "/ns");
        assert_eq!(
            parse("0/admin?token=x,{}").unwrap().namespace,
            "/admin?token=x"
        );
        let expected = Packet {
            namespace: "/ns",
            id: Some("12"),
            data: Some("[]"),
            ..packet(Kind::Ack)
        };
        assert_eq!(parse("3/ns,12[]"), Ok(expected));
        // A comma inside the data of `/` belongs to the data.
        assert_eq!(parse(r#"2["a/b",1]"#).unwrap().namespace, "/");
    }

    #[test]
    fn attachments_are_one_to_ten() {
        let parsed = parse(r#"51-/ns,7["a"]"#).unwrap();
        assert_eq!((parsed.kind, parsed.attachments), (Kind::BinaryEvent, 1));
        assert_eq!((parsed.namespace, parsed.id), ("/ns", Some("7")));
        assert_eq!(parse("610-3[]").unwrap().attachments, 10);
        assert_eq!(parse("50-[\"a\"]").unwrap().kind, Kind::Event);
        assert_eq!(parse("60-1[]").unwrap().kind, Kind::Ack);
        for wrong in [
            "511-[]",
            "5[]",
            "5-[]",
            "5",
            "51",
            "5x-[]",
            "5-1-[]",
            "599999999999999999999999-[]",
        ] {
            assert_eq!(parse(wrong), Err(ParseError::Attachments), "{wrong}");
        }
    }

    #[test]
    fn ack_ids_are_opaque_and_bounded() {
        let longest = "9".repeat(ACK_ID_DIGITS_MAX);
        assert_eq!(
            parse(&format!("2{longest}[]")).unwrap().id,
            Some(longest.as_str())
        );
        assert_eq!(parse(&format!("2{longest}9[]")), Err(ParseError::AckId));
        assert_eq!(parse("0007{}").unwrap().id, Some("007"));
    }

    #[test]
    fn what_is_no_packet() {
        for wrong in ["", "7", "9[]", "a", "é", "😀", " 2[]"] {
            assert_eq!(parse(wrong), Err(ParseError::UnknownType), "{wrong}");
        }
        assert_eq!(parse("1{}"), Err(ParseError::UnexpectedData));
        assert_eq!(parse("2abc[]").unwrap().data, Some("abc[]"));
    }

    #[test]
    fn events_have_a_name_and_raw_arguments() {
        let (name, args) =
            names_and_args(r#" ["a" , {"b": 1e400, "b":"\ud800"} ,[1, 2], "x" ] "#).unwrap();
        assert_eq!(name, "a");
        assert_eq!(args, [r#"{"b": 1e400, "b":"\ud800"}"#, "[1, 2]", r#""x""#]);
        assert_eq!(names_and_args("[1,2]"), Ok(("1".into(), vec!["2"])));
        assert_eq!(names_and_args("[-1.5]"), Ok(("-1.5".into(), vec![])));
        assert_eq!(names_and_args(r#"["error"]"#), Ok(("error".into(), vec![])));
        assert_eq!(names_and_args(r#"[""]"#), Ok((String::new(), vec![])));
        assert_eq!(
            names_and_args(r#"["\u0061\n"]"#),
            Ok(("a\n".into(), vec![]))
        );
    }

    #[test]
    fn a_usual_event_takes_no_memory() {
        let event = event(r#"["chatMessage",{"sender_id":"a"},null]"#).unwrap();
        assert!(matches!(event.name, Cow::Borrowed("chatMessage")));
        assert!(!event.args.spilled());
    }

    #[test]
    fn what_is_no_event() {
        for wrong in [
            "",
            "{}",
            "null",
            "\"a\"",
            "1",
            "abc",
            "[",
            "[\"a\"",
            "[\"a\",]",
            "[\"a\"]x",
            "[\"a\"][]",
            "[\"a\",nul]",
        ] {
            assert_eq!(event(wrong), Err(ParseError::Data), "{wrong}");
        }
        for wrong in ["[]", "[null]", "[true]", "[[]]", "[{}]", r#"["\ud800"]"#] {
            assert_eq!(event(wrong), Err(ParseError::EventName), "{wrong}");
        }
        for name in RESERVED_NAMES {
            assert_eq!(
                event(&format!("[\"{name}\",1]")),
                Err(ParseError::ReservedName)
            );
        }
        assert_eq!(event(r#"["\u0063onnect"]"#), Err(ParseError::ReservedName));
    }

    #[test]
    fn an_event_has_at_most_256_arguments() {
        let with = |count: usize| format!("[\"a\"{}]", ",1".repeat(count));
        assert_eq!(event(&with(ARGS_MAX)).unwrap().args.len(), ARGS_MAX);
        assert_eq!(event(&with(ARGS_MAX + 1)), Err(ParseError::Data));
    }

    #[test]
    fn the_first_argument_is_read_once_when_its_members_are_few() {
        for count in [0, 1, MEMBERS_KEPT, MEMBERS_KEPT + 1] {
            let members: Vec<_> = (0..count).map(|n| format!("\"{n}\":[{n}]")).collect();
            let data = format!("[\"a\", {{{}}},{{}}]", members.join(","));
            let event = event(&data).unwrap();
            assert_eq!(event.has_more_members, count > MEMBERS_KEPT);
            let mut values = Vec::new();
            let read = event.first().members(|member| {
                values.push(member.value.get());
                Ok(())
            });
            let expected: Vec<_> = (0..count).map(|n| format!("[{n}]")).collect();
            assert_eq!(
                (read, values),
                (Ok(()), expected.iter().map(|v| &**v).collect())
            );
        }
        for (data, first) in [(r#"["a"]"#, "null"), (r#"["a",[{"b":1}]]"#, r#"[{"b":1}]"#)] {
            let event = event(data).unwrap();
            assert_eq!(event.first(), first.into());
            assert_eq!(event.first().members(|_| Ok(())), Err(NotJson));
        }
    }

    #[test]
    fn acks_and_auth_have_their_shapes() {
        assert_eq!(ack_args("[]").unwrap().to_vec(), Vec::<&str>::new());
        assert_eq!(
            ack_args("[1, null,{}]").unwrap().to_vec(),
            ["1", "null", "{}"]
        );
        for wrong in ["", "{}", "1", "[1]]"] {
            assert_eq!(ack_args(wrong), Err(ParseError::Data), "{wrong}");
        }
        assert_eq!(auth(r#" {"token":"x"} "#), Ok(r#"{"token":"x"}"#));
        for wrong in ["", "[]", "null", "\"{\"", "{", "{}x"] {
            assert_eq!(auth(wrong), Err(ParseError::Data), "{wrong}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let depth = 900_000;
        let arrays = format!("[\"a\",{}{}]", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(event(&arrays).unwrap().args[0].len(), 2 * depth);
        assert_eq!(ack_args(&arrays).unwrap().len(), 2);
        assert_eq!(check_placeholders(&arrays, 1), Ok(()));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth / 6), "}".repeat(depth / 6));
        assert!(auth(&objects).is_ok());
        assert_eq!(check_placeholders(&objects, 1), Ok(()));
        assert_eq!(event(&"[".repeat(depth)), Err(ParseError::Data));
        assert_eq!(
            check_placeholders(&"{\"a\":".repeat(depth / 5), 1),
            Err(ParseError::Data)
        );
    }

    #[test]
    fn placeholders_name_attachments_that_there_are() {
        for fine in [
            r#"["a",{"_placeholder":true,"num":0}]"#,
            r#"["a",{"num" : 1 , "_placeholder" :true},{"_placeholder":true,"num":0}]"#,
            r#"["a",[{"b":{"_placeholder":true,"num":1}}],{"_placeholder":true,"num":1}]"#,
            r#"["a",{"_placeholder":false,"num":9}]"#,
            r#"["a",{"_placeholder":"true"}]"#,
            r#"["a",{"num":-1}]"#,
            r#"["a","{\"_placeholder\":true}","_placeholder","\\"]"#,
            r#"["a",{"_placeholder":true,"num":9,"num":1}]"#,
            r#"["a",{"_placeholder":true,"num":{"_placeholder":true,"num":0},"num":1}]"#,
            r#"["_placeholder",true]"#,
            r#"["\ud800",{"\ud800":1}]"#,
        ] {
            assert_eq!(check_placeholders(fine, 2), Ok(()), "{fine}");
        }
        for wrong in [
            r#"["a",{"_placeholder":true,"num":2}]"#,
            r#"["a",{"_placeholder":true,"num":-1}]"#,
            r#"["a",{"_placeholder":true,"num":0.5}]"#,
            r#"["a",{"_placeholder":true,"num":1e0}]"#,
            r#"["a",{"_placeholder":true,"num":"0"}]"#,
            r#"["a",{"_placeholder":true,"num":null}]"#,
            r#"["a",{"_placeholder":true,"num":99999999999999999999999}]"#,
            r#"["a",{"_placeholder":true}]"#,
            r#"["a",{"_placeholder":true,"num":{"num":0}}]"#,
            r#"["a",{"_placeholder":true,"b":{"num":0}}]"#,
            r#"["a",{"_placeholder":true,"num":1,"num":9}]"#,
            r#"["a",{"\u005fplaceholder":true,"num":9}]"#,
            r#"["a",{"b":"\"}","_placeholder":true,"num":9}]"#,
            r#"["a",[{"b":{"_placeholder":true,"num":0},"_placeholder":true}]]"#,
        ] {
            assert_eq!(
                check_placeholders(wrong, 2),
                Err(ParseError::Placeholder),
                "{wrong}"
            );
        }
        assert_eq!(check_placeholders("[", 2), Err(ParseError::Data));
    }

    #[test]
    fn what_we_write() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let args = &["{}", "1"][..];
        assert_eq!(
            written(&|out| write_connect(out, "/", "x\"", None)),
            r#"40{"sid":"x\""}"#
        );
        assert_eq!(
            written(&|out| write_connect(out, "/ns", "x", Some("y"))),
            r#"40/ns,{"sid":"x","pid":"y"}"#
        );
        assert_eq!(
            written(&|out| write_connect_error(out, "/ns", "Invalid namespace", None)),
            r#"44/ns,{"message":"Invalid namespace"}"#
        );
        assert_eq!(
            written(&|out| write_connect_error(out, "/", "no", Some("[1]"))),
            r#"44{"message":"no","data":[1]}"#
        );
        assert_eq!(written(&|out| write_disconnect(out, "/")), "41");
        assert_eq!(written(&|out| write_disconnect(out, "/ns")), "41/ns,");
        let some = |attachments| Payload { args, attachments };
        let (none, bytes) = (Payload::default(), [Bytes::new(), Bytes::new()]);
        let event =
            |namespace, id, payload| written(&|out| write_event(out, namespace, id, "a", payload));
        assert_eq!(event("/", None, some(&[])), r#"42["a",{},1]"#);
        assert_eq!(event("/ns", Some(0), none), r#"42/ns,0["a"]"#);
        assert_eq!(
            event("/ns", Some(7), some(&bytes)),
            r#"452-/ns,7["a",{},1]"#
        );
        let ack = |namespace, id, payload| written(&|out| write_ack(out, namespace, id, payload));
        assert_eq!(ack("/", "0", none), "430[]");
        assert_eq!(ack("/ns", "12", some(&[])), "43/ns,12[{},1]");
        assert_eq!(ack("/", "3", some(&bytes[..1])), "461-3[{},1]");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "[0-6]?[-0-9]{0,3}(/[a-z]{0,3},?)?[0-9]{0,22}\\PC{0,30}",
        ) {
            if let Ok(packet) = parse(&text) {
                let is_binary = matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck);
                prop_assert_eq!(is_binary, (1..=ATTACHMENTS_MAX).contains(&packet.attachments));
                prop_assert!(packet.namespace.starts_with('/'));
                prop_assert!(packet.data != Some(""));
            }
        }

        #[test]
        fn any_data_is_read_or_refused(data in "[\\[\\]{}\",:\\\\0-9a-fu_ -]{0,60}|\\PC{0,40}") {
            let _ = (ack_args(&data), auth(&data), check_placeholders(&data, 1));
            if let Ok(event) = event(&data) {
                for arg in event.args {
                    prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(arg).is_ok());
                }
            }
        }

        #[test]
        fn events_come_back_as_they_were_written(
            namespace in "/|/[a-z]{1,8}(\\?[a-z=]{0,5})?",
            id in any::<Option<u64>>(),
            name in "\\PC{0,20}|[\\x00-\\x7F]{0,20}",
            args in vec("\\PC{0,30}", 0..4),
            attachments in 0..=ATTACHMENTS_MAX,
        ) {
            prop_assume!(!RESERVED_NAMES.contains(&name.as_str()));
            let args: Vec<String> =
                args.iter().map(|arg| serde_json::to_string(arg).unwrap()).collect();
            let raw: Vec<&str> = args.iter().map(String::as_str).collect();
            let bytes = vec![Bytes::new(); attachments];
            let payload = Payload { args: &raw, attachments: &bytes };
            let mut out = Vec::new();
            write_event(&mut out, &namespace, id, &name, payload);
            let kind = if attachments == 0 { Kind::Event } else { Kind::BinaryEvent };
            let text = String::from_utf8(out).unwrap();
            let packet = parse(text.strip_prefix('4').unwrap()).unwrap();
            prop_assert_eq!((packet.kind, packet.attachments), (kind, attachments));
            prop_assert_eq!(packet.namespace, &namespace);
            prop_assert_eq!(packet.id.map(str::to_owned), id.map(|id| id.to_string()));
            let event = event(packet.data.unwrap()).unwrap();
            prop_assert_eq!(&*event.name, &name);
            prop_assert_eq!(event.args.to_vec(), args);
        }
    }
}
