//! HTTP/1.1 by hand over a plain connection, so that a test can send what no library would, and see each byte of the
//! answer's head.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// One request on a connection of its own, and its answer.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut connection = Connection::open(address).await;
    connection.send(method, path, headers, body).await;
    connection.response(method).await
}

/// A `GET` without headers of its own.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], b"").await
}

/// Sends these bytes as they are and reads one answer; `None` when the server closes without one.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Response> {
    let mut connection = Connection::open(address).await;
    connection.send_bytes(bytes).await;
    within(
        "an answer to raw bytes, or the end",
        connection.next_response("GET"),
    )
    .await
    .ok()
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {}", self.status, self.text()))
    }

    /// The same answer, when its status is `status`.
    pub fn expect_status(self, status: u16) -> Response {
        assert_eq!(self.status, status, "status of an answer: {}", self.text());
        self
    }
}

// === Connection ===

/// A kept-alive connection. Reads are cancel-safe: what has arrived stays in the buffer.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    host: String,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Connection {
        Self::try_open(address)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub async fn try_open(address: SocketAddr) -> io::Result<Connection> {
        let stream = within("a TCP connection", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            input: Vec::new(),
            host: address.to_string(),
        })
    }

    /// Sends a well-formed request: `Host` and `Content-Length` are added unless given.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.try_send(method, path, headers, body)
            .await
            .unwrap_or_else(|error| panic!("cannot send {method} {path}: {error}"));
    }

    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        let mut push = |name: &str, value: &str| {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        };
        if !given("host") {
            push("Host", &self.host);
        }
        let has_body = !body.is_empty() || matches!(method, "POST" | "PUT");
        if has_body && !given("content-length") && !given("transfer-encoding") {
            push("Content-Length", &body.len().to_string());
        }
        for (name, value) in headers {
            push(name, value);
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.try_send_bytes(&bytes).await
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).await.expect("sending raw bytes");
    }

    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("room to send", self.stream.write_all(bytes)).await
    }

    /// The next answer; `method` says whether it may have a body.
    pub async fn response(&mut self, method: &str) -> Response {
        within("an HTTP answer", self.next_response(method))
            .await
            .unwrap_or_else(|error| panic!("no answer to {method}: {error}"))
    }

    /// As [`Connection::response`], without a deadline and without a panic when the connection ends. Cancel-safe.
    pub async fn next_response(&mut self, method: &str) -> io::Result<Response> {
        let mut ended = false;
        loop {
            if let Some((response, used)) = parse(&self.input, method, ended)? {
                self.input.drain(..used);
                return Ok(response);
            }
            if ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            ended = self.stream.read_buf(&mut self.input).await? == 0;
        }
    }

    /// Waits until the server closes its side; what it sends until then is returned.
    pub async fn closed(&mut self) -> Vec<u8> {
        let rest = async { while self.stream.read_buf(&mut self.input).await.unwrap_or(0) > 0 {} };
        within("the server to close the connection", rest).await;
        std::mem::take(&mut self.input)
    }

    /// The stream and what was read beyond the last answer, for a protocol switched to.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }
}

/// One answer at the head of `input` and its length, when it is complete.
fn parse(input: &[u8], method: &str, ended: bool) -> io::Result<Option<(Response, usize)>> {
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        return Ok(None);
    };
    let mut response = parse_head(&input[..end])?;
    let start = end + 4;
    if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
        return Ok(Some((response, start)));
    }
    let body = &input[start..];
    if response.header("transfer-encoding").is_some() {
        let Some((decoded, used)) = parse_chunks(body)? else {
            return Ok(None);
        };
        response.body = decoded;
        return Ok(Some((response, start + used)));
    }
    let length = match response.header("content-length") {
        Some(length) => length.parse().map_err(|_| malformed("content-length"))?,
        None if ended => body.len(),
        None => return Ok(None),
    };
    if body.len() < length {
        return Ok(None);
    }
    response.body = body[..length].to_vec();
    Ok(Some((response, start + length)))
}

fn parse_head(head: &[u8]) -> io::Result<Response> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("head"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| {
        let rest = line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))?;
        rest.get(..3)?.parse().ok()
    });
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_string()))
    };
    let headers: Option<_> = lines.map(header).collect();
    Ok(Response {
        status: status.ok_or_else(|| malformed("status line"))?,
        headers: headers.ok_or_else(|| malformed("header"))?,
        body: Vec::new(),
    })
}

/// A whole chunked body and its length on the wire, when it is complete.
fn parse_chunks(input: &[u8]) -> io::Result<Option<(Vec<u8>, usize)>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = memchr::memmem::find(&input[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&input[at..at + line]).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
        let start = at + line + 2;
        if input.len() < start + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&input[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

// === Multipart ===

/// A `multipart/form-data` body.
#[derive(Debug, Default)]
pub struct Multipart {
    body: Vec<u8>,
}

impl Multipart {
    pub const CONTENT_TYPE: &str = "multipart/form-data; boundary=chat-svc-test-boundary";
    const BOUNDARY: &str = "chat-svc-test-boundary";

    pub fn new() -> Multipart {
        Multipart::default()
    }

    pub fn field(self, name: &str, value: &str) -> Multipart {
        self.part(
            &format!("Content-Disposition: form-data; name=\"{name}\"\r\n"),
            value.as_bytes(),
        )
    }

    pub fn file(self, name: &str, file_name: &str, media_type: &str, bytes: &[u8]) -> Multipart {
        let head = format!(
            "Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\
             Content-Type: {media_type}\r\n"
        );
        self.part(&head, bytes)
    }

    /// A part with these header lines, each ended by CRLF.
    pub fn part(mut self, head: &str, content: &[u8]) -> Multipart {
        let start = format!("--{}\r\n{head}\r\n", Self::BOUNDARY);
        self.body.extend_from_slice(start.as_bytes());
        self.body.extend_from_slice(content);
        self.body.extend_from_slice(b"\r\n");
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.body
            .extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        self.body
    }

    /// Posts it.
    pub async fn post(self, address: SocketAddr, path: &str) -> Response {
        let headers = [("Content-Type", Self::CONTENT_TYPE)];
        request(address, "POST", path, &headers, &self.finish()).await
    }
}
