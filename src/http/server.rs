//! Accepts connections and serves a stack on each: bounded in number, in the size of a request's head, and in time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use crate::drain::{Drain, Stage, Tasks};
use crate::http::limit::HEAD_BYTES_MAX;
use crate::http::slots::{Slot, Slots};
use crate::http::stack::Stack;
use crate::http::stream::Stream;

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

/// Binds an address. Port 0 takes a free one. Connections inherit the listener's options, as Linux has it: two system
/// calls less for each.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
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
    let stream = Stream::new(stream, slot.clone());
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

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn connections_have_the_listeners_options() {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
    }
}
