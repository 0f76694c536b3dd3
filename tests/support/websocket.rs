//! A WebSocket client that does as it is told: masked or not, whole or in fragments, well-formed or not. It answers
//! nothing by itself.

use std::io;
use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::{Connection, Response};
use super::within;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame as it stood on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// The three reserved bits, in their places (0x40, 0x20, 0x10).
    pub rsv: u8,
    pub opcode: u8,
    /// `None`: not masked.
    pub mask: Option<[u8; 4]>,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A whole, masked message, as a client sends it.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame {
            fin: true,
            rsv: 0,
            opcode,
            mask: Some([0x37, 0xfa, 0x21, 0x3d]),
            payload: payload.into(),
        }
    }

    pub fn text(payload: &str) -> Frame {
        Frame::new(TEXT, payload)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        match self.payload.len() {
            length @ 0..=125 => bytes.push(masked | length as u8),
            length @ 126..=0xffff => {
                bytes.push(masked | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(masked | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mask = self.mask.unwrap_or_default();
        bytes.extend_from_slice(&mask[..if self.mask.is_some() { 4 } else { 0 }]);
        let unmasked = self.payload.iter().zip(mask.iter().cycle());
        bytes.extend(unmasked.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// The close code of a close frame that has one.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().filter(|_| self.opcode == CLOSE);
        code.map(|code| u16::from_be_bytes(*code))
    }

    /// The frame at the head of `input` and its length, when it is there whole.
    fn decode(input: &[u8]) -> Option<(Frame, usize)> {
        let [first, second, ..] = *input else {
            return None;
        };
        let (length, mut at) = match second & 0x7f {
            126 => (
                usize::from(u16::from_be_bytes(*input[2..].first_chunk()?)),
                4,
            ),
            127 => (u64::from_be_bytes(*input[2..].first_chunk()?) as usize, 10),
            length => (usize::from(length), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(*input.get(at..)?.first_chunk()?);
            at += 4;
        }
        let payload = input.get(at..at + length)?.to_vec();
        let frame = Frame {
            fin: first & 0x80 != 0,
            rsv: first & 0x70,
            opcode: first & 0x0f,
            mask,
            payload,
        };
        Some((frame, at + length))
    }
}

/// A connection after the handshake.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    input: Vec<u8>,
}

impl WebSocket {
    /// Opens one, or returns the answer that was not 101.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket, Response> {
        let mut connection = Connection::open(address).await;
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let mut all = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
        ];
        all.retain(|(name, _)| !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)));
        all.extend_from_slice(headers);
        connection.send("GET", path, &all, b"").await;
        let response = connection.response("GET").await;
        if response.status != 101 {
            return Err(response);
        }
        // RFC 6455 section 1.3 gives this answer to this key.
        let accept = response.header("sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let (stream, input) = connection.into_parts();
        Ok(WebSocket { stream, input })
    }

    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.send_bytes(&frame.encode()).await
    }

    pub async fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.send(&Frame::text(text)).await
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("room to send", self.stream.write_all(bytes)).await
    }

    /// The next frame; `None` when the connection has ended, with or without a close frame before.
    pub async fn frame(&mut self) -> Option<Frame> {
        within("a WebSocket frame", self.next_frame()).await
    }

    /// As [`WebSocket::frame`], without a deadline. Cancel-safe.
    pub async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.input) {
                self.input.drain(..used);
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame's payload, which must be a whole text.
    pub async fn text(&mut self) -> String {
        let frame = self.frame().await.expect("a text, not the end");
        assert!(
            frame.fin && frame.opcode == TEXT,
            "a whole text, not {frame:?}"
        );
        String::from_utf8(frame.payload).expect("UTF-8 in a text frame")
    }

    /// Waits for the connection to end; the code of the close frame, if one came. Other frames are skipped.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(frame) = within("the server to close the WebSocket", self.next_frame()).await
        {
            code = code.or(frame.close_code());
        }
        code
    }

    /// The stream, for a test that wants to stop reading, cut, or half-close.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// A fresh `Sec-WebSocket-Key` of these bytes.
pub fn key(bytes: [u8; 16]) -> String {
    BASE64_STANDARD.encode(bytes)
}
