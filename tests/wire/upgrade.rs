//! From polling to websocket: nothing lost, nothing reordered, and a failed attempt changes nothing.

use serde_json::Value;

use crate::support::client::Client;
use crate::support::packet::Packet;
use crate::support::polling::decode;
use crate::support::random::Random;
use crate::support::server::Server;
use crate::support::websocket::{self, Frame, WebSocket};
use crate::support::{http, within};
use crate::{FAST, assert_refused, draft, forgotten, is_known, polling_path, websocket_path};

#[tokio::test]
async fn a_held_poll_is_sent_away_empty_and_so_is_each_that_follows() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    client.polling_transport().send_get().await;
    let mut socket = probe(&server, client.sid()).await;
    let polling = client.polling_transport();
    assert_eq!(polling.finish_get().await.text(), "6");
    for _ in 0..3 {
        let answer = polling.get().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "6"));
    }
    socket.send_text("5").await.unwrap();
    socket.send_text("421[\"joinRoom\",\"ann\"]").await.unwrap();
    assert_eq!(socket.text().await, "431[{\"status\":\"ok\"}]");
}

#[tokio::test]
async fn a_probing_socket_carries_the_answer_to_the_probe_and_nothing_else() {
    let server = Server::start(&FAST).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    let mut socket = probe(&server, bob.sid()).await;
    let sent = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "meanwhile"))
        .await;
    // The message and a ping come by polling, which is still the session's transport.
    let (mut pinged, mut got) = (false, false);
    while !(pinged && got) {
        let answer = bob.polling_transport().get().await.expect_status(200);
        for packet in decode(&answer.text()) {
            match packet {
                Packet::Text(text) if text == "2" => {
                    pinged = true;
                    bob.polling_transport().post(b"3").await;
                }
                Packet::Text(text) => got |= text.starts_with("42[\"newMessage\""),
                Packet::Binary(_) => panic!("nothing binary was sent"),
            }
        }
    }
    assert_eq!(sent["status"], "ok");
    // All that was sent on the socket is read once the pong is, which is no packet.
    socket
        .send(&Frame::new(websocket::PING, b"?".to_vec()))
        .await
        .unwrap();
    let frame = socket.frame().await.expect("a pong");
    assert_eq!(
        (frame.opcode, frame.payload),
        (websocket::PONG, b"?".to_vec())
    );
}

#[tokio::test]
async fn messages_across_the_upgrade_are_neither_lost_nor_reordered() {
    let server = Server::start(&[]).await;
    let seed = Random::seed_from_env("UPGRADE_SEED");
    for round in 0..25 {
        println!("round {round}");
        let mut random = Random::new(seed.wrapping_add(round));
        cross(&server, &mut random, &format!("talk-{round}")).await;
    }
}

/// Ann writes to Bob and Bob to Ann while Bob changes transports, at moments that the seed chooses.
async fn cross(server: &Server, random: &mut Random, talk: &str) {
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    let (ann_id, bob_id) = (format!("ann-{talk}"), format!("bob-{talk}"));
    ann.join(&ann_id).await;
    bob.join(&bob_id).await;
    let said = |sender: &str, receiver: &str, n: u64| {
        let mut draft = draft(sender, receiver, &n.to_string());
        draft["conversation_id"] = format!("{talk}-{sender}").into();
        draft
    };
    let pumped = async {
        for n in 0..COUNT {
            ann.emit("chatMessage", said(&ann_id, &bob_id, n)).await;
            pause(random.clone().within(0..4)).await;
        }
        let mut heard = Vec::new();
        while (heard.len() as u64) < COUNT {
            heard.push(number(&ann.event_named("newMessage").await));
        }
        heard
    };
    let mut random = random.clone();
    let moved = async {
        let before = random.within(0..COUNT);
        for n in 0..before {
            bob.emit("chatMessage", said(&bob_id, &ann_id, n)).await;
        }
        if random.within(0..2) == 0 {
            bob.polling_transport().send_get().await;
        }
        pause(random.within(0..200)).await;
        bob.upgrade().await;
        for n in before..COUNT {
            bob.emit("chatMessage", said(&bob_id, &ann_id, n)).await;
        }
        let mut heard = Vec::new();
        while (heard.len() as u64) < COUNT {
            heard.push(number(&bob.event_named("newMessage").await));
        }
        heard
    };
    let (by_ann, by_bob) = tokio::join!(pumped, moved);
    let all: Vec<_> = (0..COUNT).collect();
    assert_eq!(by_ann, all, "what Ann heard");
    assert_eq!(by_bob, all, "what Bob heard");
    for n in 0..COUNT {
        assert_eq!(number(&bob.event_named("messageSent").await), n);
    }
    assert_eq!(bob.events_until_now().await, []);
}

#[tokio::test]
async fn posts_during_the_probe_are_taken_and_answered_after_the_switch() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let mut socket = probe(&server, client.sid()).await;
    for n in 0..3 {
        let body = format!("42{n}[\"joinRoom\",\"u{n}\"]");
        client
            .polling_transport()
            .post(body.as_bytes())
            .await
            .expect_status(200);
    }
    socket.send_text("5").await.unwrap();
    for n in 0..3 {
        assert_eq!(socket.text().await, format!("43{n}[{{\"status\":\"ok\"}}]"));
    }
}

#[tokio::test]
async fn after_the_switch_the_old_transport_is_refused_and_further_sockets_are_closed() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    client.upgrade().await;
    client.join("ann").await;
    let path = polling_path(client.sid());
    for method in ["GET", "POST"] {
        let answer = http::request(server.address, method, &path, &[], b"41").await;
        assert_refused(&answer, 3, "Bad request");
    }
    let path = websocket_path(client.sid());
    let mut second = WebSocket::open(server.address, &path, &[]).await.unwrap();
    second.closed().await;
    client.join("bob").await;
}

#[tokio::test]
async fn a_poll_that_races_the_switch_does_not_take_the_websockets_messages() {
    let server = Server::start(&[]).await;
    for _ in 0..30 {
        let mut client = Client::polling(server.address).await;
        let mut socket = probe(&server, client.sid()).await;
        client.polling_transport().send_get().await;
        socket.send_text("5").await.unwrap();
        socket.send_text("421[\"joinRoom\",\"ann\"]").await.unwrap();
        assert_eq!(socket.text().await, "431[{\"status\":\"ok\"}]");
        let answer = client.polling_transport().finish_get().await;
        match answer.status {
            200 => assert_eq!(answer.text(), "6"),
            _ => assert_refused(&answer, 3, "Bad request"),
        }
        socket.send_text("422[\"joinRoom\",\"ann\"]").await.unwrap();
        assert_eq!(socket.text().await, "432[{\"status\":\"ok\"}]");
    }
}

#[tokio::test]
async fn a_switch_without_a_probe_is_taken() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    client.polling_transport().send_get().await;
    let path = websocket_path(client.sid());
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    socket.send_text("5").await.unwrap();
    socket.send_text("421[\"joinRoom\",\"ann\"]").await.unwrap();
    assert_eq!(socket.text().await, "431[{\"status\":\"ok\"}]");
    let held = client.polling_transport().finish_get().await;
    assert!(held.status == 400 || held.text() == "6", "{held:?}");
}

#[tokio::test]
async fn packets_right_behind_the_switch_are_taken() {
    let server = Server::start(&[]).await;
    let client = Client::polling(server.address).await;
    let path = websocket_path(client.sid());
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    let mut segment = Vec::new();
    for text in [
        "2probe",
        "5",
        "421[\"joinRoom\",\"a\"]",
        "422[\"joinRoom\",\"b\"]",
    ] {
        segment.extend_from_slice(&Frame::text(text).encode());
    }
    socket.send_bytes(&segment).await.unwrap();
    for expected in [
        "3probe",
        "431[{\"status\":\"ok\"}]",
        "432[{\"status\":\"ok\"}]",
    ] {
        assert_eq!(socket.text().await, expected);
    }
}

#[tokio::test]
async fn an_error_right_behind_the_switch_ends_the_session() {
    let server = Server::start(&[]).await;
    let client = Client::polling(server.address).await;
    let path = websocket_path(client.sid());
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    let segment: Vec<_> = ["2probe", "5", "8"]
        .iter()
        .flat_map(|text| Frame::text(text).encode())
        .collect();
    socket.send_bytes(&segment).await.unwrap();
    assert_eq!(socket.closed().await, Some(1000));
    forgotten(server.address, client.sid()).await;
}

#[tokio::test]
async fn a_probe_of_wrong_data_ends_and_polling_goes_on() {
    let server = Server::start(&[]).await;
    for packets in [
        &["2wrong"][..],
        &["2"],
        &["40"],
        &["2probe", "2probe"],
        &["2probe", "6"],
        &["2probe", "42[\"joinRoom\",\"ann\"]"],
        &[""],
    ] {
        let mut client = Client::polling(server.address).await;
        let path = websocket_path(client.sid());
        let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
        for packet in packets {
            socket.send_text(packet).await.unwrap();
        }
        socket.closed().await;
        assert_polls_on(&mut client).await;
    }
    let mut client = Client::polling(server.address).await;
    let mut socket = probe(&server, client.sid()).await;
    socket
        .send(&Frame::new(websocket::BINARY, b"5".to_vec()))
        .await
        .unwrap();
    socket.closed().await;
    assert_polls_on(&mut client).await;
}

#[tokio::test]
async fn a_probe_that_closes_leaves_polling_as_it_was() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let mut socket = probe(&server, client.sid()).await;
    socket
        .send(&Frame::new(websocket::CLOSE, b"".to_vec()))
        .await
        .unwrap();
    socket.closed().await;
    assert_polls_on(&mut client).await;
    // And it may try again.
    client.upgrade().await;
    client.join("ann").await;
}

#[tokio::test]
async fn a_probe_that_takes_too_long_is_closed_and_polling_goes_on() {
    let server = Server::start(&[("UPGRADE_TIMEOUT_MS", "100")]).await;
    let mut client = Client::polling(server.address).await;
    let mut socket = probe(&server, client.sid()).await;
    socket.closed().await;
    assert_polls_on(&mut client).await;
    let path = websocket_path(client.sid());
    let mut silent = WebSocket::open(server.address, &path, &[]).await.unwrap();
    silent.closed().await;
    assert_polls_on(&mut client).await;
}

#[tokio::test]
async fn a_second_socket_during_the_upgrade_is_closed_and_the_first_goes_on() {
    let server = Server::start(&[("UPGRADE_TIMEOUT_MS", "60000")]).await;
    for packet in [None, Some("2probe"), Some("5")] {
        let mut client = Client::polling(server.address).await;
        let mut first = probe(&server, client.sid()).await;
        let path = websocket_path(client.sid());
        let mut second = WebSocket::open(server.address, &path, &[]).await.unwrap();
        if let Some(packet) = packet {
            // It may be closed by now.
            let _sent = second.send_text(packet).await;
        }
        second.closed().await;
        // Polls are still sent away: the first socket's upgrade is under way.
        assert_eq!(client.polling_transport().get().await.text(), "6");
        first.send_text("5").await.unwrap();
        first.send_text("421[\"joinRoom\",\"ann\"]").await.unwrap();
        assert_eq!(first.text().await, "431[{\"status\":\"ok\"}]");
    }
}

#[tokio::test]
async fn the_heartbeat_survives_the_upgrade() {
    let server = Server::start(&FAST).await;
    let mut client = Client::polling(server.address).await;
    client.answers_pings = false;
    assert_eq!(client.packet().await, Some(Packet::Text("2".into())));
    client.send_packet("3").await;
    client.upgrade().await;
    for _ in 0..3 {
        assert_eq!(client.packet().await, Some(Packet::Text("2".into())));
        client.send_packet("3").await;
    }
    assert_eq!(client.packet().await, Some(Packet::Text("2".into())));
    assert_eq!(client.packet().await, None, "it did not answer");
}

#[tokio::test]
async fn a_session_that_times_out_during_the_probe_cannot_be_taken_over() {
    let server = Server::start(&FAST).await;
    let client = Client::polling(server.address).await;
    let mut socket = probe(&server, client.sid()).await;
    forgotten(server.address, client.sid()).await;
    socket.send_text("5").await.ok();
    socket.closed().await;
    assert!(!is_known(server.address, client.sid()).await);
}

/// Messages each way in one round.
const COUNT: u64 = 40;

async fn probe(server: &Server, sid: &str) -> WebSocket {
    let opened = WebSocket::open(server.address, &websocket_path(sid), &[]).await;
    let mut socket = opened.expect("a probing socket");
    socket.send_text("2probe").await.unwrap();
    assert_eq!(socket.text().await, "3probe");
    socket
}

/// A poll is held until there is something, which a poll during an upgrade is not.
async fn assert_polls_on(client: &mut Client) {
    let polling = client.polling_transport();
    polling.send_get().await;
    let waiting = async {
        // Longer than any grace of the server's; the answer is the last of several.
        for n in 0..200 {
            let body = format!("42[\"nothing\",{n}]");
            polling.post(body.as_bytes()).await.expect_status(200);
        }
        polling
            .post(b"421[\"joinRoom\",\"ann\"]")
            .await
            .expect_status(200);
        polling.finish_get().await.text()
    };
    let answer = within("a held poll", waiting).await;
    assert_eq!(answer, "431[{\"status\":\"ok\"}]");
}

fn number(message: &Value) -> u64 {
    message["text_content"].as_str().unwrap().parse().unwrap()
}

/// Lets others run for a while that is counted in turns, not in time.
async fn pause(turns: u64) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
