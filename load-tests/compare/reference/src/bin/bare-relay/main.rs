//! The least that a machine can do for this traffic: one thread, epoll, one read and one write a client and wake-up.
//! It believes what it is told: events are known by how they begin, fields found by searching, nothing is checked,
//! nobody pinged, nothing kept. A measuring stick, not a server.
//! The system's allocator, because mimalloc begins with 8 MiB, and the buffers are used again here anyway.

mod bytes;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

use bytes::{frame_at, push_frame, unmask, upgrade, value_after, write_digits};

const LISTENER: Token = Token(usize::MAX);
const READ_BYTES: usize = 64 * 1024;
/// A client that does not read is cut when so much waits for it.
const OUT_BYTES_MAX: usize = 16 * 1024 * 1024;
const CLOSE: u8 = 8;
const OPEN: &[u8] =
    br#"0{"sid":"bare","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
const RECEIVER: &[u8] = br#""receiver_id":""#;
const CHAT: &[u8] = br#"["chatMessage",{"#;
const TYPING: &[u8] = br#"["typing","#;
/// So that every number has the same length; in JSON none begins with a zero.
const SEQ_BASE: u64 = 1_000_000_000_000_000;
const JOIN: &[u8] = br#"["joinRoom",""#;

fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3001".into());
    let address = format!("127.0.0.1:{port}").parse();
    let mut listener = TcpListener::bind(address.map_err(io::Error::other)?)?;
    println!("listens on {}", listener.local_addr()?.port());
    let mut poll = Poll::new()?;
    let registry = poll.registry().try_clone()?;
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut relay = Relay::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    relay.open(stream, &registry)?;
                }
                continue;
            }
            let Token(at) = event.token();
            if event.is_readable() && relay.read(at, &mut buffer).is_err() {
                relay.close(at);
            } else if event.is_writable() {
                relay.touch(at);
            }
        }
        relay.flush();
    }
}

#[derive(Default)]
struct Relay {
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    rooms: HashMap<Vec<u8>, Vec<usize>>,
    /// Clients with something to write.
    touched: Vec<usize>,
    /// Buffers of clients that have nothing to write.
    spare: Vec<Vec<u8>>,
    seq: u64,
    scratch: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    upgraded: bool,
    /// The beginning of a frame whose end has not come yet.
    input: Vec<u8>,
    out: Vec<u8>,
    touched: bool,
    rooms: Vec<Vec<u8>>,
}

impl Relay {
    fn open(&mut self, mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let at = self.free.pop().unwrap_or(self.clients.len());
        registry.register(
            &mut stream,
            Token(at),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let client = Some(Client {
            stream,
            upgraded: false,
            input: Vec::new(),
            out: Vec::new(),
            touched: false,
            rooms: Vec::new(),
        });
        match self.clients.get_mut(at) {
            Some(place) => *place = client,
            None => self.clients.push(client),
        }
        Ok(())
    }

    fn close(&mut self, at: usize) {
        let Some(client) = self.clients[at].take() else {
            return;
        };
        for room in client.rooms {
            if let Some(members) = self.rooms.get_mut(&room) {
                members.retain(|member| *member != at);
                if members.is_empty() {
                    self.rooms.remove(&room);
                }
            }
        }
        self.free.push(at);
    }

    /// Reads until there is no more, and takes every whole frame. A short read has emptied the socket.
    fn read(&mut self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(client) = &mut self.clients[at] {
            let count = match client.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if client.input.is_empty() {
                let taken = self.take(at, &mut buffer[..count])?;
                self.keep(at, &buffer[taken..count]);
            } else {
                let mut input = std::mem::take(&mut client.input);
                input.extend_from_slice(&buffer[..count]);
                let taken = self.take(at, &mut input)?;
                self.keep(at, &input[taken..]);
            }
            if count < buffer.len() {
                break;
            }
        }
        Ok(())
    }

    fn keep(&mut self, at: usize, rest: &[u8]) {
        if let Some(client) = self.clients[at].as_mut().filter(|_| !rest.is_empty()) {
            client.input = rest.to_vec();
        }
    }

    /// Takes the handshake or whole frames off the front of `input`; how many bytes those were.
    fn take(&mut self, at: usize, input: &mut [u8]) -> io::Result<usize> {
        let Some(client) = self.clients[at].as_mut() else {
            return Ok(input.len());
        };
        let mut taken = 0;
        if !client.upgraded {
            let Some(end) = memmem::find(input, b"\r\n\r\n") else {
                return Ok(0);
            };
            client.upgraded = true;
            client.out = self.spare.pop().unwrap_or_default();
            upgrade(&mut client.out, &input[..end])?;
            push_frame(&mut client.out, &[OPEN]);
            self.touch(at);
            taken = end + 4;
        }
        while let Some((opcode, head, length)) = frame_at(&input[taken..]) {
            let mask = input[taken + head - 4..taken + head].try_into();
            let payload = &mut input[taken + head..taken + head + length];
            unmask(payload, mask.map_err(io::Error::other)?);
            if opcode == CLOSE {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.receive(at, payload);
            taken += head + length;
        }
        Ok(taken)
    }

    /// One Engine.IO packet.
    fn receive(&mut self, from: usize, packet: &[u8]) {
        if packet == b"40" {
            return self.send(from, &[br#"40{"sid":"bare"}"#]);
        }
        let Some(event) = packet.strip_prefix(b"42") else {
            return;
        };
        let digits = event
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (id, event) = event.split_at(digits);
        if let Some(fields) = event.strip_prefix(CHAT) {
            self.chat(from, fields);
        } else if event.starts_with(TYPING) {
            let mut frame = std::mem::take(&mut self.scratch);
            frame.clear();
            push_frame(&mut frame, &[packet]);
            self.relay(value_after(RECEIVER, event), &frame);
            self.scratch = frame;
        } else if let Some(user) = event.strip_prefix(JOIN) {
            let user = user.split(|byte| *byte == b'"').next().unwrap_or_default();
            self.rooms.entry(user.to_vec()).or_default().push(from);
            if let Some(client) = &mut self.clients[from] {
                client.rooms.push(user.to_vec());
            }
            if !id.is_empty() {
                self.send(from, &[b"43", id, br#"[{"status":"ok"}]"#]);
            }
        }
    }

    /// `newMessage` and `messageSent`: the fields that came, and before them those that a server makes.
    fn chat(&mut self, from: usize, fields: &[u8]) {
        self.seq += 1;
        let mut made = *br#"{"_id":"000000000000000000000000","message_type":"text","timestamp":"2026-01-01T00:00:00.000Z","is_spam":false,"seq":0000000000000001,"#;
        write_digits(&mut made[16..32], self.seq);
        let at = made.len() - 17;
        write_digits(&mut made[at..at + 16], SEQ_BASE + self.seq);
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        push_frame(&mut frame, &[br#"42["newMessage","#, &made, fields]);
        self.relay(value_after(RECEIVER, fields), &frame);
        self.scratch = frame;
        self.send(from, &[br#"42["messageSent","#, &made, fields]);
    }

    /// Gives `frame` to all of a room.
    fn relay(&mut self, room: &[u8], frame: &[u8]) {
        let Some(members) = self.rooms.get(room) else {
            return;
        };
        for member in members {
            if let Some(client) = &mut self.clients[*member] {
                if client.out.capacity() == 0 {
                    client.out = self.spare.pop().unwrap_or_default();
                }
                client.out.extend_from_slice(frame);
                if !std::mem::replace(&mut client.touched, true) {
                    self.touched.push(*member);
                }
            }
        }
    }

    fn send(&mut self, to: usize, parts: &[&[u8]]) {
        if let Some(client) = &mut self.clients[to] {
            if client.out.capacity() == 0 {
                client.out = self.spare.pop().unwrap_or_default();
            }
            push_frame(&mut client.out, parts);
            self.touch(to);
        }
    }

    fn touch(&mut self, at: usize) {
        if let Some(client) = &mut self.clients[at]
            && !client.out.is_empty()
            && !std::mem::replace(&mut client.touched, true)
        {
            self.touched.push(at);
        }
    }

    /// One write a client.
    fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for at in touched.drain(..) {
            let Some(client) = &mut self.clients[at] else {
                continue;
            };
            client.touched = false;
            let written = match client.stream.write(&client.out) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                written => written,
            };
            match written {
                Ok(count) if count == client.out.len() => {
                    client.out.clear();
                    self.spare.push(std::mem::take(&mut client.out));
                }
                Ok(count) if client.out.len() - count < OUT_BYTES_MAX => {
                    drop(client.out.drain(..count))
                }
                _ => self.close(at),
            }
        }
        self.touched = touched;
    }
}
