//! A client's packets, one after the other, into one [`Connection`]. The first byte chooses the limit on a packet with
//! its attachments; packets are separated by 0x1E; one that starts with 0x01, or is no text, comes as a binary message.
//!
//! Nothing is asked for before CONNECT or after DISCONNECT, and binary events come whole and within their limits.

use std::time::Duration;

use chat_svc::protocol::connection::{ATTACHMENTS_WITHIN, Complete, Connection, Signal};
use chat_svc::protocol::event::{self, ClientEvent};
use chat_svc::protocol::socketio::{self, ATTACHMENTS_MAX, Kind};

const BYTES_MAX: [usize; 4] = [1000, 0, 60, 100_000];

pub fn run(data: &[u8]) {
    let Some((&choice, packets)) = data.split_first() else {
        return;
    };
    let bytes_max = BYTES_MAX[usize::from(choice & 3)];
    let mut connection = Connection::new(bytes_max);
    let mut now = Duration::ZERO;
    for packet in packets.split(|&byte| byte == 0x1E) {
        now += Duration::from_secs(1);
        let (was_connected, had_connected) =
            (connection.is_connected(), connection.has_connected());
        let signal = match (packet.strip_prefix(&[1]), str::from_utf8(packet)) {
            (Some(payload), _) => connection.binary(payload),
            (None, Ok(text)) => connection.text(text, now),
            (None, Err(_)) => connection.binary(packet),
        };
        let Ok(signal) = signal else {
            return;
        };
        follow(&connection, &signal, was_connected, bytes_max);
        assert!(connection.has_connected() || !had_connected);
        assert!(!connection.is_overdue(now));
    }
    let _may_be = connection.is_overdue(now + ATTACHMENTS_WITHIN * 2);
}

fn follow(connection: &Connection, signal: &Signal<'_>, was_connected: bool, bytes_max: usize) {
    let is_connected = connection.is_connected();
    match signal {
        Signal::Connect => assert!(is_connected && !was_connected),
        Signal::Disconnect => assert!(!is_connected && was_connected),
        Signal::Nothing | Signal::Pong => assert_eq!(is_connected, was_connected),
        Signal::UnknownNamespace(namespace) => refuse(namespace),
        Signal::Event { data, ack } => {
            assert!(is_connected && was_connected && !data.is_empty());
            assert!(ack.is_none_or(is_digits));
            let _total = ClientEvent::decode(data);
        }
        Signal::BinaryEvent(complete) => {
            assert!(is_connected && was_connected);
            binary_event(complete, bytes_max);
        }
    }
}

fn refuse(namespace: &str) {
    assert!(namespace.starts_with('/') && namespace != "/");
    let frame = event::invalid_namespace(namespace);
    let text = str::from_utf8(frame.packet()).expect("a packet is text");
    let packet = socketio::parse(&text[1..]).expect("our packets can be read");
    assert_eq!(
        (packet.kind, packet.namespace),
        (Kind::ConnectError, namespace)
    );
}

fn binary_event(complete: &Complete, bytes_max: usize) {
    let count = complete.attachments.len();
    assert!((1..=ATTACHMENTS_MAX).contains(&count));
    let attached: usize = complete.attachments.iter().map(|bytes| bytes.len()).sum();
    assert!(complete.data.len() + attached <= bytes_max);
    assert!(complete.ack.as_deref().is_none_or(is_digits));
    assert!(ClientEvent::decode(&complete.data).is_ok());
    assert_eq!(socketio::check_placeholders(&complete.data, count), Ok(()));
}

fn is_digits(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}
