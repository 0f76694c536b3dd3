//! What each packet of a client does: one synchronous function, from bytes to a bounded queue.
//!
//! A socket's packets are handled in the order sent, on the task that read them; nothing here waits.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;

use crate::chat::draft::{self, Draft, Refused};
use crate::chat::id::{ConversationId, MessageIdMaker, UserId};
use crate::chat::rejection::{Rejection, push_json_string};
use crate::hub::Hub;
use crate::hub::session::Session;
use crate::metrics::Metrics;
use crate::pipeline::publish::{self, Publisher, Receipt};
use crate::pipeline::signals::{Signals, TypingSignal};
use crate::protocol::connection::{CloseReason, Signal};
use crate::protocol::engineio::{SID_BYTES, Sid};
use crate::protocol::event::{self, ClientEvent, Typing};

/// What clients' events do. Shared by all connections.
pub struct Handler {
    pub hub: Arc<Hub>,
    pub publisher: Arc<Publisher>,
    /// The way of typing to other nodes, where there are any.
    pub signals: Option<Arc<Signals>>,
    pub ids: Arc<MessageIdMaker>,
    pub metrics: Arc<Metrics>,
    pub rates: Rates,
}

/// Events a second that one socket may send; 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub messages: u32,
    pub typing: u32,
}

impl Handler {
    /// Takes a text packet, its Engine.IO type in front. `Err`: the session is to be closed.
    pub fn text(&self, session: &Arc<Session>, packet: &str) -> Result<(), CloseReason> {
        let now = self.hub.now();
        let signal = session.connection.lock().text(packet, now)?;
        self.act(session, signal, now)
    }

    /// Takes a binary message: an attachment.
    pub fn binary(&self, session: &Arc<Session>, payload: &[u8]) -> Result<(), CloseReason> {
        let signal = session.connection.lock().binary(payload)?;
        self.act(session, signal, self.hub.now())
    }

    fn act(
        &self,
        session: &Arc<Session>,
        signal: Signal<'_>,
        now: Duration,
    ) -> Result<(), CloseReason> {
        match signal {
            Signal::Nothing => {}
            Signal::Pong => session.pong(now),
            Signal::Connect => self.connect(session),
            Signal::UnknownNamespace(namespace) => {
                self.hub.send(session, event::invalid_namespace(namespace));
            }
            Signal::Disconnect => self.hub.leave_all(session),
            Signal::Event { data, ack } => return self.event(session, data, ack, now),
            // The chat has no binary fields: a placeholder where a string is due is refused like any other object.
            Signal::BinaryEvent(complete) => {
                return self.event(session, &complete.data, complete.ack.as_deref(), now);
            }
        }
        Ok(())
    }

    fn connect(&self, session: &Arc<Session>) {
        // The id of a socket is public, so it must not tell the session's: it is random on its own.
        let id = Sid::new(random::<SID_BYTES>());
        self.hub.send(session, event::connected(&id.to_string()));
    }

    fn event(
        &self,
        session: &Arc<Session>,
        data: &str,
        ack: Option<&str>,
        now: Duration,
    ) -> Result<(), CloseReason> {
        match ClientEvent::decode(data).map_err(|_| CloseReason::ParseError)? {
            ClientEvent::ChatMessage(json) => self.chat_message(session, json, ack, now),
            ClientEvent::JoinRoom(json) => self.join_room(session, json, ack),
            ClientEvent::Typing(json) => self.typing(session, true, json, now),
            ClientEvent::StopTyping(json) => self.typing(session, false, json, now),
            ClientEvent::Other => {
                self.metrics.events_ignored.inc();
            }
        }
        Ok(())
    }

    fn chat_message(&self, session: &Arc<Session>, json: &str, ack: Option<&str>, now: Duration) {
        let refused = match Draft::parse(json) {
            Err(refused) => refused,
            Ok(draft) => match self.submit(session, &draft, ack, now) {
                Ok(()) => return,
                Err(rejection) => {
                    let client_message_id = draft.client_message_id().map(str::to_owned);
                    Refused {
                        rejection,
                        client_message_id,
                    }
                }
            },
        };
        self.metrics.refused(refused.rejection.index());
        let client_message_id = refused.client_message_id.as_deref();
        publish::refuse(
            &self.hub,
            session,
            ack,
            &refused.rejection,
            client_message_id,
        );
    }

    fn submit(
        &self,
        session: &Arc<Session>,
        draft: &Draft<'_>,
        ack: Option<&str>,
        now: Duration,
    ) -> Result<(), Rejection> {
        if !session.allow_message(now, self.rates.messages) {
            return Err(Rejection::RateLimited);
        }
        let unix_ms = unix_ms();
        let id = draft
            .derived_id()
            .unwrap_or_else(|| self.ids.fresh(unix_ms / 1000));
        let receipt = Receipt::Socket {
            session: session.clone(),
            ack: ack.map(Box::from),
            client_message_id: draft.client_message_id().map(Box::from),
        };
        self.publisher.submit(draft.seal(id, unix_ms), receipt)
    }

    fn join_room(&self, session: &Arc<Session>, json: &str, ack: Option<&str>) {
        let joined = match draft::id_from_json(json, "user id") {
            Ok(Some(user)) => self.join(session, user),
            Ok(None) => Err(Rejection::Invalid("joinRoom needs a user id")),
            Err(rejection) => Err(rejection),
        };
        if let Err(rejection) = &joined {
            self.metrics.refused(rejection.index());
        }
        let Some(ack) = ack else { return };
        let answer = match joined {
            Ok(()) => event::ack_ok(ack),
            Err(rejection) => event::ack_error(ack, &rejection, None),
        };
        self.hub.send(session, answer);
    }

    fn join(&self, session: &Arc<Session>, user: Cow<'_, str>) -> Result<(), Rejection> {
        let room = UserId::new(user.into_owned()).ok_or(Rejection::Invalid("not a user id"))?;
        self.hub
            .join(session, room)
            .map_err(|_| Rejection::Invalid("too many rooms on this socket"))
    }

    /// Typing is volatile: what is malformed, too frequent or in the way of messages is dropped and counted.
    fn typing(&self, session: &Arc<Session>, is_typing: bool, json: &str, now: Duration) {
        let allowed = session.allow_typing(now, self.rates.typing);
        let relayed = allowed
            .then(|| self.relay_typing(session, is_typing, json))
            .flatten();
        if relayed.is_none() {
            self.metrics.typing_dropped.inc();
        }
    }

    fn relay_typing(&self, session: &Arc<Session>, is_typing: bool, json: &str) -> Option<()> {
        let typing: Typing<'_> = serde_json::from_str(json).ok()?;
        let sender = id(typing.sender_id)??;
        let receiver = id(typing.receiver_id)??;
        let conversation = match id(typing.conversation_id)? {
            Some(given) => given,
            None => Cow::Owned(
                ConversationId::between(&sender, &receiver)
                    .as_str()
                    .to_owned(),
            ),
        };
        self.hub.broadcast_volatile(&receiver, Some(session), || {
            let [sender, receiver, conversation] =
                [&sender, &receiver, &conversation].map(|id| json_string(id));
            event::typing(is_typing, &sender, &receiver, &conversation)
        });
        if let Some(signals) = &self.signals {
            signals.offer(&TypingSignal {
                is_typing,
                sender_id: sender,
                receiver_id: receiver,
                conversation_id: conversation,
            });
        }
        Some(())
    }
}

/// `None` when it is no id, `Some(None)` when it is missing.
fn id(value: Option<&RawValue>) -> Option<Option<Cow<'_, str>>> {
    draft::id_from_json(value.map_or("null", RawValue::get), "").ok()
}

fn json_string(text: &str) -> String {
    let mut json = Vec::with_capacity(text.len() + 2);
    push_json_string(&mut json, text);
    String::from_utf8(json).expect("JSON of a string is UTF-8")
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes from the operating system's random source.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}
