use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Wake;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use super::*;
use crate::hub::session::{Handshake, Link, PollingForm};
use crate::hub::{Hub, HubLimits};
use crate::metrics::Metrics;
use crate::protocol::engineio::Sid;
use crate::socket::engine::Messages;

/// Counts the bytes of messages.
struct Counted(Arc<AtomicUsize>);

impl Messages for Counted {
    fn open(&self, _: &Arc<Session>) {}

    fn text(&self, _: &Arc<Session>, message: &str) -> Result<(), CloseReason> {
        self.0.fetch_add(message.len(), SeqCst);
        Ok(())
    }

    fn binary(&self, _: &Arc<Session>, _: &[u8]) -> Result<(), CloseReason> {
        Ok(())
    }
}

struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

const MESSAGE_BYTES: usize = 8 << 10;

/// A masked frame with a message of so many bytes; the mask is of zeros.
fn frame(bytes: usize) -> Vec<u8> {
    let length = u16::try_from(bytes + 1).unwrap().to_be_bytes();
    let head = [0x81, 0xfe, length[0], length[1], 0, 0, 0, 0, b'4'];
    [&head[..], &vec![b'x'; bytes]].concat()
}

/// A connection that has received all of this, and how many bytes of messages it has handled.
async fn received(bytes: &[u8]) -> (Wire, Arc<AtomicUsize>, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1 << 20).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    peer.write_all(bytes).await.unwrap();
    let mut seen = vec![0; bytes.len()];
    while stream.peek(&mut seen).await.unwrap() < bytes.len() {
        tokio::task::yield_now().await;
    }
    let metrics = Arc::new(Metrics::new(&[]));
    let hub = Arc::new(Hub::new(HubLimits::default(), None, metrics.clone()));
    let handshake = Handshake {
        revision: Revision::V4,
        polling: PollingForm::default(),
        query: "".into(),
    };
    let session = hub.open(Sid::new([1; 15]), Link::WebSocket, handshake);
    let handled = Arc::new(AtomicUsize::new(0));
    let engine = Engine {
        hub,
        metrics,
        messages: Box::new(Counted(handled.clone())),
    };
    let wire = Wire {
        stream,
        peer: Peer::new(session, Arc::new(engine), 1 << 20, true),
        decoder: Decoder::new(),
        partial: Vec::new(),
        needed: 0,
        unsent: Vec::new(),
        sent: 0,
        is_probe: false,
        has_probed: false,
    };
    (wire, handled, peer)
}

#[tokio::test]
async fn a_socket_that_has_much_to_be_read_lets_the_others_have_their_turn() {
    for (messages, turns) in [(3, 1), (4, 2), (16, 3)] {
        let sent = frame(MESSAGE_BYTES).repeat(messages);
        let received = timeout(Duration::from_secs(30), received(&sent)).await;
        let (mut wire, handled, _peer) = received.expect("loopback takes it");
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let (waker, mut taken) = (Waker::from(woken.clone()), 0);
        loop {
            taken += 1;
            let cx = &mut Context::from_waker(&waker);
            assert!(wire.poll_open(cx).is_pending());
            // Woken by itself, as long as there is more.
            if woken.0.swap(0, SeqCst) == 0 {
                break;
            }
        }
        let all = messages * MESSAGE_BYTES;
        assert_eq!((handled.load(SeqCst), taken), (all, turns), "of {messages}");
    }
}
