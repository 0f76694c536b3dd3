//! One websocket: one task that reads frames in place, hands their packets on, and writes what the outbox holds in as
//! few system calls as it is woken.
//!
//! An idle connection keeps no buffer: bytes are read into and written from buffers of the thread; only an unfinished
//! frame, or what the peer did not take, is kept with the connection.

mod probe;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use fastwebsockets::upgrade::UpgradeFut;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::drain::Tasks;
use crate::http::slots::Slot;
use crate::http::stream::Stream;
use crate::hub::outbox::Taken;
use crate::hub::session::Session;
use crate::protocol::connection::CloseReason;
use crate::protocol::engineio::Revision;
use crate::protocol::engineio_v3;
use crate::protocol::frame::Frame;
use crate::protocol::websocket::{Decoder, Event, Opcode, Step, close_frame, write_frame};
use crate::socket::engine::Engine;

/// Read at once, at most.
const READ_BYTES: usize = 64 << 10;

/// Read from one socket before the others have their turn, at most one read more: what one client sends without end
/// must not keep the rest waiting. (The runtime's own bound is in reads, and lets 4 MiB pass.)
const READ_BYTES_A_TURN: usize = 32 << 10;

/// Written at once, at most, unless one frame is larger.
const WRITE_BYTES: usize = 128 << 10;

/// Answers to a peer's pings that may wait; it is not read further until they are gone.
const UNSENT_BYTES_MAX: usize = 16 << 10;

/// How long a peer may take to close its side after our close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static WRITE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(WRITE_BYTES));
}

// === Peer ===

/// What a connection's task works with, before there is a stream.
pub struct Peer {
    session: Arc<Session>,
    engine: Arc<Engine>,
    message_bytes_max: usize,
    /// False for one of revision 3 that asked for base64 when it opened this connection.
    supports_binary: bool,
}

impl Peer {
    pub fn new(
        session: Arc<Session>,
        engine: Arc<Engine>,
        message_bytes_max: usize,
        supports_binary: bool,
    ) -> Self {
        Self {
            session,
            engine,
            message_bytes_max,
            supports_binary,
        }
    }

    /// Appends a frame as the client reads it.
    fn encode(&self, frame: &Frame, out: &mut Vec<u8>) {
        let is_v3 = self.session.handshake.revision == Revision::V3;
        if frame.is_binary() && is_v3 {
            let frame = engineio_v3::websocket_frame(frame, self.supports_binary);
            out.extend_from_slice(frame.websocket());
        } else {
            out.extend_from_slice(frame.websocket());
        }
    }
}

/// Takes a connection over after its upgrade and runs it to its end. With an `upgrade_timeout` it begins as a probe
/// of a polling session, and has so long to take it over; failing leaves polling as it was.
pub async fn run(
    upgraded: UpgradeFut,
    peer: Peer,
    upgrade_timeout: Option<Duration>,
    slot: Option<Slot>,
    tasks: Tasks,
) {
    if let Some(wire) = open(upgraded, peer, upgrade_timeout).await {
        // In a task of its own, which has no more room than an open connection needs: most of them are idle.
        tasks.spawn("websocket", wire.run(slot));
    }
}

/// Takes the connection over from hyper, and the session over from polling; `None` when there is nothing to go on with.
///
/// What hyper had read ahead is handled here and let go: it would hold on to a buffer of 8 KiB.
async fn open(upgraded: UpgradeFut, peer: Peer, upgrade_timeout: Option<Duration>) -> Option<Wire> {
    let Some((stream, received)) = raw_stream(upgraded).await else {
        if upgrade_timeout.is_none() {
            peer.engine
                .hub
                .close(&peer.session, CloseReason::TransportError);
        }
        return None;
    };
    let mut wire = Wire::new(stream, peer, upgrade_timeout.is_some());
    if upgrade_timeout.is_none() {
        wire.join_first();
    }
    let begun = wire.begin(received);
    if let Some(limit) = upgrade_timeout {
        return Box::pin(wire.probe(begun, limit)).await.then_some(wire);
    }
    if let Err(end) = begun {
        wire.peer.engine.hub.close(&wire.peer.session, end.reason);
        Box::pin(wire.finish(end.close_code)).await;
        return None;
    }
    Some(wire)
}

/// Takes the connection back from hyper, with what it had read ahead.
async fn raw_stream(upgraded: UpgradeFut) -> Option<(Stream, Vec<u8>)> {
    let websocket = upgraded.await.ok()?;
    let parts = websocket
        .into_inner()
        .into_inner()
        .downcast::<TokioIo<Stream>>()
        .ok()?;
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

// === Wire ===

/// Why a connection ends, and whether the peer is to be told.
#[derive(Clone, Copy, Debug)]
struct End {
    reason: CloseReason,
    close_code: Option<u16>,
}

impl From<CloseReason> for End {
    fn from(reason: CloseReason) -> Self {
        // The reference server's close frames carry no reason, and clients read none; 1000 says all is well.
        let close_code = match reason {
            CloseReason::TransportError | CloseReason::Slow => None,
            CloseReason::TooLarge => Some(1009),
            _ => Some(1000),
        };
        Self { reason, close_code }
    }
}

struct Wire {
    stream: TcpStream,
    peer: Peer,
    decoder: Decoder,
    /// The beginning of a frame that is not complete.
    partial: Vec<u8>,
    /// Bytes that that frame needs in all, as far as known.
    needed: usize,
    /// What the peer has not taken yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// Not the session's transport yet.
    is_probe: bool,
    /// It was this connection that began the session's upgrade.
    has_probed: bool,
}

impl Wire {
    fn new(stream: Stream, peer: Peer, is_probe: bool) -> Self {
        let (stream, unsent) = stream.into_parts();
        Self {
            stream,
            peer,
            decoder: Decoder::new(),
            partial: Vec::new(),
            needed: 0,
            unsent,
            sent: 0,
            is_probe,
            has_probed: false,
        }
    }

    /// What is queued by now leaves in one write with the answer to the handshake, which is unsent yet.
    fn join_first(&mut self) {
        let (peer, unsent) = (&self.peer, &mut self.unsent);
        let mut frames = 0;
        let cx = &mut Context::from_waker(Waker::noop());
        // That there is nothing, or no more, the first poll finds again.
        let _again = peer.session.outbox.poll_take(cx, |frame| {
            peer.encode(frame, unsent);
            frames += 1;
            true
        });
        peer.engine.metrics.frames_written.inc_by(frames);
        peer.engine.metrics.socket_writes.inc();
    }

    /// Handles what was read ahead.
    fn begin(&mut self, mut received: Vec<u8>) -> Result<(), End> {
        if !received.is_empty() {
            let consumed = self.consume(&mut received)?;
            self.partial = received.split_off(consumed);
        }
        Ok(())
    }

    async fn run(mut self, _slot: Option<Slot>) {
        let end = poll_fn(|cx| self.poll_open(cx)).await;
        self.peer.engine.hub.close(&self.peer.session, end.reason);
        // Boxed, so that the many connections that are not closing do not carry room for it.
        Box::pin(self.finish(end.close_code)).await;
    }

    // --- the open connection ---

    /// Writes and reads until the connection ends, a bounded amount at a time.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut read = 0;
        while read < READ_BYTES_A_TURN {
            let is_writing = match self.poll_write(cx) {
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => self.unsent.len() > self.sent,
            };
            // A peer that does not read is not read either, before its queue is full.
            let is_pressed = is_writing
                && (self.unsent.len() - self.sent > UNSENT_BYTES_MAX
                    || self.peer.session.outbox.is_pressed());
            if is_pressed {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(bytes)) => read += bytes,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits; pending when nothing does, or the peer does not take it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.poll_unsent(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                // A session that ends must not wait for a peer that does not read.
                Poll::Pending => {
                    return self
                        .peer
                        .session
                        .outbox
                        .poll_end(cx)
                        .map(|taken| self.end(taken));
                }
            }
            let written = WRITE.with_borrow_mut(|buffer| self.poll_outbox(cx, buffer));
            match ready!(written) {
                Ok(()) => {}
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    fn end(&self, taken: Taken) -> End {
        let reason = match taken {
            Taken::Overflowed => CloseReason::Slow,
            Taken::Closed | Taken::Frames => self
                .peer
                .session
                .closed()
                .unwrap_or(CloseReason::TransportClose),
        };
        reason.into()
    }

    /// Writes the rest of what was begun.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while self.sent < self.unsent.len() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.unsent[self.sent..]);
            match ready!(written) {
                Ok(0) | Err(_) => return Poll::Ready(Err(CloseReason::TransportError.into())),
                Ok(n) => self.sent += n,
            }
        }
        if !self.unsent.is_empty() {
            self.unsent = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes frames from the outbox and writes them at once; keeps what the peer does not take.
    fn poll_outbox(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<Result<(), End>> {
        buffer.clear();
        let mut frames = 0;
        let taken = self.peer.session.outbox.poll_take(cx, |frame| {
            let fits = buffer.is_empty() || buffer.len() + frame.len() <= WRITE_BYTES;
            if fits {
                self.peer.encode(frame, buffer);
                frames += 1;
            }
            fits
        });
        match ready!(taken) {
            Taken::Frames => {}
            over => return Poll::Ready(Err(self.end(over))),
        }
        let metrics = &self.peer.engine.metrics;
        metrics.frames_written.inc_by(frames);
        metrics.socket_writes.inc();
        let written = match Pin::new(&mut self.stream).poll_write(cx, buffer) {
            Poll::Ready(Ok(0) | Err(_)) => {
                return Poll::Ready(Err(CloseReason::TransportError.into()));
            }
            Poll::Ready(Ok(n)) => n,
            Poll::Pending => 0,
        };
        self.unsent.extend_from_slice(&buffer[written..]);
        buffer.shrink_to(WRITE_BYTES);
        Poll::Ready(Ok(()))
    }

    /// Reads once and handles every whole frame; how many bytes were read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        if self.partial.len() + READ_BYTES / 2 > READ_BYTES {
            return self.poll_read_large(cx);
        }
        READ.with_borrow_mut(|buffer| {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            let mut into = ReadBuf::new(&mut buffer[kept..]);
            if ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(CloseReason::TransportError.into()));
            }
            let read = into.filled().len();
            if read == 0 {
                return Poll::Ready(Err(End {
                    close_code: None,
                    ..CloseReason::TransportClose.into()
                }));
            }
            let input = &mut buffer[..kept + read];
            let consumed = match self.consume(input) {
                Ok(consumed) => consumed,
                Err(end) => return Poll::Ready(Err(end)),
            };
            // Usually everything: then nothing is kept, and no memory either.
            let rest = &input[consumed..];
            self.partial = if rest.is_empty() {
                Vec::new()
            } else {
                rest.to_vec()
            };
            Poll::Ready(Ok(read))
        })
    }

    /// A frame larger than the thread's buffer is gathered in memory of its own, which grows with what has arrived,
    /// never with what was announced.
    fn poll_read_large(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let kept = self.partial.len();
        let room = self.needed.saturating_sub(kept).clamp(1, READ_BYTES);
        self.partial.resize(kept + room, 0);
        let mut into = ReadBuf::new(&mut self.partial[kept..]);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut into);
        let filled = into.filled().len();
        self.partial.truncate(kept + filled);
        match ready!(read) {
            Err(_) => return Poll::Ready(Err(CloseReason::TransportError.into())),
            Ok(()) if filled == 0 => {
                return Poll::Ready(Err(End {
                    close_code: None,
                    ..CloseReason::TransportClose.into()
                }));
            }
            Ok(()) if kept + filled < self.needed => return Poll::Ready(Ok(filled)),
            Ok(()) => {}
        }
        let mut input = std::mem::take(&mut self.partial);
        match self.consume(&mut input) {
            Ok(consumed) => self.partial = input.split_off(consumed),
            Err(end) => return Poll::Ready(Err(end)),
        }
        Poll::Ready(Ok(filled))
    }

    /// Handles every whole frame of `input`; how many bytes they were.
    fn consume(&mut self, input: &mut [u8]) -> Result<usize, End> {
        let mut consumed = 0;
        loop {
            // Taken out for the call, since an event borrows the decoder while it is handled.
            let mut decoder = std::mem::take(&mut self.decoder);
            let step = decoder.decode(&mut input[consumed..], self.peer.message_bytes_max);
            let done = match step {
                Ok(Step::Incomplete { needed }) => {
                    self.needed = needed;
                    None
                }
                Ok(Step::Done { consumed, event }) => {
                    if let Some(event) = event {
                        self.handle(event)?;
                    }
                    Some(consumed)
                }
                Err(violation) => {
                    let code = violation.close_code();
                    let reason = if code == 1009 {
                        CloseReason::TooLarge
                    } else {
                        CloseReason::ParseError
                    };
                    return Err(End {
                        reason,
                        close_code: Some(code),
                    });
                }
            };
            self.decoder = decoder;
            match done {
                Some(bytes) => consumed += bytes,
                None => return Ok(consumed),
            }
        }
    }

    fn handle(&mut self, event: Event<'_>) -> Result<(), End> {
        match event {
            Event::Text(packet) => {
                if self.is_probe {
                    return self.probe_packet(packet);
                }
                self.peer.engine.text(&self.peer.session, packet)?;
            }
            Event::Binary(_) if self.is_probe => return Err(CloseReason::ParseError.into()),
            Event::Binary(payload) => {
                let payload = match self.peer.session.handshake.revision {
                    Revision::V4 => payload,
                    Revision::V3 => engineio_v3::websocket_binary(payload)
                        .map_err(|_| CloseReason::ParseError)?,
                };
                self.peer.engine.binary(&self.peer.session, payload)?;
            }
            Event::Ping(payload) => write_frame(&mut self.unsent, Opcode::Pong, payload),
            Event::Pong => {}
            Event::Close(code) => {
                let close_code = Some(code.unwrap_or(1000));
                return Err(End {
                    reason: CloseReason::TransportClose,
                    close_code,
                });
            }
        }
        Ok(())
    }

    /// Says goodbye, if the peer is to be told, and waits a while for it to close, so that what was sent last is not
    /// lost to a reset.
    async fn finish(&mut self, close_code: Option<u16>) {
        let Some(code) = close_code else { return };
        let goodbye = async {
            let rest = std::mem::take(&mut self.unsent).split_off(self.sent);
            self.stream.write_all(&rest).await?;
            self.stream.write_all(&close_frame(code)).await?;
            self.stream.shutdown().await?;
            let mut ignored = [0; 1024];
            while tokio::io::AsyncReadExt::read(&mut self.stream, &mut ignored).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Whatever fails here, the connection is over.
        let _over = tokio::time::timeout(CLOSE_WITHIN, goodbye).await;
    }
}
