//! Accepts connections and serves a stack on each: bounded in number, in the size of a request's head, and in time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::drain::{Drain, Stage, Tasks};
use crate::http::limit::HEAD_BYTES_MAX;
use crate::http::stack::Stack;
use crate::metrics::Metrics;

/// Headers of a request.
const HEADERS_MAX: usize = 100;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8_192;

/// Pause of the accept loop when the process is out of descriptors, so that it neither spins nor ends.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long written data may go unacknowledged by the peer's system before the connection is given up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

// === Server ===

/// One listening address.
pub struct Server {
    pub listener: TcpListener,
    pub stack: Stack,
    pub header_timeout: Duration,
    pub slots: Slots,
    pub tasks: Tasks,
    pub drain: Drain,
}

/// Binds an address. Port 0 takes a free one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Server {
    /// Accepts until the stop begins. Connections go on in their own tasks.
    pub async fn run(self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.drain.reached(Stage::Refusing) => return,
            };
            match accepted {
                Ok((stream, _)) => self.open(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn open(&self, stream: TcpStream) {
        // Over the limit the connection is dropped at once: anything else would cost what the limit is there to save.
        let Some(slot) = self.slots.take() else {
            return;
        };
        let socket = SockRef::from(&stream);
        // A connection on which these cannot be set is one that has just ended; serving it finds out.
        let _ended = socket.set_tcp_nodelay(true);
        let _ended = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let connection = serve(
            stream,
            self.stack.clone(),
            slot,
            self.header_timeout,
            self.drain.clone(),
        );
        self.tasks.spawn("http", connection);
    }
}

async fn serve(
    stream: TcpStream,
    stack: Stack,
    slot: Slot,
    header_timeout: Duration,
    drain: Drain,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(slot.clone());
        let mut stack = stack.clone();
        async move {
            Ok::<_, Infallible>(
                stack
                    .call(request)
                    .await
                    .unwrap_or_else(|never| match never {}),
            )
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.reached(Stage::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

// === Slots ===

/// How many connections may be open.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// One connection's place among them; given back when the last clone goes. A websocket keeps one beyond its request.
#[derive(Clone)]
pub struct Slot {
    _held: Arc<Held>,
}

struct Held {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Slots {
    pub fn new(connections_max: usize, metrics: Arc<Metrics>) -> Self {
        let permits = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            metrics,
        }
    }

    fn take(&self) -> Option<Slot> {
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            self.metrics.connections_refused.inc();
            return None;
        };
        self.metrics.connections.inc();
        let held = Held {
            _permit: permit,
            metrics: self.metrics.clone(),
        };
        Some(Slot {
            _held: Arc::new(held),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
