//! One whole client: polling requests, a websocket's bytes in chunks, the upgrade between them, whatever parser it
//! speaks. What the socket layer does, without sockets.
//!
//! The first byte chooses revision, base64, JSONP, the first transport and the limit on a packet. Steps follow,
//! with a byte 0xFE between: `p` a POST's body, `o` one of octets, `g` a GET, `w` bytes on the websocket.
//!
//! Whatever is queued reaches the client once and in order, across transports and in each form; what was queued before
//! an error is heard in part or whole; no event is taken in a namespace that was not joined.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use chat_svc::protocol::connection::{CloseReason, Connection, Signal};
use chat_svc::protocol::engineio::{
    self, PAYLOAD_PACKETS_MAX, PayloadError, Polled, Revision, Sid,
};
use chat_svc::protocol::engineio_v3::{self, Framing};
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::incoming::{Incoming, incoming};
use chat_svc::protocol::socketio::{self, Payload};
use chat_svc::protocol::websocket::{Decoder, Event, Step};
use chat_svc::protocol::{jsonp, msgpack, socketio_v4};

const BYTES_MAX: [usize; 2] = [100_000, 300];

pub fn run(data: &[u8]) {
    let Some((&choice, steps)) = data.split_first() else {
        return;
    };
    let mut session = Session::new(choice);
    for step in steps.split(|&byte| byte == 0xFE) {
        let Some((kind, body)) = step.split_first() else {
            continue;
        };
        let taken = match kind {
            b'p' => session.post(body, Framing::Text),
            b'o' => session.post(body, Framing::Binary),
            b'g' => session.get(),
            _ => session.websocket(body),
        };
        if taken.is_err() {
            let is_prefix = session.said.starts_with(&session.heard);
            assert!(is_prefix, "what was heard is not what was said");
            return;
        }
    }
    session.end();
}

struct Session {
    revision: Revision,
    base64: bool,
    jsonp: Option<jsonp::Index>,
    bytes_max: usize,
    connection: Connection,
    is_msgpack: bool,
    is_polling: bool,
    /// The websocket, once there is one.
    socket: Option<Socket>,
    outbox: VecDeque<Frame>,
    /// All that was ever queued, and all that the client got of it.
    said: Vec<Frame>,
    heard: Vec<Frame>,
    now: Duration,
}

#[derive(Default)]
struct Socket {
    decoder: Decoder,
    kept: Vec<u8>,
    has_probed: bool,
}

/// What a websocket's bytes come to.
enum Received {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    End,
}

impl Session {
    fn new(choice: u8) -> Self {
        let is = |bit: u8| choice & bit != 0;
        let bytes_max = BYTES_MAX[usize::from(is(16))];
        let mut session = Self {
            revision: if is(1) { Revision::V3 } else { Revision::V4 },
            base64: is(2),
            jsonp: is(4).then(|| jsonp::Index::parse("0").expect("a number")),
            bytes_max,
            connection: Connection::new(bytes_max),
            is_msgpack: false,
            is_polling: !is(8),
            socket: is(8).then(Socket::default),
            outbox: VecDeque::new(),
            said: Vec::new(),
            heard: Vec::new(),
            now: Duration::ZERO,
        };
        if session.revision == Revision::V3 {
            session.join("/").expect("it is nowhere yet");
        }
        session
    }

    /// What waits is fetched, and nothing is missing.
    fn end(mut self) {
        while self.is_polling && !self.outbox.is_empty() {
            self.get().expect("what the server writes can be read");
        }
        self.flush();
        assert!(self.outbox.is_empty());
        assert!(self.said == self.heard, "what was said is not heard");
    }

    // --- polling ---

    fn post(&mut self, body: &[u8], framing: Framing) -> Result<(), CloseReason> {
        if !self.is_polling {
            return Ok(());
        }
        if framing == Framing::Binary && self.revision == Revision::V4 {
            return Err(CloseReason::ParseError);
        }
        let mut body = match self.jsonp {
            None => body.to_vec(),
            Some(_) => jsonp::payload(body).map_err(|_| CloseReason::ParseError)?,
        };
        match self.revision {
            Revision::V4 => self.packets(engineio::packets(&mut body)),
            Revision::V3 => self.packets(engineio_v3::packets(&mut body, framing)),
        }
    }

    fn packets<'a>(
        &mut self,
        packets: impl Iterator<Item = Result<Polled<'a>, PayloadError>>,
    ) -> Result<(), CloseReason> {
        for packet in packets {
            match packet.map_err(|_| CloseReason::ParseError)? {
                Polled::Text(text) => {
                    let text = str::from_utf8(text).expect("it was checked");
                    self.packet(text)?;
                }
                Polled::Binary(payload) => self.binary(&payload)?,
            }
        }
        Ok(())
    }

    fn get(&mut self) -> Result<(), CloseReason> {
        if !self.is_polling || self.outbox.is_empty() {
            return Ok(());
        }
        let count = self.outbox.len().min(PAYLOAD_PACKETS_MAX);
        let frames: Vec<Frame> = self.outbox.drain(..count).collect();
        let is_binary = !self.base64 && self.jsonp.is_none() && self.revision == Revision::V3;
        let framing = Framing::of_frames(&frames, is_binary);
        let mut body = Vec::new();
        let written = match self.revision {
            Revision::V4 => engineio::write_payload(&mut body, &frames),
            Revision::V3 => engineio_v3::write_payload(&mut body, &frames, framing),
        };
        assert_eq!(written, count);
        if let Some(index) = self.jsonp {
            body = through_a_page(index, &body);
        }
        let seen = |polled: Result<Polled<'_>, PayloadError>| match polled {
            Ok(Polled::Text(text)) => Frame::text_from(text),
            Ok(Polled::Binary(bytes)) => Frame::binary(&bytes),
            Err(error) => panic!("the server's payload cannot be read: {error}"),
        };
        match self.revision {
            Revision::V4 => self.heard.extend(engineio::packets(&mut body).map(seen)),
            Revision::V3 => {
                let packets = engineio_v3::packets(&mut body, framing);
                self.heard.extend(packets.map(seen));
            }
        }
        Ok(())
    }

    // --- websocket ---

    fn websocket(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let mut socket = self.socket.take().unwrap_or_default();
        socket.kept.extend_from_slice(bytes);
        let (received, is_over) = socket.receive(self.bytes_max);
        for received in received {
            let taken = match (received, self.is_polling) {
                (Received::Text(text), true) => self.probe(&mut socket, &text),
                (_, true) => Err(CloseReason::ParseError),
                (Received::Text(text), false) => {
                    let text = String::from_utf8(text).expect("it was checked");
                    self.packet(&text)
                }
                (Received::Binary(message), false) => self.raw(&message),
                (Received::End, false) => Err(CloseReason::TransportClose),
            };
            match taken {
                Ok(()) => self.flush(),
                // A socket that only probed is dropped, and polling is as it was.
                Err(_) if self.is_polling => return Ok(()),
                Err(reason) => return Err(reason),
            }
        }
        match (is_over, self.is_polling) {
            (true, true) => Ok(()),
            (true, false) => Err(CloseReason::ParseError),
            (false, _) => {
                self.socket = Some(socket);
                Ok(())
            }
        }
    }

    fn probe(&mut self, socket: &mut Socket, packet: &[u8]) -> Result<(), CloseReason> {
        match packet {
            b"2probe" if !socket.has_probed => socket.has_probed = true,
            b"5" => self.is_polling = false,
            _ => return Err(CloseReason::ParseError),
        }
        Ok(())
    }

    fn raw(&mut self, message: &[u8]) -> Result<(), CloseReason> {
        match self.revision {
            Revision::V4 => self.binary(message),
            Revision::V3 => {
                let payload = engineio_v3::websocket_binary(message);
                self.binary(payload.map_err(|_| CloseReason::ParseError)?)
            }
        }
    }

    /// Writes what waits to the websocket, if that is the session's transport.
    fn flush(&mut self) {
        while let Some(frame) = (!self.is_polling)
            .then(|| self.outbox.pop_front())
            .flatten()
        {
            let seen = match (frame.is_binary(), self.revision) {
                (true, Revision::V3) => {
                    let typed = engineio_v3::websocket_frame(&frame, !self.base64);
                    assert_eq!(typed.is_binary(), !self.base64);
                    match typed.packet().strip_prefix(b"b") {
                        Some(base64) if self.base64 => {
                            let bytes = engineio_v3::decode_binary(base64);
                            Frame::binary(&bytes.expect("the server's base64"))
                        }
                        _ => {
                            let raw = engineio_v3::websocket_binary(typed.packet());
                            Frame::binary(raw.expect("the server's message"))
                        }
                    }
                }
                _ => frame,
            };
            self.heard.push(seen);
        }
    }

    // --- packets ---

    fn packet(&mut self, packet: &str) -> Result<(), CloseReason> {
        self.now += Duration::from_millis(1);
        let packet = incoming(packet, self.revision);
        match packet.map_err(|_| CloseReason::ParseError)? {
            Incoming::Message(text) if !self.is_msgpack => {
                let now = self.now;
                let signal = self.connection.message(text, || now)?;
                self.follow(signal)
            }
            Incoming::Message(_) => Err(CloseReason::ParseError),
            Incoming::Binary(payload) => self.binary(&payload),
            Incoming::Ping(data) => self.send([engineio_v3::pong(data)]),
            Incoming::Close => Err(CloseReason::TransportClose),
            Incoming::Pong | Incoming::Noop => Ok(()),
        }
    }

    fn binary(&mut self, message: &[u8]) -> Result<(), CloseReason> {
        self.is_msgpack |= !self.connection.has_connected() && msgpack::is_packet(message);
        if !self.is_msgpack {
            let signal = self.connection.attachment(message)?;
            return self.follow(signal);
        }
        let decoded = msgpack::read::decode(message, self.bytes_max);
        let decoded = decoded.map_err(|_| CloseReason::ParseError)?;
        let now = self.now;
        let signal = self.connection.packet(decoded.packet(), || now)?;
        self.follow(signal)?;
        for attachment in &decoded.attachments {
            let signal = self.connection.attachment(attachment)?;
            self.follow(signal)?;
        }
        Ok(())
    }

    /// Answers as an application that sends every event back, and acknowledges it.
    fn follow(&mut self, signal: Signal<'_>) -> Result<(), CloseReason> {
        match signal {
            Signal::Nothing | Signal::Disconnect { .. } => Ok(()),
            Signal::Connect { namespace, .. } => self.join(namespace),
            Signal::Event {
                namespace,
                data,
                ack,
            } => self.event(namespace, data, ack, &[]),
            Signal::Ack { data, .. } => {
                let args = socketio::ack_args(data);
                args.map(drop).map_err(|_| CloseReason::ParseError)
            }
            Signal::Complete(complete) if complete.is_event => {
                let ack = complete.id.as_deref();
                self.event(
                    &complete.namespace,
                    &complete.data,
                    ack,
                    &complete.attachments,
                )
            }
            Signal::Complete(_) => Ok(()),
        }
    }

    fn join(&mut self, namespace: &str) -> Result<(), CloseReason> {
        assert!(namespace.starts_with('/'));
        let id = Sid::new([7; 15]);
        if namespace.contains("deny") {
            let frame = Frame::text(64, |out| match self.revision {
                Revision::V4 => socketio::write_connect_error(out, namespace, "no", None),
                Revision::V3 => socketio_v4::write_error(out, namespace, "no", None),
            });
            return self.send([frame]);
        }
        let joined = self.connection.join(namespace, id);
        joined.map_err(|_| CloseReason::ParseError)?;
        let frame = Frame::text(64, |out| match self.revision {
            Revision::V4 => socketio::write_connect(out, namespace, &id.to_string(), None),
            Revision::V3 => socketio_v4::write_connect(out, namespace),
        });
        self.send([frame])
    }

    fn event(
        &mut self,
        namespace: &str,
        data: &str,
        ack: Option<&str>,
        attachments: &[Bytes],
    ) -> Result<(), CloseReason> {
        assert!(self.connection.socket_id(namespace).is_some(), "not joined");
        let event = socketio::event(data).map_err(|_| CloseReason::ParseError)?;
        let payload = Payload {
            args: &event.args,
            attachments,
        };
        let attached = || attachments.iter().map(|bytes| Frame::binary(bytes));
        let back = Frame::text(64, |out| {
            socketio::write_event(out, namespace, None, "back", payload);
        });
        self.send(std::iter::once(back).chain(attached()))?;
        let Some(id) = ack else { return Ok(()) };
        let acknowledged = Frame::text(64, |out| {
            socketio::write_ack(out, namespace, id, payload);
        });
        self.send(std::iter::once(acknowledged).chain(attached()))
    }

    /// Queues one packet with its attachments.
    fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), CloseReason> {
        let mut frames: Vec<Frame> = frames.into_iter().collect();
        if self.is_msgpack {
            let attached = frames[1..].iter();
            let attached: Vec<_> = attached
                .map(|frame| Bytes::copy_from_slice(frame.packet()))
                .collect();
            let packet = msgpack::write::frame(&frames[0], &attached, 1 << 20);
            frames = vec![packet.map_err(|_| CloseReason::TooLarge)?];
        }
        self.said.extend(frames.iter().cloned());
        self.outbox.extend(frames);
        Ok(())
    }
}

impl Socket {
    /// Every whole message, and whether nothing can come behind them.
    fn receive(&mut self, bytes_max: usize) -> (Vec<Received>, bool) {
        let (mut received, mut start) = (Vec::new(), 0);
        let is_over = loop {
            match self.decoder.decode(&mut self.kept[start..], bytes_max) {
                Err(_) => break true,
                Ok(Step::Incomplete { .. }) => break false,
                Ok(Step::Done { consumed, event }) => {
                    start += consumed;
                    match event {
                        Some(Event::Text(text)) => received.push(Received::Text(text.into())),
                        Some(Event::Binary(bytes)) => {
                            received.push(Received::Binary(bytes.to_vec()));
                        }
                        Some(Event::Close(_)) => {
                            received.push(Received::End);
                            break true;
                        }
                        Some(Event::Ping(_) | Event::Pong) | None => {}
                    }
                }
            }
        };
        self.kept.drain(..start);
        (received, is_over)
    }
}

/// A payload as a page gets it that runs the server's script.
fn through_a_page(index: jsonp::Index, payload: &[u8]) -> Vec<u8> {
    let payload = str::from_utf8(payload).expect("a payload without binary packets is text");
    let mut script = Vec::new();
    jsonp::write_answer(&mut script, index, payload);
    let script = String::from_utf8(script).expect("a script is text");
    assert!(!script.contains(['\u{2028}', '\u{2029}']), "it ends a line");
    let string = script
        .strip_prefix("___eio[0](")
        .and_then(|s| s.strip_suffix(");"));
    let string = string.expect("a call with a string");
    let again: String = serde_json::from_str(string).expect("a JSON string");
    assert_eq!(again, payload);
    again.into_bytes()
}
