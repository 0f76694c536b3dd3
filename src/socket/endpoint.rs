//! The path `/socket.io/`: the handshake's checks, in the reference server's order, and the choice of transport.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastwebsockets::upgrade;
use http::header::{
    CONNECTION, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    SET_COOKIE, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};

use crate::drain::Tasks;
use crate::http::query;
use crate::http::reply::{self, Body, Reply};
use crate::http::slots::Slot;
use crate::http::stack::is_allowed_origin;
use crate::hub::session::{Handshake, Link, PollingForm, Session};
use crate::protocol::engineio::{HandshakeError, Open, Revision, SID_BYTES, Sid};
use crate::protocol::frame::Frame;
use crate::protocol::jsonp;
use crate::socket::answer;
use crate::socket::client_files::ClientFiles;
use crate::socket::engine::Engine;
use crate::socket::polling::Polling;
use crate::socket::random;
use crate::socket::websocket::{self, Peer};

/// Serves all requests below the Socket.IO path.
pub struct Endpoint {
    pub engine: Arc<Engine>,
    pub options: Options,
    /// The client's own files, below the Socket.IO path.
    pub client_files: ClientFiles,
    pub tasks: Tasks,
}

/// What the endpoint promises its clients.
#[derive(Clone, Debug)]
pub struct Options {
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub upgrade_timeout: Duration,
    pub payload_bytes_max: usize,
    /// Origins that may connect; none: any.
    pub cors_origins: Vec<String>,
    pub polling: bool,
    pub websocket: bool,
    /// Whether a polling session may go on by websocket.
    pub upgrades: bool,
    /// Whether clients of revision 3 are served.
    pub revision_3: bool,
    /// Whether polling may be by JSONP.
    pub jsonp: bool,
    /// Name of a cookie with the session's id, on the first polling answer.
    pub cookie: Option<String>,
}

/// A request that passed the checks.
enum Asked {
    /// Begin a session.
    New(Handshake),
    /// Go on with this one.
    Known(Arc<Session>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Polling,
    WebSocket,
}

impl Endpoint {
    /// Answers one request; a long poll waits here. `rest` is what follows the Socket.IO path.
    pub async fn serve(&self, rest: &str, request: Request<Body>) -> Reply {
        if matches!(*request.method(), Method::GET | Method::HEAD)
            && let Some(file) = self.client_files.get(rest, request.headers())
        {
            return file;
        }
        let wants_websocket = wants_websocket(request.headers());
        match (self.check(&request, wants_websocket), wants_websocket) {
            (Ok(asked), true) => self.websocket(request, asked),
            (Err(error), true) => answer::refuse_websocket(error),
            (Ok(Asked::New(handshake)), false) => self.begin_polling(handshake).await,
            (Ok(Asked::Known(session)), false) => self.poll(request, session).await,
            (Err(error), false) => answer::refuse_polling(error),
        }
    }

    /// The checks of the reference server, in its order.
    fn check(
        &self,
        request: &Request<Body>,
        wants_websocket: bool,
    ) -> Result<Asked, HandshakeError> {
        let query = request.uri().query();
        let transport = match query::value(query, "transport").as_deref() {
            Some("polling") if self.options.polling => Transport::Polling,
            Some("websocket") if self.options.websocket => Transport::WebSocket,
            _ => return Err(HandshakeError::TransportUnknown),
        };
        if request
            .headers()
            .get_all(ORIGIN)
            .iter()
            .any(|origin| origin.to_str().is_err())
        {
            return Err(HandshakeError::BadRequest);
        }
        let known = match query::non_empty(query, "sid") {
            Some(sid) => Some(self.known(&sid, transport, wants_websocket)?),
            None if request.method() != Method::GET => {
                return Err(HandshakeError::BadHandshakeMethod);
            }
            None if (transport == Transport::WebSocket) != wants_websocket => {
                return Err(HandshakeError::BadRequest);
            }
            None => None,
        };
        if !is_allowed_origin(request, &self.options.cors_origins) {
            return Err(HandshakeError::Forbidden);
        }
        match known {
            Some(session) => Ok(Asked::Known(session)),
            None => self.handshake(query, transport).map(Asked::New),
        }
    }

    /// What the first request fixes for the session.
    fn handshake(
        &self,
        query: Option<&str>,
        transport: Transport,
    ) -> Result<Handshake, HandshakeError> {
        let revision = query::value(query, "EIO").and_then(|eio| Revision::parse(&eio));
        let revision = revision
            .filter(|revision| *revision == Revision::V4 || self.options.revision_3)
            .ok_or(HandshakeError::UnsupportedProtocolVersion)?;
        let jsonp = match query::value(query, "j") {
            None => None,
            // A session that begins on a websocket never polls.
            Some(_) if transport == Transport::WebSocket => None,
            Some(_) if !self.options.jsonp => return Err(HandshakeError::BadRequest),
            Some(j) => Some(jsonp::Index::parse(&j).ok_or(HandshakeError::BadRequest)?),
        };
        let base64 = wants_base64(query);
        Ok(Handshake {
            revision,
            polling: PollingForm { base64, jsonp },
            query: query::without(query, RESERVED_KEYS).into(),
        })
    }

    /// The session of a request that names one.
    fn known(
        &self,
        sid: &str,
        transport: Transport,
        wants_websocket: bool,
    ) -> Result<Arc<Session>, HandshakeError> {
        let session = Sid::parse(sid).and_then(|sid| self.engine.hub.get(sid));
        let session = session.ok_or(HandshakeError::SessionIdUnknown)?;
        let fits = match transport {
            Transport::Polling => !wants_websocket && *session.link.lock() != Link::WebSocket,
            // One too many is closed once it is open, as the reference server does.
            Transport::WebSocket => wants_websocket && self.options.upgrades,
        };
        if fits {
            Ok(session)
        } else {
            Err(HandshakeError::BadRequest)
        }
    }

    // --- polling ---

    /// The first answer, with what the application says right away.
    async fn begin_polling(&self, handshake: Handshake) -> Reply {
        // Between two polls a session holds no connection, so the limit on those does not bound it.
        if self.engine.hub.is_full() {
            self.engine.metrics.sessions_refused.inc();
            let busy = StatusCode::SERVICE_UNAVAILABLE;
            return reply::reply(busy, "text/plain", "too many sessions, try again");
        }
        let link = Link::Polling {
            get: false,
            post: false,
            probing: false,
        };
        let session = self.begin(link, handshake);
        self.engine.metrics.handshakes_polling.inc();
        let sid = session.sid;
        let mut answer = self.polling().get(session).await;
        if let Some(name) = &self.options.cookie {
            let cookie = format!("{name}={sid}; Path=/; HttpOnly; SameSite=Lax");
            let cookie = HeaderValue::try_from(cookie);
            let cookie = cookie.expect("the name is a token, as the configuration checks");
            answer.headers_mut().insert(SET_COOKIE, cookie);
        }
        answer
    }

    async fn poll(&self, request: Request<Body>, session: Arc<Session>) -> Reply {
        match *request.method() {
            Method::GET => self.polling().get(session).await,
            Method::POST => self.polling().post(session, request).await,
            // The session survives; the reference server answers so.
            _ => reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn polling(&self) -> Polling<'_> {
        Polling {
            engine: &self.engine,
            payload_bytes_max: self.options.payload_bytes_max,
        }
    }

    // --- websocket ---

    fn websocket(&self, mut request: Request<Body>, asked: Asked) -> Reply {
        let version = request.headers().get(SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version != "13") {
            let refusal = reply::reply(
                StatusCode::UPGRADE_REQUIRED,
                "text/plain",
                "version 13 only",
            );
            return reply::with(refusal, SEC_WEBSOCKET_VERSION, "13");
        }
        if request.method() != Method::GET
            || request.version() != Version::HTTP_11
            || !has_key(request.headers())
        {
            return answer::refuse_websocket(HandshakeError::BadRequest);
        }
        let slot = request.extensions_mut().remove::<Slot>();
        let Ok((mut response, upgraded)) = upgrade::upgrade(&mut request) else {
            return answer::refuse_websocket(HandshakeError::BadRequest);
        };
        if let Some(protocol) = first_protocol(request.headers()) {
            let headers = response.headers_mut();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let supports_binary = !wants_base64(request.uri().query());
        let (session, is_probe) = match asked {
            Asked::New(handshake) => (self.begin_websocket(handshake), false),
            Asked::Known(session) => (session, true),
        };
        let bytes_max = self.options.payload_bytes_max;
        let peer = Peer::new(session, self.engine.clone(), bytes_max, supports_binary);
        let upgrade_timeout = is_probe.then_some(self.options.upgrade_timeout);
        let tasks = self.tasks.clone();
        // The answer leaves with the session's first packet. Last, for nothing else could be answered from here on.
        if let Some(slot) = &slot {
            slot.cork();
        }
        let run = websocket::run(upgraded, peer, upgrade_timeout, slot, tasks);
        self.tasks.spawn("websocket upgrade", run);
        response.map(reply::boxed)
    }

    fn begin_websocket(&self, handshake: Handshake) -> Arc<Session> {
        let session = self.begin(Link::WebSocket, handshake);
        self.engine.metrics.handshakes_websocket.inc();
        session
    }

    // --- both ---

    /// Begins a session, with its handshake queued to the client.
    fn begin(&self, link: Link, handshake: Handshake) -> Arc<Session> {
        let sid = Sid::new(random::<SID_BYTES>());
        let upgrades: &[&str] = match link {
            Link::Polling { .. } if self.options.websocket && self.options.upgrades => {
                &["websocket"]
            }
            _ => &[],
        };
        let session = self.engine.hub.open(sid, link, handshake);
        let packet = |out: &mut Vec<u8>| self.open_packet(sid, upgrades).write(out);
        self.engine.hub.send(&session, Frame::text(160, packet));
        self.engine.messages.open(&session);
        session
    }

    fn open_packet<'a>(&self, sid: Sid, upgrades: &'a [&'a str]) -> Open<'a> {
        Open {
            sid,
            upgrades,
            ping_interval: self.options.ping_interval,
            ping_timeout: self.options.ping_timeout,
            max_payload: self.options.payload_bytes_max,
        }
    }
}

/// Whether the client of a transport cannot read binary messages on it. Of clients of revision 4 nobody needs to know.
fn wants_base64(query: Option<&str>) -> bool {
    query::non_empty(query, "b64").is_some()
}

/// Whether a websocket handshake brings 16 bytes of its own to be answered.
fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) => STANDARD
            .decode(key)
            .is_ok_and(|bytes| bytes.len() == WEBSOCKET_KEY_BYTES),
        _ => false,
    }
}

/// The first subprotocol that the client offers. Packets are the same under any name, but a browser that offers some
/// fails the connection when none is chosen; the reference server chooses so.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offered.split(',').next()?.trim();
    let is_token = first.parse::<HeaderName>().is_ok();
    is_token.then(|| HeaderValue::from_str(first).ok())?
}

/// Whether a request asks for a websocket, as RFC 6455 section 4.2.1 has it.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
    };
    has(UPGRADE, "websocket") && has(CONNECTION, "upgrade")
}

/// Query keys that are Engine.IO's own.
const RESERVED_KEYS: &[&str] = &["EIO", "transport", "sid", "t", "b64", "j"];

/// Bytes of `Sec-WebSocket-Key`, as RFC 6455 has it.
const WEBSOCKET_KEY_BYTES: usize = 16;
