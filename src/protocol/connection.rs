//! One client's protocol state: what its packets mean, given those before. No transport, no clock: packets in, signals
//! out; time is an argument.
//!
//! Revision 5 of Socket.IO over revision 4 of Engine.IO. The one namespace is `/`.

use std::time::Duration;

use bytes::Bytes;

use super::engineio::{self, PacketType};
use super::socketio::{self, Kind, Packet};

/// How long the attachments of one packet may take to arrive.
pub const ATTACHMENTS_WITHIN: Duration = Duration::from_secs(60);

// === Connection ===

/// What is known of one client. A packet that breaks the protocol ends the connection.
#[derive(Debug)]
pub struct Connection {
    state: State,
    /// Bound on a packet and all its attachments together.
    bytes_max: usize,
    /// A binary packet whose attachments are not complete.
    pending: Option<Box<Pending>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has not asked for the namespace yet.
    New,
    Connected,
    /// Has left the namespace, and may come back. Events on their way are dropped, not punished.
    Left,
}

/// What a packet asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Signal<'a> {
    /// Nothing to do.
    Nothing,
    /// Join the namespace `/`.
    Connect,
    /// Refuse this namespace: there is none of that name.
    UnknownNamespace(&'a str),
    /// Leave the namespace; the connection stays.
    Disconnect,
    /// An event: the JSON array of its name and arguments, and the id to acknowledge it with.
    Event { data: &'a str, ack: Option<&'a str> },
    /// The same with attachments, all of which have come; placeholders in `data` point to them.
    BinaryEvent(Complete),
    /// The client answers a ping.
    Pong,
}

/// A binary event with its attachments.
#[derive(Debug, PartialEq, Eq)]
pub struct Complete {
    pub data: String,
    pub ack: Option<String>,
    pub attachments: Vec<Bytes>,
}

#[derive(Debug)]
struct Pending {
    is_event: bool,
    complete: Complete,
    due: usize,
    bytes: usize,
    since: Duration,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client said goodbye, or its connection ended.
    TransportClose,
    /// Reading or writing failed.
    TransportError,
    /// The client broke the protocol.
    ParseError,
    /// A message was larger than allowed.
    TooLarge,
    /// No answer to a ping in time.
    PingTimeout,
    /// No CONNECT in time.
    ConnectTimeout,
    /// Two requests of one kind at once.
    Overlap,
    /// The client did not read what waited for it.
    Slow,
    /// The server stops.
    ServerShuttingDown,
}

impl CloseReason {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::TransportClose => "transport_close",
            Self::TransportError => "transport_error",
            Self::ParseError => "parse_error",
            Self::TooLarge => "too_large",
            Self::PingTimeout => "ping_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::Overlap => "overlap",
            Self::Slow => "slow",
            Self::ServerShuttingDown => "server_shutting_down",
        }
    }

    /// Whether the client may still be told, and sent what waits for it.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ServerShuttingDown)
    }
}

impl Connection {
    /// `bytes_max` bounds a packet and all its attachments together.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            state: State::New,
            bytes_max,
            pending: None,
        }
    }

    /// Whether the client has joined the namespace.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Whether the client has ever asked for the namespace.
    pub fn has_connected(&self) -> bool {
        self.state != State::New
    }

    /// Whether attachments have been due for too long.
    pub fn is_overdue(&self, now: Duration) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|p| now.saturating_sub(p.since) > ATTACHMENTS_WITHIN)
    }

    /// Takes a text packet, its Engine.IO type in front.
    pub fn text<'a>(&mut self, packet: &'a str, now: Duration) -> Result<Signal<'a>, CloseReason> {
        let (kind, rest) = packet.split_at_checked(1).ok_or(CloseReason::ParseError)?;
        if kind == "b" {
            return self.base64(rest);
        }
        match PacketType::from_digit(kind.as_bytes()[0]).ok_or(CloseReason::ParseError)? {
            PacketType::Message if self.pending.is_some() => Err(CloseReason::ParseError),
            PacketType::Message => {
                let packet = socketio::parse(rest).map_err(|_| CloseReason::ParseError)?;
                self.message(packet, now)
            }
            PacketType::Pong => Ok(Signal::Pong),
            PacketType::Close => Err(CloseReason::TransportClose),
            PacketType::Noop => Ok(Signal::Nothing),
            // Heartbeats are the server's in this revision; the upgrade is the transport's.
            PacketType::Open | PacketType::Ping | PacketType::Upgrade => {
                Err(CloseReason::ParseError)
            }
        }
    }

    fn base64<'a>(&mut self, base64: &str) -> Result<Signal<'a>, CloseReason> {
        let bytes = engineio::decode_binary(base64.as_bytes());
        self.attachment(Bytes::from(bytes.map_err(|_| CloseReason::ParseError)?))
    }

    fn message<'a>(
        &mut self,
        packet: Packet<'a>,
        now: Duration,
    ) -> Result<Signal<'a>, CloseReason> {
        // What follows a `?` is the namespace's query.
        let namespace = packet.namespace.split('?').next().unwrap_or_default();
        if packet.kind == Kind::Connect {
            return self.connect(namespace, packet.data);
        }
        match self.state {
            State::New => return Err(CloseReason::ParseError),
            // Attachments follow a binary packet, and have to be dropped as well.
            State::Left if namespace == "/" && packet.attachments == 0 => {
                return Ok(Signal::Nothing);
            }
            _ if namespace != "/" => return Err(CloseReason::ParseError),
            State::Connected | State::Left => {}
        }
        match packet.kind {
            Kind::Event => {
                let data = packet.data.ok_or(CloseReason::ParseError)?;
                Ok(Signal::Event {
                    data,
                    ack: packet.id,
                })
            }
            Kind::BinaryEvent | Kind::BinaryAck => self.await_attachments(packet, now),
            Kind::Disconnect => {
                self.state = State::Left;
                Ok(Signal::Disconnect)
            }
            // This server asks for no acknowledgements, so whatever this one is for is over.
            Kind::Ack => {
                let args = packet.data.map(socketio::ack_args).transpose();
                args.map_err(|_| CloseReason::ParseError)?;
                Ok(Signal::Nothing)
            }
            Kind::Connect | Kind::ConnectError => Err(CloseReason::ParseError),
        }
    }

    fn connect<'a>(
        &mut self,
        namespace: &'a str,
        data: Option<&str>,
    ) -> Result<Signal<'a>, CloseReason> {
        if let Some(data) = data {
            socketio::auth(data).map_err(|_| CloseReason::ParseError)?;
        }
        match (namespace, self.state) {
            ("/", State::Connected) => Err(CloseReason::ParseError),
            ("/", State::New | State::Left) => {
                self.state = State::Connected;
                Ok(Signal::Connect)
            }
            (other, _) => Ok(Signal::UnknownNamespace(other)),
        }
    }

    fn await_attachments<'a>(
        &mut self,
        packet: Packet<'a>,
        now: Duration,
    ) -> Result<Signal<'a>, CloseReason> {
        let data = packet.data.ok_or(CloseReason::ParseError)?;
        let is_event = packet.kind == Kind::BinaryEvent;
        // What cannot be read is refused before its attachments are kept.
        let shape = match is_event {
            true => socketio::event(data).map(|_| ()),
            false => socketio::ack_args(data).map(|_| ()),
        };
        shape
            .and_then(|()| socketio::check_placeholders(data, packet.attachments))
            .map_err(|_| CloseReason::ParseError)?;
        self.pending = Some(Box::new(Pending {
            is_event,
            complete: Complete {
                data: data.to_owned(),
                ack: packet.id.map(str::to_owned),
                attachments: Vec::with_capacity(packet.attachments),
            },
            due: packet.attachments,
            bytes: data.len(),
            since: now,
        }));
        Ok(Signal::Nothing)
    }

    /// Takes a binary message: one attachment of the packet before.
    pub fn binary<'a>(&mut self, payload: &[u8]) -> Result<Signal<'a>, CloseReason> {
        self.attachment(Bytes::copy_from_slice(payload))
    }

    fn attachment<'a>(&mut self, payload: Bytes) -> Result<Signal<'a>, CloseReason> {
        let Some(pending) = &mut self.pending else {
            return Err(CloseReason::ParseError);
        };
        pending.bytes += payload.len();
        if pending.bytes > self.bytes_max {
            return Err(CloseReason::TooLarge);
        }
        pending.complete.attachments.push(payload);
        if pending.complete.attachments.len() < pending.due {
            return Ok(Signal::Nothing);
        }
        match self.pending.take() {
            Some(pending) if pending.is_event && self.is_connected() => {
                Ok(Signal::BinaryEvent(pending.complete))
            }
            _ => Ok(Signal::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: Duration = Duration::ZERO;

    fn connected() -> Connection {
        let mut connection = Connection::new(1000);
        assert_eq!(connection.text("40", T0), Ok(Signal::Connect));
        connection
    }

    #[test]
    fn connect_comes_first() {
        for packet in [
            "42[\"a\"]",
            "41",
            "431[]",
            "451-[\"a\",{\"_placeholder\":true,\"num\":0}]",
        ] {
            let mut connection = Connection::new(1000);
            assert_eq!(
                connection.text(packet, T0),
                Err(CloseReason::ParseError),
                "{packet}"
            );
        }
        assert_eq!(Connection::new(1000).text("3", T0), Ok(Signal::Pong));
    }

    #[test]
    fn a_second_connect_ends_the_connection() {
        assert_eq!(connected().text("40", T0), Err(CloseReason::ParseError));
    }

    #[test]
    fn connect_takes_an_object_only() {
        for (packet, expected) in [
            ("40{\"token\":1}", Ok(Signal::Connect)),
            ("40[1]", Err(CloseReason::ParseError)),
            ("40null", Err(CloseReason::ParseError)),
            ("40\"x\"", Err(CloseReason::ParseError)),
        ] {
            assert_eq!(Connection::new(1000).text(packet, T0), expected, "{packet}");
        }
    }

    #[test]
    fn other_namespaces_are_refused_and_the_connection_stays() {
        let mut connection = connected();
        assert_eq!(
            connection.text("40/x,", T0),
            Ok(Signal::UnknownNamespace("/x"))
        );
        assert_eq!(
            connection.text("40/x?a=1,{}", T0),
            Ok(Signal::UnknownNamespace("/x"))
        );
        assert_eq!(
            connection.text("40/y", T0),
            Ok(Signal::UnknownNamespace("/y"))
        );
        assert_eq!(
            connection.text("42[\"a\"]", T0),
            Ok(Signal::Event {
                data: "[\"a\"]",
                ack: None
            })
        );
        assert_eq!(
            connection.text("42/x,[\"a\"]", T0),
            Err(CloseReason::ParseError)
        );
    }

    #[test]
    fn events_after_leaving_are_dropped_and_one_may_come_back() {
        let mut connection = connected();
        assert_eq!(connection.text("41", T0), Ok(Signal::Disconnect));
        assert!(!connection.is_connected());
        assert_eq!(connection.text("42[\"a\"]", T0), Ok(Signal::Nothing));
        assert_eq!(connection.text("40", T0), Ok(Signal::Connect));
    }

    #[test]
    fn acks_nobody_asked_for_are_ignored() {
        assert_eq!(connected().text("4399[]", T0), Ok(Signal::Nothing));
        assert_eq!(connected().text("43[]", T0), Ok(Signal::Nothing));
    }

    #[test]
    fn engine_packets_of_a_client() {
        assert_eq!(connected().text("1", T0), Err(CloseReason::TransportClose));
        assert_eq!(connected().text("6", T0), Ok(Signal::Nothing));
        for packet in ["", "0", "2", "5", "7", "x", "é"] {
            assert_eq!(
                connected().text(packet, T0),
                Err(CloseReason::ParseError),
                "{packet}"
            );
        }
    }

    const TWO: &str =
        "452-7[\"e\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]";

    #[test]
    fn attachments_complete_an_event() {
        let mut connection = connected();
        assert_eq!(connection.text(TWO, T0), Ok(Signal::Nothing));
        assert_eq!(connection.binary(b"a"), Ok(Signal::Nothing));
        assert_eq!(
            connection.text("3", T0),
            Ok(Signal::Pong),
            "heartbeats go on in between"
        );
        let Ok(Signal::BinaryEvent(complete)) = connection.text("bYg==", T0) else {
            panic!()
        };
        assert_eq!(complete.ack.as_deref(), Some("7"));
        assert_eq!(complete.attachments, [&b"a"[..], b"b"]);
        assert_eq!(
            connection.binary(b"c"),
            Err(CloseReason::ParseError),
            "none is due"
        );
    }

    #[test]
    fn a_text_message_between_attachments_ends_the_connection() {
        let mut connection = connected();
        connection.text(TWO, T0).unwrap();
        assert_eq!(
            connection.text("42[\"a\"]", T0),
            Err(CloseReason::ParseError)
        );
    }

    #[test]
    fn attachments_are_bounded_in_sum_and_in_time() {
        let head = TWO.len() - "452-7".len();
        for (extra, expected) in [(0, Ok(Signal::Nothing)), (1, Err(CloseReason::TooLarge))] {
            let mut connection = Connection::new(head + 10);
            connection.text("40", T0).unwrap();
            connection.text(TWO, T0).unwrap();
            assert_eq!(connection.binary(&vec![0; 10 + extra]), expected);
            assert!(!connection.is_overdue(ATTACHMENTS_WITHIN));
            assert!(connection.is_overdue(ATTACHMENTS_WITHIN + Duration::from_millis(1)));
        }
    }

    #[test]
    fn a_binary_ack_is_swallowed_with_its_attachments() {
        let mut connection = connected();
        let ack = "461-5[{\"_placeholder\":true,\"num\":0}]";
        assert_eq!(connection.text(ack, T0), Ok(Signal::Nothing));
        assert_eq!(connection.binary(b"x"), Ok(Signal::Nothing));
        assert!(connection.text("42[\"a\"]", T0).is_ok());
    }

    proptest! {
        #[test]
        fn any_packets_are_survived(packets in prop::collection::vec("[0-6b]?[0-6]?[/a,0-9-]{0,4}[\\[\\]{}\"a,]{0,8}", 0..20)) {
            let mut connection = Connection::new(1000);
            for packet in &packets {
                if connection.text(packet, T0).is_err() {
                    break;
                }
            }
        }
    }
}
