use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::*;
use crate::hub::outbox::Taken;
use crate::hub::session::PollingForm;
use crate::protocol::engineio::Revision;

fn hub(outbox_bytes_max: usize) -> Hub {
    let limits = HubLimits {
        outbox_bytes_max,
        rooms_per_socket_max: 3,
        payload_bytes_max: 1000,
        ..HubLimits::default()
    };
    Hub::new(limits, None, Arc::new(Metrics::new(&[])))
}

fn open(hub: &Hub, n: u8) -> Arc<Session> {
    hub.open(Sid::new([n; 15]), Link::WebSocket, handshake())
}

fn handshake() -> Handshake {
    Handshake {
        revision: Revision::V4,
        polling: PollingForm::default(),
        query: "".into(),
    }
}

fn room(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn count(session: &Session) -> usize {
    let mut count = 0;
    let _ = session
        .outbox
        .poll_take(&mut Context::from_waker(Waker::noop()), |_| {
            count += 1;
            true
        });
    count
}

fn frame() -> Frame {
    Frame::text_from(b"42[\"x\"]")
}

#[test]
fn every_socket_in_a_room_gets_a_frame_once() {
    let hub = hub(10_000);
    let (a, b) = (open(&hub, 1), open(&hub, 2));
    for name in ["u", "u", "v"] {
        hub.join(&a, room(name)).unwrap();
    }
    hub.join(&b, room("v")).unwrap();
    hub.broadcast(&["u"], frame);
    assert_eq!((count(&a), count(&b)), (1, 0));
    hub.broadcast(&["u", "v"], frame);
    assert_eq!((count(&a), count(&b)), (1, 1));
    hub.broadcast(&["nobody"], || unreachable!("made for nobody"));
}

#[test]
fn a_socket_may_be_in_so_many_rooms_and_no_more() {
    let hub = hub(10_000);
    let session = open(&hub, 1);
    for name in ["a", "b", "c"] {
        assert_eq!(hub.join(&session, room(name)), Ok(()));
    }
    assert_eq!(hub.join(&session, room("d")), Err(TooManyRooms));
    assert_eq!(hub.join(&session, room("a")), Ok(()), "it is there already");
}

#[test]
fn a_closed_socket_is_in_no_room_and_joins_none() {
    let hub = hub(10_000);
    let session = open(&hub, 1);
    hub.join(&session, room("a")).unwrap();
    hub.close(&session, CloseReason::TransportClose);
    hub.join(&session, room("b")).unwrap();
    assert!(hub.rooms.is_empty());
    assert!(hub.get(session.sid).is_none());
    assert_eq!(hub.metrics.websockets.get(), 0);
}

#[test]
fn a_slow_socket_is_closed_and_the_others_get_theirs() {
    let hub = hub(4 * (frame().len() + outbox::FRAME_OVERHEAD));
    let (slow, quick) = (open(&hub, 1), open(&hub, 2));
    hub.join(&slow, room("u")).unwrap();
    hub.join(&quick, room("u")).unwrap();
    for _ in 0..5 {
        hub.broadcast(&["u"], frame);
        assert_eq!(count(&quick), 1);
    }
    assert_eq!(slow.closed(), Some(CloseReason::Slow));
    let taken = slow
        .outbox
        .poll_take(&mut Context::from_waker(Waker::noop()), |_| true);
    assert_eq!(taken, Poll::Ready(Taken::Overflowed));
}

#[test]
fn typing_does_not_come_back_to_the_socket_it_came_from() {
    let hub = hub(10_000);
    let (a, b) = (open(&hub, 1), open(&hub, 2));
    hub.join(&a, room("u")).unwrap();
    hub.join(&b, room("u")).unwrap();
    hub.broadcast_volatile("u", Some(&a), frame);
    assert_eq!((count(&a), count(&b)), (0, 1));
}

#[test]
fn a_polling_session_closed_by_the_server_waits_to_tell_its_client() {
    let hub = hub(10_000);
    let link = Link::Polling {
        get: false,
        post: false,
        probing: false,
    };
    let session = hub.open(Sid::new([1; 15]), link, handshake());
    hub.send(&session, frame());
    hub.close(&session, CloseReason::ServerShuttingDown);
    assert!(hub.get(session.sid).is_some());
    assert_eq!(count(&session), 1);
    hub.forget(&session);
    assert!(hub.get(session.sid).is_none());
    assert_eq!(hub.metrics.polling_sessions.get(), 0);
}

// === acknowledgements that clients owe ===

type Heard = Arc<Mutex<Vec<Result<String, AckError>>>>;

fn ask(hub: &Hub, session: &Arc<Session>, within: Duration, heard: &Heard) -> Option<u64> {
    let heard = heard.clone();
    let on_ack: OnAck = Box::new(move |answer| {
        heard.lock().push(answer.map(|a| a.args.concat()));
    });
    let mut sent = None;
    hub.ask(session, "/", within, on_ack, |id| sent = Some(id));
    sent
}

fn acknowledge(hub: &Hub, session: &Session, id: &str) {
    hub.acknowledge(session, "/", id, Payload::from(&["1"]));
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn an_acknowledgement_is_heard_once() {
    let (hub, heard) = (hub(10_000), Heard::default());
    let session = open(&hub, 1);
    let id = ask(&hub, &session, MINUTE, &heard).unwrap().to_string();
    for id in [&*id, &*id, "77"] {
        acknowledge(&hub, &session, id);
    }
    assert_eq!(*heard.lock(), [Ok("1".to_owned())]);
    assert_eq!(hub.metrics.acks_ignored.get(), 2);
}

#[test]
fn an_acknowledgement_that_does_not_come_expires_and_a_late_one_is_ignored() {
    let (hub, heard) = (hub(10_000), Heard::default());
    let session = open(&hub, 1);
    let id = ask(&hub, &session, Duration::ZERO, &heard).unwrap();
    hub.sweep_if_due();
    acknowledge(&hub, &session, &id.to_string());
    assert_eq!(*heard.lock(), [Err(AckError::Timeout)]);
}

#[test]
fn a_client_that_has_gone_owes_nothing() {
    let (hub, heard) = (hub(10_000), Heard::default());
    let session = open(&hub, 1);
    ask(&hub, &session, MINUTE, &heard).unwrap();
    hub.close(&session, CloseReason::TransportClose);
    assert_eq!(ask(&hub, &session, MINUTE, &heard), None);
    assert_eq!(*heard.lock(), [const { Err(AckError::Disconnected) }; 2]);
}

#[test]
fn one_client_owes_so_many_acknowledgements_and_no_more() {
    let (hub, heard) = (hub(10_000), Heard::default());
    let session = open(&hub, 1);
    for _ in 0..acks::ACKS_MAX {
        assert!(ask(&hub, &session, MINUTE, &heard).is_some());
    }
    assert!(heard.lock().is_empty());
    assert_eq!(ask(&hub, &session, MINUTE, &heard), None);
    assert_eq!(*heard.lock(), [Err(AckError::TooMany)]);
}

#[test]
fn attachments_that_do_not_come_end_the_session_at_a_beat_after_a_minute() {
    for revision in [Revision::V4, Revision::V3] {
        let mut hub = hub(10_000);
        let handshake = Handshake {
            revision,
            ..handshake()
        };
        let session = hub.open(Sid::new([1; 15]), Link::WebSocket, handshake);
        {
            let mut connection = session.connection.lock();
            connection.join("/", Sid::new([2; 15])).unwrap();
            let due = r#"51-["x",{"_placeholder":true,"num":0}]"#;
            connection.message(due, || hub.now()).unwrap();
        }
        for (seconds, expected) in [(59, None), (60, Some(CloseReason::ParseError))] {
            hub.started -= Duration::from_secs(seconds);
            session.heard(hub.now());
            hub.sweep();
            assert_eq!(session.closed(), expected, "{revision:?}");
        }
    }
}
