//! Engine.IO: sessions that carry messages, whatever the messages mean.

use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::session::Session;
use crate::metrics::Metrics;
use crate::protocol::connection::CloseReason;
use crate::protocol::engineio::Revision;
use crate::protocol::engineio_v3;
use crate::protocol::incoming::{Incoming, incoming};

/// What the messages of a session mean. They come in the order sent, on the task that read them: nothing
/// here may wait. `Err`: the session is to be closed.
pub trait Messages: Send + Sync {
    /// A session has begun. What is queued here goes out right behind the handshake.
    fn open(&self, session: &Arc<Session>);
    fn text(&self, session: &Arc<Session>, message: &str) -> Result<(), CloseReason>;
    fn binary(&self, session: &Arc<Session>, message: &[u8]) -> Result<(), CloseReason>;
}

/// All sessions of one endpoint.
pub struct Engine {
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub messages: Box<dyn Messages>,
}

impl Engine {
    /// Takes a text packet, its type in front. `Err`: the session is to be closed.
    pub fn text(&self, session: &Arc<Session>, packet: &str) -> Result<(), CloseReason> {
        self.is_alive(session);
        let packet = incoming(packet, session.handshake.revision);
        match packet.map_err(|_| CloseReason::ParseError)? {
            Incoming::Message(text) => return self.messages.text(session, text),
            Incoming::Binary(payload) => return self.messages.binary(session, &payload),
            Incoming::Ping(data) => {
                self.hub.heard(session);
                self.hub.send(session, engineio_v3::pong(data));
            }
            Incoming::Pong => self.hub.heard(session),
            Incoming::Close => return Err(CloseReason::TransportClose),
            Incoming::Noop => {}
        }
        Ok(())
    }

    /// Takes a binary message. `Err`: the session is to be closed.
    pub fn binary(&self, session: &Arc<Session>, message: &[u8]) -> Result<(), CloseReason> {
        self.is_alive(session);
        self.messages.binary(session, message)
    }

    /// Of a client that sends the pings, any packet shows that it is there. One that is pinged has to answer.
    fn is_alive(&self, session: &Session) {
        if session.handshake.revision == Revision::V3 {
            session.heard(self.hub.now());
        }
    }
}
