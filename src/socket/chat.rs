//! What the chat does with its clients' events: one synchronous function each, from bytes to a bounded queue.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::chat::draft::{self, Draft, Refused};
use crate::chat::id::{ConversationId, MessageIdMaker, UserId};
use crate::chat::rejection::Rejection;
use crate::hub::Hub;
use crate::hub::session::Session;
use crate::json::{Raw, Value};
use crate::metrics::Metrics;
use crate::pipeline::publish::{self, Publisher, Receipt};
use crate::pipeline::signals::{Signals, TypingSignal};
use crate::protocol::event::{self, ClientEvent, Typing};
use crate::socket::namespaces::{Application, Connect, ConnectError, Event, Socket};

/// The chat. Shared by all connections.
pub struct Chat {
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

impl Application for Chat {
    /// There is one namespace.
    fn admit(&self, connect: &Connect<'_>) -> Result<(), ConnectError> {
        match connect.namespace {
            "/" => Ok(()),
            _ => Err(ConnectError::INVALID_NAMESPACE),
        }
    }

    /// The chat has no binary fields: a placeholder where a string is due is refused like any other object.
    fn event(&self, socket: &Socket<'_>, event: &Event<'_>) {
        let (session, ack) = (socket.session, event.ack);
        match ClientEvent::new(event.name, event.first) {
            ClientEvent::ChatMessage(json) => self.chat_message(session, json, ack),
            ClientEvent::JoinRoom(json) => self.join_room(session, json, ack),
            ClientEvent::Typing(json) => self.typing(session, true, json),
            ClientEvent::StopTyping(json) => self.typing(session, false, json),
            ClientEvent::Other => {
                self.metrics.events_ignored.inc();
            }
        }
    }

    fn left(&self, socket: &Socket<'_>) {
        self.hub.leave_all(socket.session);
    }
}

impl Chat {
    fn chat_message(&self, session: &Arc<Session>, json: Value<'_>, ack: Option<&str>) {
        self.hub.asked(session);
        let refused = match Draft::read(json) {
            Err(refused) => refused,
            Ok(draft) => match self.submit(session, &draft, ack) {
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
    ) -> Result<(), Rejection> {
        if !session.allow_message(|| self.hub.now(), self.rates.messages) {
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

    fn join_room(&self, session: &Arc<Session>, json: Value<'_>, ack: Option<&str>) {
        let joined = match draft::id_from_json(json.get(), "user id") {
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
    fn typing(&self, session: &Arc<Session>, is_typing: bool, json: Value<'_>) {
        let allowed = session.allow_typing(|| self.hub.now(), self.rates.typing);
        let relayed = allowed
            .then(|| self.relay_typing(session, is_typing, json))
            .flatten();
        if relayed.is_none() {
            self.metrics.typing_dropped.inc();
        }
    }

    fn relay_typing(&self, session: &Arc<Session>, is_typing: bool, json: Value<'_>) -> Option<()> {
        let typing = Typing::read(json).ok()?;
        let sender = id(typing.sender_id)??;
        let receiver = id(typing.receiver_id)??;
        let conversation = match id(typing.conversation_id)? {
            Some(given) => given,
            None => Cow::Owned(ConversationId::text_between(&sender, &receiver)),
        };
        self.hub.broadcast_volatile(&receiver, Some(session), || {
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
fn id(value: Option<Raw<'_>>) -> Option<Option<Cow<'_, str>>> {
    draft::id_from_json(value.unwrap_or(Raw::from("null")), "").ok()
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
