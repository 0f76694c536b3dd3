//! A Socket.IO 5 client on Engine.IO 4, over either transport and across the upgrade between them.
//!
//! It answers pings by itself (unless told not to) and keeps what arrives while something else is awaited.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::Response;
use super::packet::{Event, Incoming, Packet, event_text, parse, prefix};
use super::polling::Polling;
use super::websocket::{self, Frame, WebSocket};
use super::within;

/// Path and query of a handshake, but for the transport.
const PATH: &str = "/socket.io/?EIO=4";

#[derive(Debug)]
pub struct Client {
    transport: Transport,
    /// The `open` packet's JSON.
    pub open: Value,
    /// False: a server's ping stays unanswered and is returned by [`Client::next_packet`] like any packet.
    pub answers_pings: bool,
    address: SocketAddr,
    /// Packets received over a transport that has been left.
    packets: VecDeque<Packet>,
    /// What arrived while something else was awaited.
    kept: VecDeque<Incoming>,
    next_ack: u64,
}

#[derive(Debug)]
enum Transport {
    WebSocket(WebSocket),
    Polling(Box<Polling>),
}

// === Opening ===

impl Client {
    /// A websocket, CONNECTed to `/`.
    pub async fn websocket(address: SocketAddr) -> Client {
        let mut client = Self::open_websocket(address, "", &[])
            .await
            .expect("a handshake");
        client.connect("/").await;
        client
    }

    /// A polling session, CONNECTed to `/`.
    pub async fn polling(address: SocketAddr) -> Client {
        let mut client = Self::open_polling(address, "", &[])
            .await
            .expect("a handshake");
        client.connect("/").await;
        client
    }

    /// A websocket after the `open` packet. `query` (for example `&token=x`) is added to the handshake's.
    pub async fn open_websocket(
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Client, Response> {
        let path = format!("{PATH}&transport=websocket{query}");
        let socket = WebSocket::open(address, &path, headers).await?;
        Ok(Self::opened(address, Transport::WebSocket(socket)).await)
    }

    /// A polling session after the `open` packet.
    pub async fn open_polling(
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Client, Response> {
        let path = format!("{PATH}&transport=polling{query}");
        let polling = Polling::open(address, &path, headers).await?;
        let mut client = Self::opened(address, Transport::Polling(Box::new(polling))).await;
        let sid = client.sid().to_string();
        client.polling_transport().set_sid(&sid);
        Ok(client)
    }

    async fn opened(address: SocketAddr, transport: Transport) -> Client {
        let mut client = Client {
            transport,
            open: Value::Null,
            answers_pings: true,
            address,
            packets: VecDeque::new(),
            kept: VecDeque::new(),
            next_ack: 0,
        };
        let packet = within("the open packet", client.transport.next_packet()).await;
        let Some(Packet::Text(text)) = packet else {
            panic!("an open packet, not {packet:?}");
        };
        let json = text.strip_prefix('0').expect("the first packet is `open`");
        client.open = serde_json::from_str(json).expect("JSON in the open packet");
        client
    }

    /// CONNECTs to a namespace; the answer's payload.
    pub async fn connect(&mut self, namespace: &str) -> Value {
        self.connect_with(namespace, &Value::Null)
            .await
            .unwrap_or_else(|payload| panic!("CONNECT to {namespace} refused: {payload}"))
    }

    /// CONNECTs with an auth payload (none when null); the payload of the answer or of the refusal.
    pub async fn connect_with(&mut self, namespace: &str, auth: &Value) -> Result<Value, Value> {
        let auth = if auth.is_null() {
            String::new()
        } else {
            auth.to_string()
        };
        self.send_packet(&format!("40{}{auth}", prefix(namespace)))
            .await;
        let found = self.find("an answer to CONNECT", |incoming| match incoming {
            Incoming::Connected {
                namespace: n,
                payload,
            } if n == namespace => Ok(Ok(payload)),
            Incoming::Refused {
                namespace: n,
                payload,
            } if n == namespace => Ok(Err(payload)),
            other => Err(other),
        });
        found.await
    }

    /// Moves from polling to a websocket, as clients do: probe, wait for the held GET, `5`.
    pub async fn upgrade(&mut self) {
        let sid = self.sid().to_string();
        let path = format!("{PATH}&transport=websocket&sid={sid}");
        let mut socket = WebSocket::open(self.address, &path, &[])
            .await
            .expect("a probe socket");
        socket.send_text("2probe").await.expect("sending the probe");
        assert_eq!(socket.text().await, "3probe");
        let polling = self.polling_transport();
        polling.settle().await;
        let packets = polling.take_packets();
        self.packets.extend(packets);
        socket
            .send_text("5")
            .await
            .expect("sending the upgrade packet");
        self.transport = Transport::WebSocket(socket);
    }
}

// === Sending ===

impl Client {
    /// Emits on `/`; panics when the connection has ended.
    pub async fn emit(&mut self, name: &str, data: Value) {
        let sent = self.try_emit(name, data).await;
        assert!(sent, "emitting {name} on a connection that has ended");
    }

    /// Emits on `/`; false when the connection has ended.
    pub async fn try_emit(&mut self, name: &str, data: Value) -> bool {
        self.try_send_packet(&event_text("/", None, name, &[data]))
            .await
    }

    /// Emits on `/` and asks for an acknowledgement; the id it will carry, or `None` when the connection has ended.
    pub async fn try_emit_asking(&mut self, name: &str, data: Value) -> Option<u64> {
        let id = self.next_ack;
        self.next_ack += 1;
        let text = event_text("/", Some(id), name, &[data]);
        self.try_send_packet(&text).await.then_some(id)
    }

    /// Emits on `/` and waits for the acknowledgement; its first argument, or null.
    pub async fn emit_with_ack(&mut self, name: &str, data: Value) -> Value {
        let asked = self
            .try_emit_asking(name, data)
            .await
            .expect("a connection to emit on");
        let what = format!("the acknowledgement of {name}");
        let ack = self.find(&what, |incoming| match incoming {
            Incoming::Ack { id, args, .. } if id == asked => {
                Ok(args.into_iter().next().unwrap_or_default())
            }
            other => Err(other),
        });
        ack.await
    }

    /// Joins a user's room and waits until it is done.
    pub async fn join(&mut self, user: &str) {
        let answer = self.emit_with_ack("joinRoom", json!(user)).await;
        assert_eq!(answer["status"], "ok", "joining room {user}");
    }

    /// Sends one Engine.IO packet's text as it is.
    pub async fn send_packet(&mut self, text: &str) {
        let sent = self.try_send_packet(text).await;
        assert!(sent, "sending {text:?} on a connection that has ended");
    }

    pub async fn try_send_packet(&mut self, text: &str) -> bool {
        self.transport.send(&Packet::Text(text.into())).await
    }

    /// Sends an attachment.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        let sent = self.transport.send(&Packet::Binary(bytes.into())).await;
        assert!(sent, "sending an attachment on a connection that has ended");
    }
}

// === Receiving ===

impl Client {
    /// The next event, whatever its name.
    pub async fn event(&mut self) -> Event {
        let event = self.find("an event", |incoming| match incoming {
            Incoming::Event(event) => Ok(event),
            other => Err(other),
        });
        event.await
    }

    /// The first argument of the next event of this name. Other events are kept.
    pub async fn event_named(&mut self, name: &str) -> Value {
        let what = format!("event {name}");
        let event = self.find(&what, |incoming| match incoming {
            Incoming::Event(event) if event.name == name => Ok(event.data().clone()),
            other => Err(other),
        });
        event.await
    }

    /// The next Socket.IO packet, without a deadline; `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        match self.kept.pop_front() {
            Some(incoming) => Some(incoming),
            None => self.read().await,
        }
    }

    /// The next Engine.IO packet; `None` when the connection has ended.
    pub async fn packet(&mut self) -> Option<Packet> {
        within("a packet", self.next_packet()).await
    }

    /// As [`Client::packet`], without a deadline. Pings are answered and skipped. Cancel-safe but for the answer.
    pub async fn next_packet(&mut self) -> Option<Packet> {
        loop {
            let packet = match self.packets.pop_front() {
                Some(packet) => packet,
                None => self.transport.next_packet().await?,
            };
            if !self.answers_pings || packet != Packet::Text("2".into()) {
                return Some(packet);
            }
            self.transport.send(&Packet::Text("3".into())).await;
        }
    }

    /// Waits for the connection to end; events that come until then are returned.
    pub async fn closed(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(incoming) = within("the connection to end", self.next()).await {
            if let Incoming::Event(event) = incoming {
                events.push(event);
            }
        }
        events
    }

    /// All that the server has sent until now: a CONNECT to a namespace that does not exist is refused in turn, after
    /// everything before it. So "nothing came" can be told without waiting.
    pub async fn events_until_now(&mut self) -> Vec<Event> {
        self.send_packet("40/no-such-namespace,").await;
        let mut events = Vec::new();
        loop {
            let incoming = within("the refusal of a namespace", self.next()).await;
            match incoming.expect("a connection that goes on") {
                Incoming::Refused { .. } => return events,
                Incoming::Event(event) => events.push(event),
                _ => {}
            }
        }
    }

    /// Waits for what `pick` takes; hands the rest back to it as `Err`, to be kept.
    async fn find<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Incoming) -> Result<T, Incoming>,
    ) -> T {
        let mut found = None;
        for incoming in std::mem::take(&mut self.kept) {
            match found {
                Some(_) => self.kept.push_back(incoming),
                None => match pick(incoming) {
                    Ok(taken) => found = Some(taken),
                    Err(other) => self.kept.push_back(other),
                },
            }
        }
        if let Some(found) = found {
            return found;
        }
        loop {
            let incoming = within(what, self.read()).await;
            let incoming = incoming.unwrap_or_else(|| panic!("the connection ended before {what}"));
            match pick(incoming) {
                Ok(found) => return found,
                Err(other) => self.kept.push_back(other),
            }
        }
    }

    async fn read(&mut self) -> Option<Incoming> {
        loop {
            let text = match self.next_packet().await? {
                Packet::Text(text) => text,
                Packet::Binary(_) => panic!("an attachment that no packet announced"),
            };
            let Some(packet) = text.strip_prefix('4') else {
                assert!(
                    matches!(text.as_str(), "1" | "2" | "6"),
                    "unexpected packet {text:?}"
                );
                continue;
            };
            let (mut incoming, attachments) = parse(packet);
            for _ in 0..attachments {
                let Packet::Binary(bytes) = self.next_packet().await? else {
                    panic!("a text where an attachment is due");
                };
                if let Incoming::Event(event) = &mut incoming {
                    event.attachments.push(bytes);
                }
            }
            return Some(incoming);
        }
    }
}

// === Parts ===

impl Client {
    /// The Engine.IO session id.
    pub fn sid(&self) -> &str {
        self.open["sid"].as_str().expect("a sid in the open packet")
    }

    /// The polling session, for a test that sends its requests one by one.
    pub fn polling_transport(&mut self) -> &mut Polling {
        match &mut self.transport {
            Transport::Polling(polling) => polling,
            Transport::WebSocket(_) => panic!("this client is on a websocket"),
        }
    }

    /// The websocket, for a test that sends frames.
    pub fn websocket_transport(&mut self) -> &mut WebSocket {
        match &mut self.transport {
            Transport::WebSocket(socket) => socket,
            Transport::Polling(_) => panic!("this client is on polling"),
        }
    }
}

impl Transport {
    async fn next_packet(&mut self) -> Option<Packet> {
        let socket = match self {
            Transport::Polling(polling) => return polling.next_packet().await,
            Transport::WebSocket(socket) => socket,
        };
        loop {
            let frame = socket.next_frame().await?;
            match frame.opcode {
                websocket::TEXT => {
                    let text = String::from_utf8(frame.payload).expect("UTF-8 in a text frame");
                    return Some(Packet::Text(text));
                }
                websocket::BINARY => return Some(Packet::Binary(frame.payload)),
                websocket::CLOSE => return None,
                _ => {}
            }
        }
    }

    async fn send(&mut self, packet: &Packet) -> bool {
        match (self, packet) {
            (Transport::Polling(polling), packet) => polling.send_packet(packet).await,
            (Transport::WebSocket(socket), Packet::Text(text)) => {
                socket.send_text(text).await.is_ok()
            }
            (Transport::WebSocket(socket), Packet::Binary(bytes)) => {
                let frame = Frame::new(websocket::BINARY, bytes.clone());
                socket.send(&frame).await.is_ok()
            }
        }
    }
}
