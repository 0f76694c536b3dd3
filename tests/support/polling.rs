//! Engine.IO 4 long polling, request by request: a held GET on one connection, POSTs on another.

use std::collections::VecDeque;
use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::http::{Connection, Response};
use super::packet::Packet;
use super::{http, within};

/// Between two packets of a payload.
pub const SEPARATOR: char = '\u{1e}';

/// A polling session.
#[derive(Debug)]
pub struct Polling {
    pub address: SocketAddr,
    /// Path and query of every further request, with the session's id.
    pub path: String,
    get: Option<Connection>,
    post: Option<Connection>,
    /// A GET is out and not answered yet.
    waiting: bool,
    packets: VecDeque<Packet>,
    closed: bool,
}

impl Polling {
    /// Handshakes on `path` (with its query). The first packet is the `open` one; or the answer that was not 200.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Polling, Response> {
        let response = http::request(address, "GET", path, headers, b"").await;
        if response.status != 200 {
            return Err(response);
        }
        Ok(Polling {
            address,
            path: path.to_string(),
            get: None,
            post: None,
            waiting: false,
            packets: decode(&response.text()),
            closed: false,
        })
    }

    /// Fixes the session's id, once the `open` packet is known.
    pub fn set_sid(&mut self, sid: &str) {
        self.path = format!("{}&sid={sid}", self.path);
    }

    /// Sends a GET and leaves it held.
    pub async fn send_get(&mut self) {
        let connection = reuse(&mut self.get, self.address).await;
        connection.send("GET", &self.path, &[], b"").await;
        self.waiting = true;
    }

    /// Waits for the held GET's answer. Its packets are the caller's: they do not come by [`Polling::next_packet`].
    pub async fn finish_get(&mut self) -> Response {
        assert!(self.waiting, "no GET is out");
        let connection = self
            .get
            .as_mut()
            .expect("a GET that is out has a connection");
        let response = connection.response("GET").await;
        self.waiting = false;
        forget_if_closing(&mut self.get, &response);
        response
    }

    /// One GET, sent and answered.
    pub async fn get(&mut self) -> Response {
        self.send_get().await;
        self.finish_get().await
    }

    /// One POST of this body, and its answer.
    pub async fn post(&mut self, body: &[u8]) -> Response {
        let connection = reuse(&mut self.post, self.address).await;
        let headers = [("Content-Type", "text/plain;charset=UTF-8")];
        connection.send("POST", &self.path, &headers, body).await;
        let response = connection.response("POST").await;
        forget_if_closing(&mut self.post, &response);
        response
    }

    /// Sends one packet; false when the session is gone.
    pub async fn send_packet(&mut self, packet: &Packet) -> bool {
        let body = encode(std::slice::from_ref(packet));
        match reuse_or_fail(&mut self.post, self.address).await {
            Some(connection) => {
                let headers = [("Content-Type", "text/plain;charset=UTF-8")];
                let path = &self.path;
                let sent = connection
                    .try_send("POST", path, &headers, body.as_bytes())
                    .await;
                if sent.is_err() {
                    return false;
                }
                let answer = within("the answer to a POST", connection.next_response("POST")).await;
                if let Ok(response) = &answer {
                    forget_if_closing(&mut self.post, response);
                }
                answer.is_ok_and(|response| response.status == 200)
            }
            None => false,
        }
    }

    /// The next packet, by as many GETs as it takes; `None` when the session is gone. Cancel-safe.
    pub async fn next_packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                self.closed |= packet == Packet::Text("1".into());
                return Some(packet);
            }
            if self.closed {
                return None;
            }
            if !self.waiting {
                let connection = reuse_or_fail(&mut self.get, self.address).await?;
                connection
                    .try_send("GET", &self.path, &[], b"")
                    .await
                    .ok()?;
                self.waiting = true;
            }
            let connection = self.get.as_mut()?;
            let response = connection.next_response("GET").await.ok();
            self.waiting = false;
            let response = response.filter(|response| response.status == 200)?;
            forget_if_closing(&mut self.get, &response);
            self.packets.extend(decode(&response.text()));
        }
    }

    /// Waits for a GET that is still out, as a client does before it sends `5`.
    pub async fn settle(&mut self) {
        if self.waiting {
            let response = self.finish_get().await.expect_status(200);
            self.packets.extend(decode(&response.text()));
        }
    }

    /// Packets that were received and not yet taken.
    pub fn take_packets(&mut self) -> VecDeque<Packet> {
        std::mem::take(&mut self.packets)
    }
}

/// A payload's packets.
pub fn decode(payload: &str) -> VecDeque<Packet> {
    let packet = |text: &str| match text.strip_prefix('b') {
        Some(base64) => Packet::Binary(BASE64_STANDARD.decode(base64).expect("base64")),
        None => Packet::Text(text.to_string()),
    };
    payload.split(SEPARATOR).map(packet).collect()
}

/// Packets as one payload.
pub fn encode(packets: &[Packet]) -> String {
    let text = |packet: &Packet| match packet {
        Packet::Text(text) => text.clone(),
        Packet::Binary(bytes) => format!("b{}", BASE64_STANDARD.encode(bytes)),
    };
    let texts: Vec<_> = packets.iter().map(text).collect();
    texts.join(&SEPARATOR.to_string())
}

async fn reuse(slot: &mut Option<Connection>, address: SocketAddr) -> &mut Connection {
    if slot.is_none() {
        *slot = Some(Connection::open(address).await);
    }
    slot.as_mut().expect("filled just above")
}

async fn reuse_or_fail(
    slot: &mut Option<Connection>,
    address: SocketAddr,
) -> Option<&mut Connection> {
    if slot.is_none() {
        *slot = Some(Connection::try_open(address).await.ok()?);
    }
    slot.as_mut()
}

fn forget_if_closing(slot: &mut Option<Connection>, response: &Response) {
    if response
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    {
        *slot = None;
    }
}
