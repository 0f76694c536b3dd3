//! Golden transcripts of clients that cannot be installed here, byte for byte as their sources write them: what they
//! send, and what must stand in the answer for them to read it.
//!
//! `{sid}` stands for the session's id, `{id}` for the id of the socket in `/`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use support::echo::Echo;
use support::http::{Connection, Response};
use support::websocket::{BINARY, Frame, WebSocket};

const OKHTTP: &str =
    "Accept: */*\nConnection: Keep-Alive\nAccept-Encoding: gzip\nUser-Agent: okhttp/3.12.12\n";
const SWIFT: &str = "Accept: */*\nUser-Agent: Chat/1 CFNetwork/1490.0.4 Darwin/23.2.0\n\
                     Accept-Language: en-GB,en;q=0.9\nAccept-Encoding: gzip, deflate\nConnection: keep-alive\n";
const DART: &str = "user-agent: Dart/3.5 (dart:io)\naccept-encoding: gzip\n";

/// One client: a connection for GETs, one for POSTs, a websocket when it has one.
struct Transcript {
    _echo: Echo,
    gets: Connection,
    posts: Connection,
    websocket: Option<WebSocket>,
    headers: &'static str,
    sid: String,
    id: String,
}

impl Transcript {
    async fn start(headers: &'static str) -> Transcript {
        let echo = Echo::start(&[]);
        Transcript {
            gets: Connection::open(echo.address).await,
            posts: Connection::open(echo.address).await,
            websocket: None,
            headers,
            sid: String::new(),
            id: String::new(),
            _echo: echo,
        }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{sid}", &self.sid).replace("{id}", &self.id)
    }

    /// Sends a GET and leaves it to be answered.
    async fn send_get(&mut self, target: &str) {
        let request = format!("GET {target} HTTP/1.1\nHost: 127.0.0.1\n{}\n", self.headers);
        let request = self.fill(&request).replace('\n', "\r\n");
        self.gets.send_bytes(request.as_bytes()).await;
    }

    async fn answered(&mut self) -> Response {
        self.gets.response("GET").await.expect_status(200)
    }

    /// A GET whose answer is this text.
    async fn get(&mut self, target: &str, expected: &str) {
        self.get_bytes(
            target,
            "text/plain; charset=UTF-8",
            self.fill(expected).as_bytes(),
        )
        .await;
    }

    async fn get_bytes(&mut self, target: &str, content_type: &str, expected: &[u8]) {
        self.send_get(target).await;
        let answer = self.answered().await;
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(
            (&*answer.body, answer.text()),
            (expected, String::from_utf8_lossy(expected).into_owned())
        );
    }

    async fn post(&mut self, target: &str, content_type: &str, body: &[u8]) {
        let (headers, length) = (self.headers, body.len());
        let head = format!(
            "POST {target} HTTP/1.1\nHost: 127.0.0.1\nContent-type: {content_type}\n{headers}Content-Length: {length}\n\n"
        );
        let mut request = self.fill(&head).replace('\n', "\r\n").into_bytes();
        request.extend_from_slice(body);
        self.posts.send_bytes(&request).await;
        let answer = self.posts.response("POST").await.expect_status(200);
        assert_eq!(answer.text(), "ok");
    }

    /// Takes the session's id from the text of an `open` packet, which must otherwise be this one.
    fn opened(&mut self, open: &str, upgrades: &str) {
        let (_, rest) = open.split_once(r#"0{"sid":""#).unwrap();
        self.sid = rest.split_once('"').unwrap().0.to_string();
        let expected = format!(
            r#"0{{"sid":"{}","upgrades":{upgrades},"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#,
            self.sid
        );
        assert_eq!(open, expected);
    }

    /// Opens a websocket with these headers beside the necessary ones.
    async fn upgrade(&mut self, target: &str, headers: &[(&str, &str)]) {
        let opened = WebSocket::open(self._echo.address, &self.fill(target), headers).await;
        self.websocket = Some(opened.unwrap());
    }

    fn socket(&mut self) -> &mut WebSocket {
        self.websocket.as_mut().unwrap()
    }

    async fn say(&mut self, text: &str) {
        self.socket().send_text(text).await.unwrap();
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        self.socket()
            .send(&Frame::new(BINARY, bytes))
            .await
            .unwrap();
    }

    async fn hear(&mut self, expected: &str) {
        let expected = self.fill(expected);
        assert_eq!(self.socket().text().await, expected);
    }

    async fn hear_bytes(&mut self, expected: &[u8]) {
        let frame = self.socket().frame().await.unwrap();
        assert_eq!((frame.opcode, &*frame.payload), (BINARY, expected));
    }

    /// Takes the socket's id from a CONNECT packet, which must otherwise be this one.
    fn connected(&mut self, packet: &str) {
        let (_, rest) = packet.split_once(r#"40{"sid":""#).unwrap();
        self.id = rest.split_once('"').unwrap().0.to_string();
        assert_eq!(packet, self.fill(r#"40{"sid":"{id}"}"#));
        assert_ne!(self.id, self.sid);
    }

    /// A GET whose answer is the CONNECT of `/` and then this.
    async fn get_connected(&mut self, target: &str, expected: &str) {
        self.send_get(target).await;
        let answer = self.answered().await.text();
        let (connect, rest) = answer.split_once('\u{1e}').unwrap();
        self.connected(connect);
        assert_eq!(rest, expected);
    }
}

// === Engine.IO 4, Socket.IO 5 ===

#[tokio::test]
async fn java_2_polls_and_upgrades() {
    const TEXT: &str = "text/plain;charset=UTF-8";
    let path = "/socket.io/?EIO=4&transport=polling&t=PZ3iXa1";
    let next = "/socket.io/?EIO=4&sid={sid}&transport=polling&t=PZ3iXa1.0";
    let mut java = Transcript::start(OKHTTP).await;
    java.send_get(path).await;
    let open = java.answered().await;
    assert_eq!(
        open.header("content-type"),
        Some("text/plain; charset=UTF-8")
    );
    java.opened(&open.text(), r#"["websocket"]"#);

    java.post(next, TEXT, br#"40{"token":"x\/y"}"#).await;
    java.get_connected(next, r#"42["auth",{"token":"x\/y"}]"#)
        .await;
    // Its JSON library gives the keys of a placeholder in the order of a hash table, and escapes slashes.
    let sent = "451-0[\"message-with-ack\",{\"num\":0,\"_placeholder\":true},\"é <\\/b> 👍\"]\u{1e}bAAEeYv7\u{2f}";
    java.post(next, TEXT, sent.as_bytes()).await;
    let back = "461-0[{\"num\":0,\"_placeholder\":true},\"é <\\/b> 👍\"]\u{1e}bAAEeYv7\u{2f}";
    java.get(next, back).await;
    // It may also write several events at once, and a namespace with its query.
    java.post(
        next,
        TEXT,
        "42[\"message\",1]\u{1e}40/custom,\u{1e}42[\"message\",2]".as_bytes(),
    )
    .await;
    java.send_get(next).await;
    let answer = java.answered().await.text();
    let packets: Vec<_> = answer.split('\u{1e}').collect();
    assert_eq!(packets[0], r#"42["message-back",1]"#);
    assert!(packets[1].starts_with(r#"40/custom,{"sid":""#), "{answer}");
    assert_eq!(
        packets[2..],
        [r#"42/custom,["auth",{}]"#, r#"42["message-back",2]"#]
    );

    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    java.send_get(next).await;
    java.upgrade(
        "/socket.io/?EIO=4&sid={sid}&transport=websocket&t=PZ3iXa2",
        &offer,
    )
    .await;
    java.say("2probe").await;
    java.hear("3probe").await;
    assert_eq!(java.answered().await.text(), "6");
    java.say("5").await;
    java.say("451-1[\"message-with-ack\",{\"num\":0,\"_placeholder\":true}]")
        .await;
    java.say_bytes(&[0, 1, 0x1e]).await;
    java.hear("461-1[{\"num\":0,\"_placeholder\":true}]").await;
    java.hear_bytes(&[0, 1, 0x1e]).await;
    java.say("42[\"ask\"]").await;
    java.say("422[\"ask\"]").await;
    java.hear(r#"421["question",1]"#).await;
    java.say(r#"431["yes"]"#).await;
    java.hear(r#"432["yes"]"#).await;
    java.say("41/custom,").await;
    java.say("41").await;
    java.say("1").await;
    java.socket().closed().await;
}

#[tokio::test]
async fn swift_16_polls_with_b64_and_upgrades() {
    const TEXT: &str = "text/plain; charset=UTF-8";
    let path = "/socket.io/?transport=polling&b64=1&EIO=4";
    let next = "/socket.io/?transport=polling&b64=1&EIO=4&sid={sid}";
    let mut swift = Transcript::start(SWIFT).await;
    swift.send_get(path).await;
    let open = swift.answered().await.text();
    swift.opened(&open, r#"["websocket"]"#);

    // It names the root namespace, comma and all.
    swift.post(next, TEXT, br#"40/,{"token":"x"}"#).await;
    swift
        .get_connected(next, r#"42["auth",{"token":"x"}]"#)
        .await;
    swift.post(next, TEXT, "42[\"message\",\"é 👍\"]\u{1e}451-0[\"message-with-ack\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAAEC".as_bytes())
        .await;
    swift
        .get(next, "42[\"message-back\",\"é 👍\"]\u{1e}461-0[{\"_placeholder\":true,\"num\":0}]\u{1e}bAAEC")
        .await;

    let headers = [
        ("Origin", "http://127.0.0.1"),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits; server_max_window_bits=15",
        ),
    ];
    swift.send_get(next).await;
    swift
        .upgrade("/socket.io/?transport=websocket&EIO=4&sid={sid}", &headers)
        .await;
    swift.say("2probe").await;
    swift.hear("3probe").await;
    assert_eq!(swift.answered().await.text(), "6");
    swift.say("5").await;
    swift
        .say("451-[\"message\",{\"_placeholder\":true,\"num\":0}]")
        .await;
    swift.say_bytes(&[0, 1, 2]).await;
    swift
        .hear("451-[\"message-back\",{\"_placeholder\":true,\"num\":0}]")
        .await;
    swift.hear_bytes(&[0, 1, 2]).await;
    swift.say("40/custom,").await;
    assert!(
        swift
            .socket()
            .text()
            .await
            .starts_with(r#"40/custom,{"sid":""#)
    );
    swift.hear(r#"42/custom,["auth",{}]"#).await;
    swift.say("40/deny,").await;
    swift
        .hear(r#"44/deny,{"message":"Not authorized","data":{"code":42}}"#)
        .await;
    swift.say("41/custom,").await;
    swift.say("1").await;
    swift.socket().closed().await;
}

#[tokio::test]
async fn dart_opens_a_websocket_or_polls_with_b64() {
    let mut dart = Transcript::start(DART).await;
    let headers = [
        ("Cache-Control", "no-cache"),
        ("User-Agent", "Dart/3.5 (dart:io)"),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        ),
    ];
    dart.upgrade("/socket.io/?EIO=4&transport=websocket", &headers)
        .await;
    let open = dart.socket().text().await;
    dart.opened(&open, "[]");
    dart.say(r#"40{"token":"x"}"#).await;
    let connect = dart.socket().text().await;
    dart.connected(&connect);
    dart.hear(r#"42["auth",{"token":"x"}]"#).await;
    dart.say(r#"42["message","é 👍",{"a":null}]"#).await;
    dart.hear(r#"42["message-back","é 👍",{"a":null}]"#).await;
    dart.say(r#"451-0["message-with-ack",{"_placeholder":true,"num":0}]"#)
        .await;
    dart.say_bytes(&[0, 255]).await;
    dart.hear(r#"461-0[{"_placeholder":true,"num":0}]"#).await;
    dart.hear_bytes(&[0, 255]).await;
    dart.say("41").await;
    dart.say("1").await;
    dart.socket().closed().await;

    let path = "/socket.io/?EIO=4&transport=polling&t=orq5c0&b64=1";
    let next = "/socket.io/?EIO=4&transport=polling&t=orq5c1&sid={sid}&b64=1";
    dart.send_get(path).await;
    let open = dart.answered().await.text();
    dart.opened(&open, r#"["websocket"]"#);
    // A pid that nobody gave it, from a server before: a fresh session is the answer.
    dart.post(
        next,
        "text/plain;charset=UTF-8",
        br#"40{"pid":"gone","offset":"1"}"#,
    )
    .await;
    dart.get_connected(next, r#"42["auth",{"pid":"gone","offset":"1"}]"#)
        .await;
}

// === Engine.IO 3, Socket.IO 4 ===

mod revision_3 {
    use super::*;

    /// A text packet in a text payload: its length in UTF-16 code units.
    fn text(packet: &str) -> String {
        format!("{}:{packet}", packet.encode_utf16().count())
    }

    /// A packet in a binary payload: 0 for text or 1, the length in bytes as digits, 255.
    fn framed(kind: u8, packet: &[u8]) -> Vec<u8> {
        let digits = packet.len().to_string();
        let mut bytes = vec![kind];
        bytes.extend(digits.bytes().map(|digit| digit - b'0'));
        bytes.push(255);
        bytes.extend_from_slice(packet);
        bytes
    }

    impl Transcript {
        /// The handshake; revision 4 of Socket.IO is connected to `/` without asking.
        async fn start_3(&mut self, path: &str, next: &str) {
            self.send_get(path).await;
            let mut answer = self.answered().await.text();
            // Both packets may come in one payload or in two.
            if !answer.contains("2:40") {
                self.send_get(&next.replace("{sid}", sid_of(&answer))).await;
                answer += &self.answered().await.text();
            }
            let (length, rest) = answer.split_once(':').unwrap();
            let (open, rest) = rest.split_at(length.parse().unwrap());
            self.opened(open, r#"["websocket"]"#);
            let auth = text(r#"42["auth",{}]"#);
            match rest.strip_prefix("2:40").unwrap() {
                "" => self.get(next, &auth).await,
                rest => assert_eq!(rest, auth),
            }
        }
    }

    fn sid_of(open: &str) -> &str {
        let (_, rest) = open.split_once(r#""sid":""#).unwrap();
        rest.split_once('"').unwrap().0
    }

    #[tokio::test]
    async fn java_1_posts_binary_payloads_and_upgrades() {
        const TEXT: &str = "text/plain;charset=UTF-8";
        const OCTETS: &str = "application/octet-stream";
        let path = "/socket.io/?EIO=3&transport=polling&t=PZ3iXa1";
        let next = "/socket.io/?EIO=3&sid={sid}&transport=polling&t=PZ3iXa1.0";
        let mut java = Transcript::start(OKHTTP).await;
        java.start_3(path, next).await;

        // The emoji counts as two, whatever bytes it is.
        java.post(next, TEXT, r#"22:42["message","€ é 👍"]"#.as_bytes())
            .await;
        java.get(next, r#"27:42["message-back","€ é 👍"]"#).await;

        let header = r#"451-0["message-with-ack",{"num":0,"_placeholder":true},"€ 👍"]"#;
        let attachment = [4, 0, 1, 0x1e, 0xfe, 0xff];
        let body = [framed(0, header.as_bytes()), framed(1, &attachment)].concat();
        java.post(next, OCTETS, &body).await;
        let back = r#"461-0[{"num":0,"_placeholder":true},"€ 👍"]"#;
        let body = [framed(0, back.as_bytes()), framed(1, &attachment)].concat();
        java.get_bytes(next, OCTETS, &body).await;

        java.post(next, TEXT, b"1:2").await;
        java.get(next, "1:3").await;
        java.post(next, TEXT, text("40/custom?token=x%2Fy").as_bytes())
            .await;
        let connected = text("40/custom,") + &text(r#"42/custom,["auth",{"token":"x/y"}]"#);
        java.get(next, &connected).await;
        java.post(next, TEXT, text("40/deny").as_bytes()).await;
        java.get(next, &text(r#"44/deny,{"code":42}"#)).await;

        java.send_get(next).await;
        java.upgrade(
            "/socket.io/?EIO=3&sid={sid}&transport=websocket&t=PZ3iXa2",
            &[],
        )
        .await;
        java.say("2probe").await;
        java.hear("3probe").await;
        assert_eq!(java.answered().await.text(), "1:6");
        java.say("5").await;
        java.say(header).await;
        java.say_bytes(&attachment).await;
        java.hear(back).await;
        java.hear_bytes(&attachment).await;
        java.say("2").await;
        java.hear("3").await;
        java.say("41").await;
        java.say("1").await;
        java.socket().closed().await;
    }

    #[tokio::test]
    async fn swift_16_speaks_revision_3_with_b64_in_every_polling_url() {
        const TEXT: &str = "text/plain; charset=UTF-8";
        let path = "/socket.io/?transport=polling&b64=1&EIO=3";
        let next = "/socket.io/?transport=polling&b64=1&EIO=3&sid={sid}";
        let mut swift = Transcript::start(SWIFT).await;
        swift.start_3(path, next).await;

        let header = r#"451-0["message-with-ack",{"_placeholder":true,"num":0},"é 👍"]"#;
        let body = text(header) + &text("b4AAEC");
        swift.post(next, TEXT, body.as_bytes()).await;
        let back = text(r#"461-0[{"_placeholder":true,"num":0},"é 👍"]"#) + &text("b4AAEC");
        swift.get(next, &back).await;

        swift.send_get(next).await;
        // The websocket's URL has no b64: bytes are sent as they are there.
        swift
            .upgrade("/socket.io/?transport=websocket&EIO=3&sid={sid}", &[])
            .await;
        swift.say("2probe").await;
        swift.hear("3probe").await;
        assert_eq!(swift.answered().await.text(), "1:6");
        swift.say("5").await;
        swift.say(header).await;
        swift.say_bytes(&[4, 0, 1, 2]).await;
        swift
            .hear(r#"461-0[{"_placeholder":true,"num":0},"é 👍"]"#)
            .await;
        swift.hear_bytes(&[4, 0, 1, 2]).await;
        swift.say("1").await;
        swift.socket().closed().await;
    }
}
