//! A client's Engine.IO packets, one after the other, into one [`Connection`]. The first byte chooses the limit on a
//! packet with its attachments, and the revision; packets are separated by 0x1E; one that starts with 0x01, or is no
//! text, comes as a binary message.
//!
//! Nothing is asked for outside of a namespace that was joined, and binary packets come whole and within their limits.

use std::time::Duration;

use chat_svc::protocol::connection::{
    ATTACHMENTS_WITHIN, CloseReason, Complete, Connection, NAMESPACES_MAX, Signal,
};
use chat_svc::protocol::engineio::{Revision, Sid};
use chat_svc::protocol::incoming::{Incoming, incoming};
use chat_svc::protocol::socketio::{self, ATTACHMENTS_MAX};

const BYTES_MAX: [usize; 4] = [1000, 0, 60, 100_000];

pub fn run(data: &[u8]) {
    let Some((&choice, packets)) = data.split_first() else {
        return;
    };
    let bytes_max = BYTES_MAX[usize::from(choice & 3)];
    let revision = match choice & 4 {
        0 => Revision::V4,
        _ => Revision::V3,
    };
    let mut client = Client {
        connection: Connection::new(bytes_max),
        bytes_max,
        joined: Vec::new(),
        heard_text: Duration::ZERO,
    };
    let mut now = Duration::ZERO;
    for packet in packets.split(|&byte| byte == 0x1E) {
        now += Duration::from_secs(1);
        let taken = match (packet.strip_prefix(&[1]), str::from_utf8(packet)) {
            (Some(payload), _) => client.binary(payload),
            (None, Ok(text)) => match incoming(text, revision) {
                Ok(Incoming::Message(text)) => client.text(text, now),
                Ok(Incoming::Binary(payload)) => client.binary(&payload),
                Ok(_) => Ok(()),
                Err(_) => return,
            },
            (None, Err(_)) => client.binary(packet),
        };
        if taken.is_err() {
            return;
        }
        // What waits for attachments came in the last text, and the server looks no further once it is overdue.
        if client.connection.is_overdue(now) {
            assert!(now - client.heard_text > ATTACHMENTS_WITHIN);
            return;
        }
    }
    let _may_be = client.connection.is_overdue(now + ATTACHMENTS_WITHIN * 2);
}

struct Client {
    connection: Connection,
    bytes_max: usize,
    joined: Vec<String>,
    /// When the last text message came.
    heard_text: Duration,
}

impl Client {
    fn text(&mut self, text: &str, now: Duration) -> Result<(), CloseReason> {
        self.heard_text = now;
        let signal = self.connection.message(text, || now)?;
        self.follow(signal);
        Ok(())
    }

    fn binary(&mut self, payload: &[u8]) -> Result<(), CloseReason> {
        let signal = self.connection.attachment(payload)?;
        self.follow(signal);
        Ok(())
    }

    fn follow(&mut self, signal: Signal<'_>) {
        match signal {
            Signal::Nothing => {}
            Signal::Connect { namespace, .. } => self.connect(namespace),
            Signal::Disconnect { namespace } => {
                assert!(self.is_joined(namespace));
                self.joined.retain(|name| name != namespace);
            }
            Signal::Event {
                namespace,
                data,
                ack,
            } => {
                assert!(self.is_joined(namespace) && ack.is_none_or(is_digits));
                let _total = socketio::event(data);
            }
            Signal::Ack {
                namespace,
                id,
                data,
            } => {
                assert!(self.is_joined(namespace) && is_digits(id));
                assert!(socketio::ack_args(data).is_ok());
            }
            Signal::Complete(complete) => self.complete(&complete),
        }
    }

    fn connect(&mut self, namespace: &str) {
        assert!(namespace.starts_with('/') && !namespace.contains('?'));
        let id = Sid::new([self.joined.len() as u8; 15]);
        let was_joined = self.is_joined(namespace);
        if self.connection.join(namespace, id).is_ok() {
            assert!(!was_joined);
            self.joined.push(namespace.to_owned());
        }
        assert!(self.joined.len() <= NAMESPACES_MAX && self.connection.has_connected());
    }

    fn is_joined(&self, namespace: &str) -> bool {
        self.joined.iter().any(|name| name == namespace)
    }

    fn complete(&self, complete: &Complete) {
        assert!(self.is_joined(&complete.namespace));
        let count = complete.attachments.len();
        assert!((1..=ATTACHMENTS_MAX).contains(&count));
        let attached: usize = complete.attachments.iter().map(|bytes| bytes.len()).sum();
        assert!(complete.data.len() + attached <= self.bytes_max);
        assert!(complete.id.as_deref().is_none_or(is_digits));
        assert!(match complete.is_event {
            true => socketio::event(&complete.data).is_ok(),
            false => socketio::ack_args(&complete.data).is_ok(),
        });
        assert_eq!(socketio::check_placeholders(&complete.data, count), Ok(()));
    }
}

fn is_digits(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}
