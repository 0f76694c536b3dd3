//! A connection's bytes, which can be held back: the answer to an upgrade then leaves in one write, and one segment,
//! with what its protocol says first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http::rate::LeastRate;
use crate::http::slots::Slot;

/// What a connection is served on.
pub struct Stream {
    tcp: TcpStream,
    slot: Slot,
    held: Vec<u8>,
    /// At which the peer takes what it does not take at once.
    rate: LeastRate,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, slot: Slot) -> Self {
        Self {
            tcp,
            slot,
            held: Vec::new(),
            rate: LeastRate::default(),
        }
    }

    /// Notes what became of a write of so many bytes. An error when the peer takes too little of them. A wait that goes
    /// on is ended by the kernel, when nothing moves for a minute.
    fn pace(
        &mut self,
        written: Poll<io::Result<usize>>,
        offered: usize,
        now: impl FnOnce() -> Instant,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if self.rate.is_too_slow() => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => self.rate.waits(now),
            Poll::Ready(Ok(bytes)) if self.rate.has_waited() => {
                self.rate.moved(*bytes, now);
                // Else it owes us something, however much it takes at once.
                if *bytes == offered && !self.rate.is_too_slow() {
                    self.rate.reset();
                }
            }
            Poll::Ready(_) => {}
        }
        written
    }

    /// For who takes the connection over: what was written since [`Slot::cork`] and is still to be sent.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.tcp, self.held)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.slot.is_corked() {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.pace(written, bytes.len(), Instant::now)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.slot.is_corked() {
            let before = self.held.len();
            slices
                .iter()
                .for_each(|bytes| self.held.extend_from_slice(bytes));
            return Poll::Ready(Ok(self.held.len() - before));
        }
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.pace(written, offered, Instant::now)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::http::slots::Slots;
    use crate::metrics::Metrics;

    async fn stream() -> Stream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let slots = Slots::new(1, Arc::new(Metrics::new(&[])));
        Stream::new(tcp.unwrap(), slots.take().unwrap())
    }

    /// Whether a peer is waited for once more that did so often what is told: let us wait for seconds, and then took
    /// this of the thousand bytes that each write offers.
    async fn turns(times: usize, seconds: u64, taken: &[usize]) -> bool {
        let mut stream = stream().await;
        let mut now = Instant::now();
        for _ in 0..times {
            assert!(stream.pace(Poll::Pending, 1_000, || now).is_pending());
            now += Duration::from_secs(seconds);
            for bytes in taken {
                let _written = stream.pace(Poll::Ready(Ok(*bytes)), 1_000, || now);
            }
        }
        stream.pace(Poll::Pending, 1_000, || now).is_pending()
    }

    #[tokio::test]
    async fn a_peer_that_trickles_is_given_up_and_one_that_takes_all_is_not() {
        assert!(turns(10, 10, &[1_000]).await);
        // The kernel takes much at once, long after the last time.
        assert!(turns(10, 59, &[30, 250_000, 1_000, 1]).await);
        assert!(turns(3, 10, &[1]).await);
        assert!(!turns(4, 10, &[1]).await);
        // All that is offered, but that is little after a long wait.
        assert!(!turns(1, 59, &[1_000]).await);
    }
}
