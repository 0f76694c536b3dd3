//! One Socket.IO connection over a raw websocket, as cheap as it gets: many frames a read, many frames a write, nothing
//! parsed that is not needed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use indicatif::ProgressBar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// A websocket that is CONNECTed to `/`.
pub struct Connection {
    pub stream: TcpStream,
    pub input: Input,
}

impl Connection {
    /// Connects, handshakes, CONNECTs, and joins `user`'s room. `number` picks the local address when the server is on
    /// the loopback, so that ports do not run out.
    pub async fn open(address: SocketAddr, number: u32, user: &str) -> io::Result<Connection> {
        let mut connection = Self::connect(address, number).await?;
        let join = format!("420[\"joinRoom\",\"{user}\"]");
        connection
            .stream
            .write_all(&frame(TEXT, join.as_bytes()))
            .await?;
        connection.expect(b"430").await?;
        Ok(connection)
    }

    /// As [`Connection::open`], without joining a room.
    pub async fn connect(address: SocketAddr, number: u32) -> io::Result<Connection> {
        let stream = dial(address, number).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            input: Input::default(),
        };
        connection.handshake(address).await?;
        connection.expect(b"0{").await?;
        connection.stream.write_all(&frame(TEXT, b"40")).await?;
        connection.expect(b"40").await?;
        Ok(connection)
    }

    async fn handshake(&mut self, address: SocketAddr) -> io::Result<()> {
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some(end) = memchr::memmem::find(self.input.filled(), b"\r\n\r\n") {
                if !self.input.filled().starts_with(b"HTTP/1.1 101") {
                    return Err(refused("the handshake was refused"));
                }
                self.input.consume(end + 4);
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Reads until a text that begins so; pings are answered, other frames skipped.
    async fn expect(&mut self, beginning: &[u8]) -> io::Result<()> {
        loop {
            let mut answer = Vec::new();
            let mut found = false;
            while let Some(frame) = self.input.next_frame()? {
                found = frame.opcode == TEXT && frame.payload.starts_with(beginning);
                frame.answer(&mut answer);
                if found {
                    break;
                }
            }
            self.stream.write_all(&answer).await?;
            if found {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let read = self.stream.read(self.input.space()).await?;
        self.input.filled_more(read)
    }
}

/// Opens `count` connections, each with its user's room joined, `room` to a user, a few at a time; in order.
pub async fn open_all(
    address: SocketAddr,
    count: u32,
    room: u32,
    bar: &ProgressBar,
) -> io::Result<Vec<Connection>> {
    let mut waiting = 0..count;
    let mut opening = JoinSet::new();
    let mut open: Vec<Option<Connection>> = (0..count).map(|_| None).collect();
    bar.set_length(u64::from(count));
    loop {
        while opening.len() < OPENING_MAX
            && let Some(number) = waiting.next()
        {
            opening.spawn(async move {
                let connection = Connection::open(address, number, &user(number / room)).await;
                // A reset leaves no port waiting behind: runs in turn would use them all up.
                let reset = |open: Connection| open.stream.set_zero_linger().map(|()| open);
                (number, connection.and_then(reset))
            });
        }
        let Some(opened) = opening.join_next().await else {
            break;
        };
        let (number, connection) = opened.map_err(io::Error::other)?;
        open[number as usize] = Some(connection?);
        bar.inc(1);
    }
    Ok(open.into_iter().flatten().collect())
}

/// User `number` of this run. Runs on one server differ, so that they share no room and no conversation.
pub fn user(number: u32) -> String {
    format!("load-{}-{number}", std::process::id())
}

async fn dial(address: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let SocketAddr::V4(v4) = address else {
        return TcpStream::connect(address).await;
    };
    let socket = TcpSocket::new_v4()?;
    if v4.ip().is_loopback() {
        let [_, _, high, low] = (number / PORTS_AN_ADDRESS).to_be_bytes();
        let local = Ipv4Addr::new(127, 0, 1 + high, 1 + low);
        socket.bind((local, 0).into())?;
    }
    socket.connect(address).await
}

// === Input ===

/// Bytes read and not yet taken as frames. Small until a lot comes at once.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// A frame from the server.
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Adds the answer to a ping of either kind.
    pub fn answer(&self, out: &mut Vec<u8>) {
        if self.opcode == TEXT && self.payload == b"2" {
            out.extend_from_slice(&frame(TEXT, b"3"));
        } else if self.opcode == PING {
            out.extend_from_slice(&frame(PONG, self.payload));
        }
    }
}

impl Input {
    /// Room for reads of so many bytes from the start.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.resize(self.bytes.len().max(bytes), 0);
    }

    /// Room to read into: at least half a kibibyte; it doubles when a read has filled it.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < SPACE_MIN {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.bytes.len() - self.end < SPACE_MIN {
                self.bytes
                    .resize((self.bytes.len() * 2).max(2 * SPACE_MIN), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into [`Input::space`]; none is the end of the connection.
    pub fn filled_more(&mut self, count: usize) -> io::Result<()> {
        self.end += count;
        match count {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// The next whole frame. A close frame is the end.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let filled = &self.bytes[self.start..self.end];
        let [first, second, ..] = *filled else {
            return Ok(None);
        };
        let (length, head) = match second {
            0..=125 => (usize::from(second), 2),
            126 => match filled[2..].first_chunk() {
                Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
                None => return Ok(None),
            },
            127 => match filled[2..].first_chunk() {
                Some(length) => (u64::from_be_bytes(*length) as usize, 10),
                None => return Ok(None),
            },
            _ => return Err(refused("the server masked a frame")),
        };
        if first & 0x0f == CLOSE {
            return Err(refused("the server closed the connection"));
        }
        if first & 0x80 == 0 {
            return Err(refused("the server sent a fragment"));
        }
        if filled.len() < head + length {
            return Ok(None);
        }
        let start = self.start + head;
        self.start = start + length;
        let opcode = first & 0x0f;
        let payload = &self.bytes[start..start + length];
        Ok(Some(Frame { opcode, payload }))
    }
}

// === Output ===

/// A masked frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    push_frame(&mut out, opcode, payload);
    out
}

/// Appends a masked frame. The mask is always the same: the server has to undo it all the same.
pub fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    let (chunks, rest) = out[start..].as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ u32::from_ne_bytes(MASK)).to_ne_bytes();
    }
    rest.iter_mut()
        .zip(MASK)
        .for_each(|(byte, mask)| *byte ^= mask);
}

fn refused(why: &'static str) -> io::Error {
    io::Error::other(why)
}

pub const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x8e];
/// Handshakes under way at once.
const OPENING_MAX: usize = 64;
/// Least room for a read.
const SPACE_MIN: usize = 512;
/// Connections that share one local address, well below the ports there are.
const PORTS_AN_ADDRESS: u32 = 10_000;
