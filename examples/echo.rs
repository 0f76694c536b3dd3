//! The socket layer without the chat, for protocol test tools and client matrices.
//!
//! - `/engine.io/`: bare Engine.IO; every message is sent back.
//! - `/echo`: a plain websocket; every text or binary message up to 16 MiB is sent back.
//! - `/socket.io/`: Socket.IO with the namespaces `/`, `/custom` and `/dyn-<digits>`, which answer the events of
//!   [`Echo::event`], and `/deny`, which refuses.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_svc::drain::{Drain, Tasks};
use chat_svc::http::query;
use chat_svc::http::reply::{self, Body, Error, Reply};
use chat_svc::http::server::{Server, bind};
use chat_svc::http::slots::Slots;
use chat_svc::http::stack::{Credentials, StackOptions, stack};
use chat_svc::http::stream::Stream;
use chat_svc::hub::session::{Link, Session};
use chat_svc::hub::{Hub, HubLimits};
use chat_svc::metrics::Metrics;
use chat_svc::protocol::connection::CloseReason;
use chat_svc::protocol::engineio::Revision;
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::socketio::Payload;
use chat_svc::protocol::websocket::{
    Decoder, Event as Received, Opcode, Step, close_frame, write_frame,
};
use chat_svc::socket::client_files::ClientFiles;
use chat_svc::socket::endpoint::{Endpoint, Options};
use chat_svc::socket::engine::{Engine, Messages};
use chat_svc::socket::namespaces::{Application, Connect, ConnectError, Event, Namespaces, Socket};
use clap::Parser;
use fastwebsockets::upgrade;
use http::Request;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Echoes Engine.IO, Socket.IO and plain websocket messages.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Milliseconds between two pings.
    #[arg(long, default_value_t = 25_000)]
    ping_interval_ms: u64,
    /// Milliseconds in which a ping is to be answered.
    #[arg(long, default_value_t = 20_000)]
    ping_timeout_ms: u64,
    /// Milliseconds in which a client is to connect to a namespace.
    #[arg(long, default_value_t = 45_000)]
    connect_timeout_ms: u64,
    /// Milliseconds in which a client is to acknowledge what it is asked.
    #[arg(long, default_value_t = 10_000)]
    ack_timeout_ms: u64,
    /// Origins whose pages may connect, with their visitors' cookies; none: any, without.
    #[arg(long, value_delimiter = ',')]
    cors_origins: Vec<String>,
    /// Name of a cookie with the session's id.
    #[arg(long)]
    cookie: Option<String>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], args.port)))?;
    println!("echo listens on http://{}", listener.local_addr()?);

    let (drain, tasks) = (Drain::default(), Tasks::default());
    let metrics = Arc::new(Metrics::new(&[]));
    let hub = hub(&args, None, &metrics, &tasks);
    let bare = endpoint(&args, &hub, &metrics, &tasks, Box::new(Bare(hub.clone())));
    let connect_timeout = Duration::from_millis(args.connect_timeout_ms);
    let hub = self::hub(&args, Some(connect_timeout), &metrics, &tasks);
    let application = Echo {
        ack_timeout: Duration::from_millis(args.ack_timeout_ms),
    };
    let messages = Namespaces {
        hub: hub.clone(),
        application,
    };
    let namespaces = endpoint(&args, &hub, &metrics, &tasks, Box::new(messages));
    let spawner = tasks.clone();
    let router = tower::service_fn(move |request: Request<Body>| {
        let (bare, namespaces, tasks) = (bare.clone(), namespaces.clone(), spawner.clone());
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                path if path.starts_with("/engine.io/") => bare.serve("", request).await,
                path if path.starts_with("/socket.io/") => namespaces.serve("", request).await,
                "/echo" => plain(request, &tasks),
                _ => Error::NOT_FOUND.reply(),
            })
        }
    });
    let options = StackOptions {
        metrics: metrics.clone(),
        socket_path: "/socket.io/".into(),
        cors_origins: args.cors_origins.clone(),
        cors_credentials: match args.cors_origins.is_empty() {
            true => Credentials::OldClients,
            false => Credentials::Always,
        },
        body_idle_timeout: Duration::from_secs(30),
    };
    let server = Server {
        listener,
        stack: stack(router, &options),
        header_timeout: Duration::from_secs(10),
        slots: Slots::new(10_000, metrics),
        tasks,
        drain,
    };
    server.run().await;
    Ok(())
}

const MESSAGE_BYTES_MAX: usize = 1_000_000;

fn hub(
    args: &Args,
    connect_timeout: Option<Duration>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Arc<Hub> {
    let limits = HubLimits {
        outbox_bytes_max: 16 << 20,
        rooms_per_socket_max: 0,
        sessions_max: usize::MAX,
        payload_bytes_max: MESSAGE_BYTES_MAX,
        ping_interval: Duration::from_millis(args.ping_interval_ms),
        ping_timeout: Duration::from_millis(args.ping_timeout_ms),
        connect_timeout,
    };
    let hub = Arc::new(Hub::new(limits, None, metrics.clone()));
    let beating = hub.clone();
    tasks.spawn("heartbeat", async move { beating.beat().await });
    hub
}

fn endpoint(
    args: &Args,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
    messages: Box<dyn Messages>,
) -> Arc<Endpoint> {
    let engine = Engine {
        hub: hub.clone(),
        metrics: metrics.clone(),
        messages,
    };
    let options = Options {
        ping_interval: Duration::from_millis(args.ping_interval_ms),
        ping_timeout: Duration::from_millis(args.ping_timeout_ms),
        upgrade_timeout: Duration::from_secs(10),
        payload_bytes_max: MESSAGE_BYTES_MAX,
        cors_origins: args.cors_origins.clone(),
        polling: true,
        websocket: true,
        upgrades: true,
        revision_3: true,
        jsonp: true,
        cookie: args.cookie.clone(),
    };
    Arc::new(Endpoint {
        engine: Arc::new(engine),
        options,
        client_files: ClientFiles::default(),
        tasks: tasks.clone(),
    })
}

// === /engine.io/ ===

/// Sends every message back.
struct Bare(Arc<Hub>);

impl Messages for Bare {
    fn open(&self, _session: &Arc<Session>) {}

    fn text(&self, session: &Arc<Session>, message: &str) -> Result<(), CloseReason> {
        let packet = |out: &mut Vec<u8>| {
            out.push(b'4');
            out.extend_from_slice(message.as_bytes());
        };
        self.0.send(session, Frame::text(message.len() + 1, packet));
        Ok(())
    }

    fn binary(&self, session: &Arc<Session>, message: &[u8]) -> Result<(), CloseReason> {
        self.0.send(session, Frame::binary(message));
        Ok(())
    }
}

// === /socket.io/ ===

/// Events a client may ask for at once.
const BURST_MAX: u64 = 10_000;

struct Echo {
    ack_timeout: Duration,
}

impl Application for Echo {
    fn admit(&self, connect: &Connect<'_>) -> Result<(), ConnectError> {
        let dynamic = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        match connect.namespace {
            "/" | "/custom" => Ok(()),
            "/deny" => Err(ConnectError {
                message: "Not authorized".into(),
                data: Some(r#"{"code":42}"#.into()),
            }),
            other if other.strip_prefix("/dyn-").is_some_and(dynamic) => Ok(()),
            _ => Err(ConnectError::INVALID_NAMESPACE),
        }
    }

    fn connected(&self, socket: &Socket<'_>, connect: &Connect<'_>) {
        let auth = connect.auth.unwrap_or("{}");
        socket.emit("auth", Payload::from(&[auth]));
    }

    fn event(&self, socket: &Socket<'_>, event: &Event<'_>) {
        let Event {
            name, payload, ack, ..
        } = *event;
        match (name, ack) {
            ("message", _) => socket.emit("message-back", payload),
            ("message-with-ack", Some(ack)) => socket.acknowledge(ack, payload),
            ("ask", Some(ack)) => self.ask(socket, ack),
            ("whoami", Some(ack)) => {
                let answer = whoami(socket).to_string();
                socket.acknowledge(ack, Payload::from(&[&*answer]));
            }
            ("burst", _) => {
                let count = payload.args.first().and_then(|n| n.parse().ok());
                for i in 0..count.unwrap_or(0).min(BURST_MAX) {
                    socket.emit("n", Payload::from(&[&*i.to_string()]));
                }
            }
            ("kick", _) => socket.close(),
            ("kickns", _) => socket.disconnect(),
            _ => {}
        }
    }
}

impl Echo {
    /// Asks the client a question, and passes its answer on.
    fn ask(&self, socket: &Socket<'_>, ack: &str) {
        let ack = ack.to_owned();
        let on_ack = move |socket: &Socket<'_>, answer: Result<Payload<'_>, _>| match answer {
            Ok(answer) => socket.acknowledge(&ack, answer),
            Err(error) => {
                let error = json!({ "error": format!("{error}") }).to_string();
                socket.acknowledge(&ack, Payload::from(&[&*error]));
            }
        };
        socket.ask("question", Payload::from(&["1"]), self.ack_timeout, on_ack);
    }
}

fn whoami(socket: &Socket<'_>) -> serde_json::Value {
    let transport = match *socket.session.link.lock() {
        Link::Polling { .. } => "polling",
        Link::WebSocket => "websocket",
    };
    let eio = match socket.session.handshake.revision {
        Revision::V3 => 3,
        Revision::V4 => 4,
    };
    let id = socket.id();
    let query: serde_json::Map<_, _> = query::pairs(Some(&socket.session.handshake.query))
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .collect();
    json!({
        "id": id, "transport": transport, "eio": eio,
        "rooms": [id], "recovered": false, "query": query,
    })
}

// === /echo ===

const PLAIN_BYTES_MAX: usize = 16 << 20;

fn plain(mut request: Request<Body>, tasks: &Tasks) -> Reply {
    let Ok((response, upgraded)) = upgrade::upgrade(&mut request) else {
        return Error::invalid("a websocket is expected").reply();
    };
    tasks.spawn("echo", async move {
        let stream = upgraded.await.ok().map(|websocket| websocket.into_inner());
        let parts = stream.and_then(|s| s.into_inner().downcast::<TokioIo<Stream>>().ok());
        if let Some(parts) = parts {
            // However it ended, it has.
            let (stream, _corked) = parts.io.into_inner().into_parts();
            let _ended = echo(stream, parts.read_buf).await;
        }
    });
    response.map(reply::boxed)
}

async fn echo(mut stream: TcpStream, read_ahead: Bytes) -> std::io::Result<()> {
    let mut decoder = Decoder::new();
    let (mut input, mut output) = (read_ahead.to_vec(), Vec::new());
    loop {
        let mut consumed = 0;
        let end = loop {
            match decoder.decode(&mut input[consumed..], PLAIN_BYTES_MAX) {
                Ok(Step::Incomplete { .. }) => break None,
                Ok(Step::Done { consumed: n, event }) => {
                    match event {
                        Some(Received::Text(text)) => {
                            write_frame(&mut output, Opcode::Text, text.as_bytes())
                        }
                        Some(Received::Binary(data)) => {
                            write_frame(&mut output, Opcode::Binary, data);
                        }
                        Some(Received::Ping(data)) => write_frame(&mut output, Opcode::Pong, data),
                        Some(Received::Close(code)) => break Some(code.unwrap_or(1000)),
                        Some(Received::Pong) | None => {}
                    }
                    consumed += n;
                }
                Err(violation) => break Some(violation.close_code()),
            }
        };
        input.drain(..consumed);
        if let Some(code) = end {
            output.extend_from_slice(&close_frame(code));
        }
        stream.write_all(&output).await?;
        output.clear();
        if end.is_some() {
            return stream.shutdown().await;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
