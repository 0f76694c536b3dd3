//! Clients of a hub, without sockets.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use chat_svc::hub::outbox::{Outbox, Taken};
use chat_svc::hub::session::{Handshake, Link, PollingForm, Session};
use chat_svc::hub::{Hub, HubLimits};
use chat_svc::metrics::Metrics;
use chat_svc::protocol::engineio::{Revision, SID_BYTES, Sid};
use chat_svc::protocol::frame::Frame;

/// A hub with the server's defaults, but for outboxes that hold all that a bench leaves in them.
pub fn hub(outbox_bytes_max: usize, metrics: &Arc<Metrics>) -> Arc<Hub> {
    let limits = HubLimits {
        outbox_bytes_max,
        ..HubLimits::default()
    };
    Arc::new(Hub::new(limits, None, metrics.clone()))
}

/// A session on a websocket that is not there.
pub fn open(hub: &Hub, sid: [u8; SID_BYTES]) -> Arc<Session> {
    let handshake = Handshake {
        revision: Revision::V4,
        polling: PollingForm::default(),
        query: "".into(),
    };
    hub.open(Sid::new(sid), Link::WebSocket, handshake)
}

/// A session connected to `/`.
pub fn connected(hub: &Hub) -> Arc<Session> {
    let mut sid = [0; SID_BYTES];
    getrandom::fill(&mut sid).expect("random");
    let session = open(hub, sid);
    let joined = session.connection.lock().join("/", session.sid);
    joined.expect("nobody was there before");
    session
}

/// Takes all that waits, as a connection's task does; how many frames it was.
pub fn take_all(outbox: &Outbox, mut take: impl FnMut(&Frame)) -> usize {
    let mut count = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    let taken = outbox.poll_take(cx, |frame| {
        take(frame);
        count += 1;
        true
    });
    assert!(matches!(taken, Poll::Pending | Poll::Ready(Taken::Frames)));
    count
}
