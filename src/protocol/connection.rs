//! One client's Socket.IO state: what its packets mean, given those before. No transport, no clock: packets in, signals
//! out; time is an argument.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::engineio::Sid;
use super::socketio::{self, Kind, Packet};

/// How long the attachments of one packet may take to arrive.
pub const ATTACHMENTS_WITHIN: Duration = Duration::from_secs(60);

/// Namespaces that one connection may be in, or have left.
pub const NAMESPACES_MAX: usize = 16;

// === Connection ===

/// What is known of one client. A packet that breaks the protocol ends the connection.
#[derive(Debug)]
pub struct Connection {
    namespaces: SmallVec<[Namespace; 1]>,
    /// Bound on a packet and all its attachments together.
    bytes_max: usize,
    /// A binary packet whose attachments are not complete.
    pending: Option<Box<Pending>>,
}

/// A namespace that the client has joined.
#[derive(Debug)]
struct Namespace {
    name: Cow<'static, str>,
    /// The socket's public id.
    id: Sid,
    /// False once it was left: events on their way are dropped, not punished, and the client may come back.
    is_joined: bool,
}

/// What a packet asks for. Namespaces are without their query.
#[derive(Debug, PartialEq, Eq)]
pub enum Signal<'a> {
    /// Nothing to do.
    Nothing,
    /// Join this namespace, or refuse it: the answer is [`Connection::join`], or none.
    Connect {
        namespace: &'a str,
        /// What followed a `?` in its name: how clients of revision 4 pass arguments.
        query: &'a str,
        /// A JSON object.
        auth: Option<&'a str>,
    },
    /// The client has left this namespace; the connection stays.
    Disconnect { namespace: &'a str },
    /// An event: the JSON array of its name and arguments, and the id to acknowledge it with.
    Event {
        namespace: &'a str,
        data: &'a str,
        ack: Option<&'a str>,
    },
    /// The acknowledgement of an event of ours: the JSON array of its arguments.
    Ack {
        namespace: &'a str,
        id: &'a str,
        data: &'a str,
    },
    /// An event or an acknowledgement whose attachments have all come.
    Complete(Box<Complete>),
}

/// A packet with its attachments; placeholders in `data` point to them.
#[derive(Debug, PartialEq, Eq)]
pub struct Complete {
    /// Otherwise an acknowledgement.
    pub is_event: bool,
    pub namespace: String,
    pub data: String,
    pub id: Option<String>,
    pub attachments: Vec<Bytes>,
}

#[derive(Debug)]
struct Pending {
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
    /// The client has come back on another connection.
    Replaced,
    /// The application ended it.
    ForcedServerClose,
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
            Self::Replaced => "replaced",
            Self::ForcedServerClose => "forced_server_close",
            Self::ServerShuttingDown => "server_shutting_down",
        }
    }

    /// Whether the client may still be told, and sent what waits for it.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ForcedServerClose | Self::ServerShuttingDown)
    }

    /// Whether the client may take up its session again on another connection.
    pub fn is_recoverable(self) -> bool {
        match self {
            Self::TransportClose
            | Self::TransportError
            | Self::PingTimeout
            | Self::Overlap
            | Self::Slow
            | Self::Replaced
            | Self::ForcedServerClose
            | Self::ServerShuttingDown => true,
            Self::ParseError | Self::TooLarge | Self::ConnectTimeout => false,
        }
    }
}

impl Connection {
    /// `bytes_max` bounds a packet and all its attachments together.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            namespaces: SmallVec::new(),
            bytes_max,
            pending: None,
        }
    }

    /// Whether the client has ever joined a namespace.
    pub fn has_connected(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// The public id of the client's socket in a namespace that it has joined.
    pub fn socket_id(&self, namespace: &str) -> Option<Sid> {
        let found = self.namespaces.iter().find(|n| n.name == namespace)?;
        found.is_joined.then_some(found.id)
    }

    /// Lets the client into a namespace, with `id` as its public id there.
    ///
    /// # Errors
    /// It is there already, which breaks the protocol; or it has been in [`NAMESPACES_MAX`] others.
    pub fn join(&mut self, namespace: &str, id: Sid) -> Result<(), JoinError> {
        if let Some(known) = self.namespaces.iter_mut().find(|n| n.name == namespace) {
            if known.is_joined {
                return Err(JoinError::Joined);
            }
            (known.id, known.is_joined) = (id, true);
            return Ok(());
        }
        if self.namespaces.len() >= NAMESPACES_MAX {
            return Err(JoinError::TooMany);
        }
        let name = match namespace {
            "/" => Cow::Borrowed("/"),
            other => Cow::Owned(other.to_owned()),
        };
        self.namespaces.push(Namespace {
            name,
            id,
            is_joined: true,
        });
        Ok(())
    }

    /// Takes the client out of a namespace; false when it is not there.
    pub fn leave(&mut self, namespace: &str) -> bool {
        let mut joined = self.namespaces.iter_mut().filter(|n| n.is_joined);
        let found = joined.find(|n| n.name == namespace);
        found.map(|n| n.is_joined = false).is_some()
    }

    /// Whether attachments have been due for too long.
    pub fn is_overdue(&self, now: Duration) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|p| now.saturating_sub(p.since) > ATTACHMENTS_WITHIN)
    }

    /// Takes a packet: the text of an Engine.IO message.
    pub fn message<'a>(
        &mut self,
        text: &'a str,
        now: impl FnOnce() -> Duration,
    ) -> Result<Signal<'a>, CloseReason> {
        let packet = socketio::parse(text).map_err(|_| CloseReason::ParseError)?;
        self.packet(packet, now)
    }

    /// Takes a packet that another parser has read.
    pub fn packet<'a>(
        &mut self,
        packet: Packet<'a>,
        now: impl FnOnce() -> Duration,
    ) -> Result<Signal<'a>, CloseReason> {
        if self.pending.is_some() {
            return Err(CloseReason::ParseError);
        }
        let (namespace, query) = packet
            .namespace
            .split_once('?')
            .unwrap_or((packet.namespace, ""));
        if packet.kind == Kind::Connect {
            let auth = packet.data.map(socketio::auth).transpose();
            return Ok(Signal::Connect {
                namespace,
                query,
                auth: auth.map_err(|_| CloseReason::ParseError)?,
            });
        }
        let known = self.namespaces.iter().find(|n| n.name == namespace);
        let is_joined = known.ok_or(CloseReason::ParseError)?.is_joined;
        match packet.kind {
            // Attachments follow a binary packet, and have to be dropped as well.
            _ if !is_joined && packet.attachments == 0 => Ok(Signal::Nothing),
            Kind::Event => Ok(Signal::Event {
                namespace,
                data: packet.data.ok_or(CloseReason::ParseError)?,
                ack: packet.id,
            }),
            Kind::Ack => {
                let data = packet.data.unwrap_or("[]");
                socketio::ack_args(data).map_err(|_| CloseReason::ParseError)?;
                Ok(packet.id.map_or(Signal::Nothing, |id| Signal::Ack {
                    namespace,
                    id,
                    data,
                }))
            }
            Kind::BinaryEvent | Kind::BinaryAck => self.await_attachments(packet, namespace, now),
            Kind::Disconnect => {
                self.leave(namespace);
                Ok(Signal::Disconnect { namespace })
            }
            Kind::Connect | Kind::ConnectError => Err(CloseReason::ParseError),
        }
    }

    fn await_attachments<'a>(
        &mut self,
        packet: Packet<'a>,
        namespace: &str,
        now: impl FnOnce() -> Duration,
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
            complete: Complete {
                is_event,
                namespace: namespace.to_owned(),
                data: data.to_owned(),
                id: packet.id.map(str::to_owned),
                attachments: Vec::with_capacity(packet.attachments),
            },
            due: packet.attachments,
            bytes: data.len(),
            since: now(),
        }));
        Ok(Signal::Nothing)
    }

    /// Takes a binary message: one attachment of the packet before.
    pub fn attachment<'a>(&mut self, payload: &[u8]) -> Result<Signal<'a>, CloseReason> {
        let Some(pending) = &mut self.pending else {
            return Err(CloseReason::ParseError);
        };
        pending.bytes += payload.len();
        if pending.bytes > self.bytes_max {
            return Err(CloseReason::TooLarge);
        }
        let attachments = &mut pending.complete.attachments;
        attachments.push(Bytes::copy_from_slice(payload));
        if attachments.len() < pending.due {
            return Ok(Signal::Nothing);
        }
        let complete = self.pending.take().map(|pending| pending.complete);
        // The namespace may have been left meanwhile.
        let complete = complete.filter(|c| self.socket_id(&c.namespace).is_some());
        Ok(complete.map_or(Signal::Nothing, |c| Signal::Complete(Box::new(c))))
    }
}

/// Why a client does not get into a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// It is there: to ask again breaks the protocol.
    Joined,
    /// It has been in as many as it may.
    TooMany,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: Duration = Duration::ZERO;
    const ID: Sid = Sid::new([7; 15]);

    fn connect(namespace: &str) -> Signal<'_> {
        Signal::Connect {
            namespace,
            query: "",
            auth: None,
        }
    }

    fn event(data: &str) -> Signal<'_> {
        Signal::Event {
            namespace: "/",
            data,
            ack: None,
        }
    }

    fn connected() -> Connection {
        let mut connection = Connection::new(1000);
        assert_eq!(connection.message("0", || T0), Ok(connect("/")));
        connection.join("/", ID).unwrap();
        connection
    }

    #[test]
    fn connect_comes_first() {
        for packet in [
            "2[\"a\"]",
            "1",
            "31[]",
            "51-[\"a\",{\"_placeholder\":true,\"num\":0}]",
        ] {
            let mut connection = Connection::new(1000);
            let closed = connection.message(packet, || T0);
            assert_eq!(closed, Err(CloseReason::ParseError), "{packet}");
        }
    }

    #[test]
    fn a_second_connect_breaks_the_protocol() {
        assert_eq!(connected().join("/", ID), Err(JoinError::Joined));
    }

    #[test]
    fn connect_takes_an_object_only() {
        let auth = Signal::Connect {
            namespace: "/",
            query: "",
            auth: Some("{\"token\":1}"),
        };
        for (packet, expected) in [
            ("0{\"token\":1}", Ok(auth)),
            ("0[1]", Err(CloseReason::ParseError)),
            ("0null", Err(CloseReason::ParseError)),
            ("0\"x\"", Err(CloseReason::ParseError)),
        ] {
            let signal = Connection::new(1000);
            let mut signal = signal;
            assert_eq!(signal.message(packet, || T0), expected, "{packet}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_joined_takes_nothing() {
        let mut connection = connected();
        assert_eq!(connection.message("0/x,", || T0), Ok(connect("/x")));
        let asked = Signal::Connect {
            namespace: "/x",
            query: "a=1",
            auth: Some("{}"),
        };
        assert_eq!(connection.message("0/x?a=1,{}", || T0), Ok(asked));
        assert_eq!(connection.message("2[\"a\"]", || T0), Ok(event("[\"a\"]")));
        let closed = connection.message("2/x,[\"a\"]", || T0);
        assert_eq!(closed, Err(CloseReason::ParseError));
    }

    #[test]
    fn namespaces_are_apart_and_bounded() {
        let mut connection = connected();
        for n in 1..NAMESPACES_MAX {
            let id = Sid::new([u8::try_from(n).unwrap(); 15]);
            assert_eq!(connection.join(&format!("/{n}"), id), Ok(()));
            assert_eq!(connection.socket_id(&format!("/{n}")), Some(id));
        }
        assert_eq!(connection.join("/more", ID), Err(JoinError::TooMany));
        assert!(connection.leave("/3") && !connection.leave("/3"));
        assert_eq!(connection.socket_id("/3"), None);
        assert_eq!(connection.socket_id("/"), Some(ID));
        assert_eq!(connection.join("/more", ID), Err(JoinError::TooMany));
        assert_eq!(connection.join("/3", ID), Ok(()));
    }

    #[test]
    fn events_after_leaving_are_dropped_and_one_may_come_back() {
        let mut connection = connected();
        let left = Signal::Disconnect { namespace: "/" };
        assert_eq!(connection.message("1", || T0), Ok(left));
        assert_eq!(connection.message("2[\"a\"]", || T0), Ok(Signal::Nothing));
        assert_eq!(connection.message("1", || T0), Ok(Signal::Nothing));
        assert_eq!(connection.message("0", || T0), Ok(connect("/")));
        assert_eq!(connection.join("/", ID), Ok(()));
        assert_eq!(connection.message("2[\"a\"]", || T0), Ok(event("[\"a\"]")));
    }

    #[test]
    fn acks_name_what_they_answer() {
        let ack = |id, data| Signal::Ack {
            namespace: "/",
            id,
            data,
        };
        assert_eq!(connected().message("399[]", || T0), Ok(ack("99", "[]")));
        assert_eq!(connected().message("30[1]", || T0), Ok(ack("0", "[1]")));
        assert_eq!(connected().message("37", || T0), Ok(ack("7", "[]")));
        assert_eq!(connected().message("3[]", || T0), Ok(Signal::Nothing));
        let closed = connected().message("31{}", || T0);
        assert_eq!(closed, Err(CloseReason::ParseError));
    }

    const TWO: &str =
        "52-7[\"e\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]";

    #[test]
    fn attachments_complete_an_event() {
        let mut connection = connected();
        assert_eq!(connection.message(TWO, || T0), Ok(Signal::Nothing));
        assert_eq!(connection.attachment(b"a"), Ok(Signal::Nothing));
        let Ok(Signal::Complete(complete)) = connection.attachment(b"b") else {
            panic!()
        };
        assert!(complete.is_event);
        assert_eq!(complete.namespace, "/");
        assert_eq!(complete.id.as_deref(), Some("7"));
        assert_eq!(complete.attachments, [&b"a"[..], b"b"]);
        let none_due = connection.attachment(b"c");
        assert_eq!(none_due, Err(CloseReason::ParseError));
    }

    #[test]
    fn a_text_message_between_attachments_ends_the_connection() {
        let mut connection = connected();
        connection.message(TWO, || T0).unwrap();
        let closed = connection.message("2[\"a\"]", || T0);
        assert_eq!(closed, Err(CloseReason::ParseError));
    }

    #[test]
    fn attachments_are_bounded_in_sum_and_in_time() {
        let head = TWO.len() - "52-7".len();
        for (extra, expected) in [(0, Ok(Signal::Nothing)), (1, Err(CloseReason::TooLarge))] {
            let mut connection = Connection::new(head + 10);
            connection.join("/", ID).unwrap();
            connection.message(TWO, || T0).unwrap();
            assert_eq!(connection.attachment(&vec![0; 10 + extra]), expected);
            assert!(!connection.is_overdue(ATTACHMENTS_WITHIN));
            assert!(connection.is_overdue(ATTACHMENTS_WITHIN + Duration::from_millis(1)));
        }
    }

    #[test]
    fn attachments_complete_an_ack() {
        let mut connection = connected();
        let ack = "61-5[{\"_placeholder\":true,\"num\":0}]";
        assert_eq!(connection.message(ack, || T0), Ok(Signal::Nothing));
        let Ok(Signal::Complete(complete)) = connection.attachment(b"x") else {
            panic!()
        };
        assert!(!complete.is_event);
        assert_eq!(complete.id.as_deref(), Some("5"));
        assert!(connection.message("2[\"a\"]", || T0).is_ok());
    }

    #[test]
    fn what_is_complete_after_the_namespace_was_left_is_dropped() {
        let mut connection = connected();
        connection.message(TWO, || T0).unwrap();
        assert!(connection.leave("/"));
        assert_eq!(connection.attachment(b"a"), Ok(Signal::Nothing));
        assert_eq!(connection.attachment(b"b"), Ok(Signal::Nothing));
        connection.message(TWO, || T0).unwrap();
        assert_eq!(connection.attachment(b"a"), Ok(Signal::Nothing));
        assert_eq!(connection.attachment(b"b"), Ok(Signal::Nothing));
        assert_eq!(connection.attachment(b"c"), Err(CloseReason::ParseError));
    }

    proptest! {
        #[test]
        fn any_packets_are_survived(packets in prop::collection::vec("[0-6]?[/a,0-9-]{0,4}[\\[\\]{}\"a,]{0,8}", 0..20)) {
            let mut connection = Connection::new(1000);
            for packet in &packets {
                match connection.message(packet, || T0) {
                    Ok(Signal::Connect { namespace, .. }) => drop(connection.join(namespace, ID)),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }
}
