//! The upgrade from polling, on the websocket's side: `2probe`, `3probe`, `5`, and nothing else before it is over.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::{End, Wire};
use crate::hub::session::Link;
use crate::protocol::connection::CloseReason;
use crate::protocol::frame::Frame;

impl Wire {
    /// Waits for the probe and the upgrade; false when it failed and the connection is of no use.
    pub(super) async fn probe(&mut self, begun: Result<(), End>, limit: Duration) -> bool {
        let upgraded = async {
            let mut end = begun.err();
            if end.is_none() && self.is_probe && self.is_second() {
                end = Some(CloseReason::Overlap.into());
            }
            while self.is_probe && end.is_none() {
                end = poll_fn(|cx| self.poll_probe(cx)).await.err();
            }
            end
        };
        let end = match tokio::time::timeout(limit, upgraded).await {
            Ok(None) => return true,
            Ok(Some(end)) => end,
            Err(_) => End::from(CloseReason::ConnectTimeout),
        };
        if self.is_probe {
            if self.has_probed
                && let Link::Polling { probing, .. } = &mut *self.peer.session.link.lock()
            {
                *probing = false;
            }
        } else {
            // It broke in the very bytes that made it the session's transport.
            self.peer.engine.hub.close(&self.peer.session, end.reason);
        }
        self.finish(end.close_code).await;
        false
    }

    /// Reads once, after what had to be written is.
    fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        ready!(self.poll_unsent(cx))?;
        self.poll_read(cx).map_ok(drop)
    }

    pub(super) fn probe_packet(&mut self, packet: &str) -> Result<(), End> {
        let session = &self.peer.session;
        match packet {
            "2probe" => {
                match &mut *session.link.lock() {
                    Link::Polling { probing, .. } if !*probing => *probing = true,
                    _ => return Err(CloseReason::ParseError.into()),
                }
                self.has_probed = true;
                self.unsent
                    .extend_from_slice(Frame::probe_pong().websocket());
                // A poll that waits is let go at once: the client upgrades when it has come back.
                session.outbox.wake();
                Ok(())
            }
            "5" if !self.is_second() && self.peer.engine.hub.upgrade(session) => {
                self.is_probe = false;
                session.outbox.wake();
                Ok(())
            }
            _ => Err(CloseReason::ParseError.into()),
        }
    }

    /// Whether another connection is upgrading the session, or has.
    fn is_second(&self) -> bool {
        let link = self.peer.session.link.lock();
        !self.has_probed && !matches!(*link, Link::Polling { probing: false, .. })
    }
}
