//! Socket.IO over Engine.IO: namespaces, events and acknowledgements both ways, as an interface for applications.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::http::query;
use crate::hub::Hub;
use crate::hub::acks::AckError;
use crate::hub::session::Session;
use crate::json;
use crate::protocol::connection::{CloseReason, Complete, JoinError, Signal};
use crate::protocol::engineio::{Revision, SID_BYTES, Sid};
use crate::protocol::frame::Frame;
use crate::protocol::recovery::Claim;
use crate::protocol::socketio::{self, EventArgs, Payload};
use crate::protocol::{msgpack, socketio_v4};
use crate::socket::engine::Messages;
use crate::socket::random;

// === Application ===

/// What an application does with its sockets. A socket's events come in the order sent, on the task that read them:
/// nothing here may wait.
pub trait Application: Send + Sync {
    /// Whether a client may join a namespace.
    fn admit(&self, connect: &Connect<'_>) -> Result<(), ConnectError>;

    /// A client has joined: it has been told so.
    fn connected(&self, _socket: &Socket<'_>, _connect: &Connect<'_>) {}

    /// A client has sent an event.
    fn event(&self, socket: &Socket<'_>, event: &Event<'_>);

    /// A client has left the namespace; its connection stays. Not called when the connection ends.
    fn left(&self, _socket: &Socket<'_>) {}
}

/// A client's wish to join a namespace.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    pub session: &'a Session,
    pub namespace: &'a str,
    /// A JSON object. Of clients of revision 4 the namespace's query.
    pub auth: Option<&'a str>,
}

/// Why a client may not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    pub message: Cow<'static, str>,
    /// JSON, for the application's own clients.
    pub data: Option<Cow<'static, str>>,
}

impl ConnectError {
    /// There is no namespace of that name.
    pub const INVALID_NAMESPACE: Self = Self::new("Invalid namespace");
    /// The connection has been in as many namespaces as it may.
    const TOO_MANY: Self = Self::new("Too many namespaces");

    pub const fn new(message: &'static str) -> Self {
        Self {
            message: Cow::Borrowed(message),
            data: None,
        }
    }
}

/// An event of a client.
#[derive(Debug)]
pub struct Event<'a> {
    pub name: &'a str,
    pub payload: Payload<'a>,
    /// The first argument, as it was read; a missing one is `null`.
    pub first: json::Value<'a>,
    /// What to acknowledge it with, once, when the client asked for that.
    pub ack: Option<&'a str>,
}

// === Socket ===

/// One client in one namespace.
#[derive(Clone, Copy)]
pub struct Socket<'a> {
    pub hub: &'a Arc<Hub>,
    pub session: &'a Arc<Session>,
    pub namespace: &'a str,
}

impl Socket<'_> {
    /// The socket's id; `None` when it has left the namespace.
    pub fn id(&self) -> Option<String> {
        let id = self.session.connection.lock().socket_id(self.namespace)?;
        Some(match self.session.handshake.revision {
            Revision::V3 => socketio_v4::socket_id(self.namespace, id),
            Revision::V4 => id.to_string(),
        })
    }

    /// Sends an event.
    pub fn emit(&self, name: &str, payload: Payload<'_>) {
        self.send_event(None, name, payload);
    }

    /// Sends an event and expects its acknowledgement: `on_ack` hears once, of the answer or that there is none.
    pub fn ask(
        &self,
        name: &str,
        payload: Payload<'_>,
        within: Duration,
        on_ack: impl FnOnce(&Socket<'_>, Result<Payload<'_>, AckError>) + Send + 'static,
    ) {
        let (hub, session) = (self.hub.clone(), self.session.clone());
        let namespace: Box<str> = self.namespace.into();
        let on_ack = move |answer: Result<Payload<'_>, AckError>| {
            let socket = Socket {
                hub: &hub,
                session: &session,
                namespace: &namespace,
            };
            on_ack(&socket, answer);
        };
        let send = |id| self.send_event(Some(id), name, payload);
        self.hub
            .ask(self.session, self.namespace, within, Box::new(on_ack), send);
    }

    /// Acknowledges a client's event.
    pub fn acknowledge(&self, id: &str, payload: Payload<'_>) {
        let head = Frame::text(payload.size() + 64, |out| {
            socketio::write_ack(out, self.namespace, id, payload);
        });
        self.send(head, payload.attachments);
    }

    /// Takes the client out of the namespace, and tells it; it will not come back by itself.
    pub fn disconnect(&self) {
        if self.session.connection.lock().leave(self.namespace) {
            let packet = |out: &mut Vec<u8>| socketio::write_disconnect(out, self.namespace);
            self.hub.send(self.session, Frame::text(16, packet));
            if let Some(recovery) = self.hub.recovery() {
                recovery.forget(self.session);
            }
            self.hub.give_up_acks(self.session, Some(self.namespace));
        }
    }

    /// Ends the client's connection, in all namespaces, once what is queued has gone out. It may come back.
    pub fn close(&self) {
        self.hub.close(self.session, CloseReason::ForcedServerClose);
    }

    fn send_event(&self, id: Option<u64>, name: &str, payload: Payload<'_>) {
        let head = Frame::text(payload.size() + name.len() + 64, |out| {
            socketio::write_event(out, self.namespace, id, name, payload);
        });
        self.send(head, payload.attachments);
    }

    fn send(&self, head: Frame, attachments: &[Bytes]) {
        let attachments = attachments.iter().map(|bytes| Frame::binary(bytes));
        self.hub
            .send_all(self.session, std::iter::once(head).chain(attachments));
    }
}

/// The namespace whose sockets are in rooms: the only one that is recovered.
const RECOVERABLE: &str = "/";

// === Namespaces ===

/// Brings clients' packets to an application.
pub struct Namespaces<A> {
    pub hub: Arc<Hub>,
    pub application: A,
}

impl<A: Application> Messages for Namespaces<A> {
    /// A client of revision 3 is in `/` without asking.
    fn open(&self, session: &Arc<Session>) {
        if session.handshake.revision == Revision::V3 {
            let unasked = Signal::Connect {
                namespace: "/",
                query: "",
                auth: None,
            };
            let taken = self.act(session, unasked);
            debug_assert!(taken.is_ok(), "it cannot be there already");
        }
    }

    fn text(&self, session: &Arc<Session>, message: &str) -> Result<(), CloseReason> {
        // A connection stays with the parser that it began with.
        if session.speaks_msgpack() {
            return Err(CloseReason::ParseError);
        }
        let signal = session
            .connection
            .lock()
            .message(message, || self.hub.now())?;
        self.act(session, signal)
    }

    fn binary(&self, session: &Arc<Session>, message: &[u8]) -> Result<(), CloseReason> {
        let mut connection = session.connection.lock();
        // Nothing announces the parser but the first packet, CONNECT. It never comes with attachments.
        if !connection.has_connected() && msgpack::is_packet(message) {
            session.speak_msgpack();
        }
        if session.speaks_msgpack() {
            drop(connection);
            return self.msgpack(session, message);
        }
        let signal = connection.attachment(message)?;
        drop(connection);
        self.act(session, signal)
    }
}

impl<A: Application> Namespaces<A> {
    /// A packet with its attachments in it.
    fn msgpack(&self, session: &Arc<Session>, message: &[u8]) -> Result<(), CloseReason> {
        let decoded = msgpack::read::decode(message, self.hub.payload_bytes_max());
        let decoded = decoded.map_err(|_| CloseReason::ParseError)?;
        let now = || self.hub.now();
        let signal = session.connection.lock().packet(decoded.packet(), now)?;
        self.act(session, signal)?;
        for attachment in &decoded.attachments {
            let signal = session.connection.lock().attachment(attachment)?;
            self.act(session, signal)?;
        }
        Ok(())
    }

    fn act(&self, session: &Arc<Session>, signal: Signal<'_>) -> Result<(), CloseReason> {
        let hub = &self.hub;
        let socket = |namespace| Socket {
            hub,
            session,
            namespace,
        };
        match signal {
            Signal::Nothing => Ok(()),
            Signal::Connect {
                namespace,
                query,
                auth,
            } => {
                let from_query = json_of_query(query);
                let connect = Connect {
                    session,
                    namespace,
                    auth: auth.or(from_query.as_deref()),
                };
                self.connect(&socket(namespace), &connect)
            }
            Signal::Disconnect { namespace } => {
                hub.give_up_acks(session, Some(namespace));
                self.application.left(&socket(namespace));
                Ok(())
            }
            Signal::Event {
                namespace,
                data,
                ack,
            } => self.event(&socket(namespace), data, ack, &[]),
            Signal::Ack {
                namespace,
                id,
                data,
            } => acknowledged(&socket(namespace), id, data, &[]),
            Signal::Complete(complete) => {
                let Complete {
                    is_event,
                    namespace,
                    data,
                    id,
                    attachments,
                } = &*complete;
                let socket = socket(namespace);
                match (is_event, id.as_deref()) {
                    (true, ack) => self.event(&socket, data, ack, attachments),
                    (false, Some(id)) => acknowledged(&socket, id, data, attachments),
                    (false, None) => Ok(()),
                }
            }
        }
    }

    fn connect(&self, socket: &Socket<'_>, connect: &Connect<'_>) -> Result<(), CloseReason> {
        let Socket {
            session, namespace, ..
        } = *socket;
        let admitted = self.application.admit(connect);
        let recovery = self
            .hub
            .recovery()
            .filter(|_| session.handshake.revision == Revision::V4 && namespace == RECOVERABLE);
        if admitted.is_ok() && recovery.is_some() && self.resume(socket, connect) {
            self.application.connected(socket, connect);
            return Ok(());
        }
        let joined = match admitted {
            Err(error) => Err(error),
            Ok(()) => {
                let id = match session.handshake.revision {
                    // Public, so it must not tell the session's: it is random on its own.
                    Revision::V4 => Sid::new(random::<SID_BYTES>()),
                    // Clients of revision 3 take the session's, whatever the server thinks of that.
                    Revision::V3 => session.sid,
                };
                match session.connection.lock().join(namespace, id) {
                    Ok(()) => Ok(id),
                    Err(JoinError::Joined) => return Err(CloseReason::ParseError),
                    Err(JoinError::TooMany) => Err(ConnectError::TOO_MANY),
                }
            }
        };
        let pid = recovery.zip(joined.as_ref().ok()).map(|(recovery, id)| {
            let pid = Sid::new(random::<SID_BYTES>());
            recovery.begin(session, pid, *id);
            pid
        });
        let revision = session.handshake.revision;
        let answer = Frame::text(48 + namespace.len(), |out| match (&joined, revision) {
            (Ok(id), Revision::V4) => write_connect(out, namespace, *id, pid),
            (Ok(_), Revision::V3) => socketio_v4::write_connect(out, namespace),
            (Err(ConnectError { message, data }), Revision::V4) => {
                socketio::write_connect_error(out, namespace, message, data.as_deref());
            }
            (Err(ConnectError { message, data }), Revision::V3) => {
                socketio_v4::write_error(out, namespace, message, data.as_deref());
            }
        });
        self.hub.send(session, answer);
        if joined.is_ok() {
            self.application.connected(socket, connect);
        }
        Ok(())
    }

    /// Whether the client has got the session that it came back for.
    fn resume(&self, socket: &Socket<'_>, connect: &Connect<'_>) -> bool {
        let Some(claim) = connect.auth.and_then(Claim::parse) else {
            return false;
        };
        if socket.id().is_some() {
            return false; // To ask again breaks the protocol, and is no reason to end what it asks for.
        }
        let reply = |id| {
            Frame::text(96, |out| {
                write_connect(out, socket.namespace, id, Some(claim.pid))
            })
        };
        let resumed = self.hub.resume(socket.session, &claim, reply);
        resumed.is_ok()
    }

    fn event(
        &self,
        socket: &Socket<'_>,
        data: &str,
        ack: Option<&str>,
        attachments: &[Bytes],
    ) -> Result<(), CloseReason> {
        let mut read = EventArgs::default();
        read.read(data).map_err(|_| CloseReason::ParseError)?;
        let event = Event {
            name: &read.name,
            payload: Payload {
                args: &read.args,
                attachments,
            },
            first: read.first(),
            ack,
        };
        self.application.event(socket, &event);
        Ok(())
    }
}

fn write_connect(out: &mut Vec<u8>, namespace: &str, id: Sid, pid: Option<Sid>) {
    let pid = pid.map(|pid| pid.to_string());
    socketio::write_connect(out, namespace, &id.to_string(), pid.as_deref());
}

/// A query as a JSON object of strings; of a name that comes twice, the last one counts. None when it is empty.
fn json_of_query(query: &str) -> Option<String> {
    let members: serde_json::Map<_, _> = query::pairs(Some(query))
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .collect();
    (!members.is_empty()).then(|| serde_json::Value::Object(members).to_string())
}

fn acknowledged(
    socket: &Socket<'_>,
    id: &str,
    data: &str,
    attachments: &[Bytes],
) -> Result<(), CloseReason> {
    let args = socketio::ack_args(data).map_err(|_| CloseReason::ParseError)?;
    let payload = Payload {
        args: &args,
        attachments,
    };
    socket
        .hub
        .acknowledge(socket.session, socket.namespace, id, payload);
    Ok(())
}
