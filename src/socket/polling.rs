//! Long polling: a GET that waits for packets and a POST that brings some, at most one of each at a time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};

use crate::http::body::{self, CollectError};
use crate::http::reply::{self, Body, Reply};
use crate::hub::outbox::Taken;
use crate::hub::session::{Link, Session};
use crate::protocol::connection::CloseReason;
use crate::protocol::engineio::{
    self, HandshakeError, PAYLOAD_PACKETS_MAX, PayloadError, Polled, Revision,
};
use crate::protocol::engineio_v3::{self, Framing};
use crate::protocol::frame::Frame;
use crate::protocol::jsonp;
use crate::socket::answer::{self, refuse_polling};
use crate::socket::engine::Engine;

/// How long a GET that arrives during an upgrade is held before it is sent away empty: the upgrade's last packet may
/// be on its way on the other connection, and then this GET is to be refused.
const UPGRADE_GRACE: Duration = Duration::from_millis(5);

/// How long a goodbye waits for the GET that the client may have sent in the same moment on another connection: it is
/// then told the end, not refused.
const GOODBYE_GRACE: Duration = Duration::from_millis(5);

/// Bytes of packets in one answer, unless a single one is larger.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// The two requests of a polling session.
pub struct Polling<'a> {
    pub engine: &'a Engine,
    pub payload_bytes_max: usize,
}

/// What a GET is answered with.
enum Answer {
    Frames(Vec<Frame>),
    /// Nothing to say: the client is changing transports.
    Noop,
    /// The session went on by websocket while this request was on its way.
    Moved,
    Closed,
}

impl Polling<'_> {
    /// Waits for packets and answers with them.
    pub async fn get(&self, session: Arc<Session>) -> Reply {
        let was_probing = {
            let mut link = session.link.lock();
            match &mut *link {
                Link::WebSocket => return refuse_polling(HandshakeError::BadRequest),
                Link::Polling { get: true, .. } => {
                    drop(link);
                    return self.overlap(&session);
                }
                Link::Polling { get, probing, .. } => {
                    *get = true;
                    *probing
                }
            }
        };
        let mut held = Held {
            engine: self.engine,
            session: &session,
            is_answered: false,
        };
        let answer = wait(&session, was_probing).await;
        held.is_answered = true;
        drop(held);
        if let Link::Polling { get, .. } = &mut *session.link.lock() {
            *get = false;
        }
        match answer {
            Answer::Frames(frames) => answer::packets(&session.handshake, &frames),
            Answer::Noop => answer::packets(&session.handshake, &[Frame::noop()]),
            Answer::Moved => refuse_polling(HandshakeError::BadRequest),
            Answer::Closed => {
                self.engine.hub.forget(&session);
                let last = match session.closed() {
                    // It said goodbye itself.
                    Some(CloseReason::TransportClose) => Frame::noop(),
                    // Some clients take our goodbye as final; after a failure all of them come back.
                    Some(CloseReason::ServerShuttingDown) => {
                        return refuse_polling(HandshakeError::SessionIdUnknown);
                    }
                    _ => Frame::close(),
                };
                answer::packets(&session.handshake, &[last])
            }
        }
    }

    /// Two requests of a kind at once end the session: the first is told, the second refused.
    fn overlap(&self, session: &Arc<Session>) -> Reply {
        self.engine.hub.close(session, CloseReason::Overlap);
        refuse_polling(HandshakeError::BadRequest)
    }

    /// Takes the packets of a POST, in order.
    pub async fn post(&self, session: Arc<Session>, request: Request<Body>) -> Reply {
        {
            let mut link = session.link.lock();
            match &mut *link {
                Link::WebSocket => return refuse_polling(HandshakeError::BadRequest),
                Link::Polling { post: true, .. } => {
                    drop(link);
                    return self.overlap(&session);
                }
                Link::Polling { post, .. } => *post = true,
            }
        }
        let _posting = Posting(&session);
        if session.closed().is_some() {
            return refuse_polling(HandshakeError::SessionIdUnknown);
        }
        let framing = framing(&request);
        if framing == Framing::Binary && session.handshake.revision == Revision::V4 {
            self.engine.hub.close(&session, CloseReason::ParseError);
            return refuse_polling(HandshakeError::BadRequest);
        }
        match self.collect(request).await {
            Ok(body) => {
                if let Err(reason) = self.receive(&session, body, framing) {
                    // Also when this request is broken off.
                    let _ended = Ended(self.engine, &session, reason);
                    if reason == CloseReason::TransportClose && !is_held(&session) {
                        tokio::time::sleep(GOODBYE_GRACE).await;
                    }
                }
                reply::reply(StatusCode::OK, "text/html", "ok")
            }
            // The session stays: the client may send less.
            Err(CollectError::TooLarge) => reply::empty(StatusCode::PAYLOAD_TOO_LARGE),
            Err(CollectError::Broken) => {
                self.engine.hub.close(&session, CloseReason::TransportError);
                refuse_polling(HandshakeError::BadRequest)
            }
        }
    }

    fn receive(
        &self,
        session: &Arc<Session>,
        mut body: Vec<u8>,
        framing: Framing,
    ) -> Result<(), CloseReason> {
        if session.handshake.polling.jsonp.is_some() {
            body = jsonp::payload(&body).map_err(|_| CloseReason::ParseError)?;
        }
        match session.handshake.revision {
            Revision::V4 => self.take(session, engineio::packets(&mut body)),
            Revision::V3 => self.take(session, engineio_v3::packets(&mut body, framing)),
        }
    }

    fn take<'b>(
        &self,
        session: &Arc<Session>,
        packets: impl Iterator<Item = Result<Polled<'b>, PayloadError>>,
    ) -> Result<(), CloseReason> {
        for packet in packets {
            // Closed by a packet before, or by another request while this one was on its way.
            if session.closed().is_some() {
                return Ok(());
            }
            match packet.map_err(|_| CloseReason::ParseError)? {
                Polled::Text(text) => {
                    let text = str::from_utf8(text).map_err(|_| CloseReason::ParseError)?;
                    self.engine.text(session, text)?;
                }
                Polled::Binary(payload) => self.engine.binary(session, &payload)?,
            }
        }
        Ok(())
    }

    async fn collect(&self, request: Request<Body>) -> Result<Vec<u8>, CollectError> {
        let declared = body::declared_length(request.headers());
        if declared.is_some_and(|length| length > self.payload_bytes_max as u64) {
            return Err(CollectError::TooLarge);
        }
        body::collect(request.into_body(), self.payload_bytes_max).await
    }
}

fn framing(request: &Request<Body>) -> Framing {
    let kind = request.headers().get(CONTENT_TYPE);
    Framing::of_content_type(kind.and_then(|value| value.to_str().ok()))
}

/// Waits until there are packets, the session ends, or the client is changing transports.
async fn wait(session: &Session, was_probing: bool) -> Answer {
    let grace = tokio::time::sleep(UPGRADE_GRACE);
    let mut grace = pin!(grace);
    let mut frames = Vec::new();
    let mut bytes = 0;
    poll_fn(|cx| {
        // Held while frames are taken: once the session has moved, they are the websocket's.
        let link = session.link.lock();
        if *link == Link::WebSocket {
            return Poll::Ready(if was_probing {
                Answer::Moved
            } else {
                Answer::Noop
            });
        }
        let taken = session.outbox.poll_take(cx, |frame| {
            let fits = frames.is_empty()
                || (frames.len() < PAYLOAD_PACKETS_MAX && bytes + frame.len() <= ANSWER_BYTES_MAX);
            if fits {
                bytes += frame.len();
                frames.push(frame.clone());
            }
            fits
        });
        match taken {
            Poll::Ready(Taken::Frames) => Poll::Ready(Answer::Frames(std::mem::take(&mut frames))),
            Poll::Ready(Taken::Closed | Taken::Overflowed) => Poll::Ready(Answer::Closed),
            Poll::Pending if !matches!(*link, Link::Polling { probing: true, .. }) => Poll::Pending,
            Poll::Pending if was_probing => grace.as_mut().poll(cx).map(|()| Answer::Noop),
            Poll::Pending => Poll::Ready(Answer::Noop),
        }
    })
    .await
}

/// A GET that waits. Dropped without an answer, its client has gone, and the session with it, unless that is on a
/// websocket by now.
struct Held<'a> {
    engine: &'a Engine,
    session: &'a Arc<Session>,
    is_answered: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.is_answered && *self.session.link.lock() != Link::WebSocket {
            self.engine
                .hub
                .close(self.session, CloseReason::TransportClose);
        }
    }
}

fn is_held(session: &Session) -> bool {
    matches!(*session.link.lock(), Link::Polling { get: true, .. })
}

/// Ends a session when it is dropped.
struct Ended<'a>(&'a Engine, &'a Arc<Session>, CloseReason);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.hub.close(self.1, self.2);
    }
}

/// A POST under way.
struct Posting<'a>(&'a Session);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        if let Link::Polling { post, .. } = &mut *self.0.link.lock() {
            *post = false;
        }
    }
}
