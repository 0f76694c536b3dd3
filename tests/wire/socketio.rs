//! Socket.IO's grammar: what each packet brings about, on `/` and beside it.

use serde_json::{Value, json};

use crate::draft;
use crate::support::client::Client;
use crate::support::packet::Packet;
use crate::support::server::Server;

const PLACEHOLDER: &str = "{\"_placeholder\":true,\"num\":0}";

#[tokio::test]
async fn packets_that_break_the_grammar_end_the_connection() {
    let server = Server::start(&[]).await;
    let packets = [
        "40", // a second time
        "40{}",
        "42{}",
        "42[]",
        "42[null]",
        "42[true]",
        "42[[\"a\"]]",
        "42[{}]",
        "42",
        "42\"a\"",
        "42[\"a\"",
        "42[\"a\",]",
        "42[\"a\"]]",
        "42[\"a\"] x",
        "42[\"a\",01]",
        "42abc[\"a\"]",
        "42-1[\"a\"]",
        "47",
        "4",
        "4x",
        "431{}",
        "431\"x\"",
        "431[",
        "44{\"message\":\"x\"}",
        "44",
        "41[]",
        "41{\"a\":1}",
        "41/other,",
        "42/other,[\"a\"]",
        "42/other,1[\"joinRoom\",\"a\"]",
        "43/other,1[]",
        "45[\"a\"]",
        "45-[\"a\"]",
        "451[\"a\"]",
        "4511-[\"a\"]",
        "45-1-[\"a\"]",
        "451-",
        "46-1[]",
        "461-1{}",
        "0{}",
        "2",
        "5",
        "7",
        "x",
        "",
    ];
    for packet in packets {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(packet).await;
        assert_eq!(client.packet().await, None, "{packet}");
    }
}

#[tokio::test]
async fn packets_that_are_odd_but_right_are_survived() {
    let server = Server::start(&[]).await;
    let packets = [
        "42[1,2]", // a number may be a name
        "42[-1.5e300]",
        "42[\"error\",\"x\"]",
        "42[\"toString\"]",
        "42[\"__proto__\",{\"__proto__\":{\"a\":1}}]",
        "42 [ \"nothing\" , { \"a\" : 1 , \"a\" : 2 } ] ",
        "42[\"nothing\",1e400,123456789012345678901234567890,\"\\ud800\"]",
        "42[\"\",null]",
        "42/,[\"nothing\"]",
        "43[]",
        "430[]",
        "4399999999999999999[1,2]",
        "43/,7[]",
        "431",
        "450-[\"nothing\"]",
        "450-[\"nothing\"]",
        "460-5[]",
        "3",
        "6",
    ];
    for packet in packets {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(packet).await;
        let joined = client.emit_with_ack("joinRoom", json!("ann")).await;
        assert_eq!(joined["status"], "ok", "{packet}");
    }
}

#[tokio::test]
async fn connect_comes_first_and_takes_an_object_or_nothing() {
    let server = Server::start(&[]).await;
    for packet in [
        "40null",
        "40[]",
        "40\"x\"",
        "40true",
        "40{",
        "40{\"a\":1}}",
        "41",
        "42[\"joinRoom\",\"a\"]",
        "421[\"joinRoom\",\"a\"]",
        "431[]",
        "44{\"message\":\"x\"}",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]",
        "42/other,[\"a\"]",
    ] {
        let mut client = Client::open_websocket(server.address, "", &[])
            .await
            .unwrap();
        client.send_packet(packet).await;
        assert_eq!(client.packet().await, None, "{packet}");
    }
    for packet in [
        "40",
        "40/,",
        "40/",
        "40{}",
        "40{\"token\":\"😀\",\"n\":{\"a\":[1]}}",
        "405",
        "40/?a=b,",
    ] {
        let mut client = Client::open_websocket(server.address, "", &[])
            .await
            .unwrap();
        client.send_packet(packet).await;
        let Some(Packet::Text(answer)) = client.packet().await else {
            panic!("no answer to {packet}")
        };
        let payload: Value = serde_json::from_str(answer.strip_prefix("40").unwrap()).unwrap();
        assert_eq!(payload.as_object().unwrap().len(), 1, "{answer}");
        assert_eq!(payload["sid"].as_str().unwrap().len(), 20);
        client.join("ann").await;
    }
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_and_nothing_else_happens() {
    let server = Server::start(&[]).await;
    let mut client = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let answer = |namespace: &str| {
        let text = format!("44{namespace},{{\"message\":\"Invalid namespace\"}}");
        Some(Packet::Text(text))
    };
    for (packet, namespace) in [
        ("40/custom", "/custom"),
        ("40/custom,", "/custom"),
        ("40/custom,{\"token\":1}", "/custom"),
        ("40/custom?a=b,", "/custom"),
        ("40/é\",", "/é\""),
        ("40//,", "//"),
    ] {
        client.send_packet(packet).await;
        assert_eq!(client.packet().await, answer(namespace), "{packet}");
    }
    client.connect("/").await;
    for n in 0..3_000 {
        client.send_packet(&format!("40/n{n},")).await;
        assert_eq!(client.packet().await, answer(&format!("/n{n}")));
    }
    client.join("ann").await;
}

#[tokio::test]
async fn who_leaves_the_namespace_hears_nothing_and_may_come_back_as_another() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    // In the same room: what it has heard, the room has heard.
    let mut witness = Client::websocket(server.address).await;
    witness.join("bob").await;
    let mut bob = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let first = bob.connect("/").await;
    bob.join("bob").await;
    bob.send_packet("41").await;
    // Events that were on their way, and another goodbye, are dropped.
    let message = format!("429[\"chatMessage\",{}]", draft("bob", "ann", "too late"));
    for packet in [
        message.as_str(),
        "41",
        "431[]",
        "451-8[\"joinRoom\",{\"_placeholder\":true,\"num\":0}]",
    ] {
        bob.send_packet(packet).await;
    }
    bob.send_binary(b"attachment").await;
    assert_eq!(bob.events_until_now().await, []);
    let sent = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "unheard"))
        .await;
    assert_eq!(witness.event_named("newMessage").await, sent["message"]);
    let second = bob.connect("/").await;
    assert_ne!(first["sid"], second["sid"]);
    let sent = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "not joined"))
        .await;
    assert_eq!(witness.event_named("newMessage").await, sent["message"]);
    bob.join("bob").await;
    let sent = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "heard"))
        .await;
    assert_eq!(bob.event_named("newMessage").await, sent["message"]);
    assert_eq!(bob.events_until_now().await, []);
}

#[tokio::test]
async fn acknowledgements_carry_the_id_as_it_came_and_come_only_when_asked_for() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    for id in ["0", "7", "007", "9007199254740993", "9999999999999999999"] {
        client
            .send_packet(&format!("42{id}[\"joinRoom\",\"ann\"]"))
            .await;
        let answer = format!("43{id}[{{\"status\":\"ok\"}}]");
        assert_eq!(client.packet().await, Some(Packet::Text(answer)));
    }
    client.send_packet("42[\"joinRoom\",\"ann\"]").await;
    client.send_packet("42[\"joinRoom\",[]]").await;
    client.send_packet("423[\"nothing\"]").await;
    client.send_packet("424[\"typing\",{}]").await;
    client.join("bob").await;
    client
        .send_packet(&format!("42{}[\"joinRoom\",\"ann\"]", "1".repeat(400)))
        .await;
    assert_eq!(client.packet().await, None, "an id without bound");
}

#[tokio::test]
async fn binary_events_are_taken_with_up_to_ten_attachments() {
    let server = Server::start(&[]).await;
    for (count, good) in [(1, true), (10, true), (11, false)] {
        let mut client = Client::websocket(server.address).await;
        client
            .send_packet(&format!("45{count}-3[\"joinRoom\",{PLACEHOLDER}]"))
            .await;
        if good {
            for n in 0..count {
                client.send_packet("3").await;
                client.send_binary(&[n; 1000]).await;
            }
            assert_refusal(&mut client, "433").await;
            client.join("ann").await;
        } else {
            assert_eq!(client.packet().await, None, "{count} attachments");
        }
    }
}

#[tokio::test]
async fn a_placeholder_must_name_an_attachment() {
    let server = Server::start(&[]).await;
    for bad in [
        "1",
        "-1",
        "0.5",
        "\"0\"",
        "null",
        "9999999999999999999999",
        "{}",
        "1e1",
    ] {
        let mut client = Client::websocket(server.address).await;
        let packet = format!("451-[\"a\",{{\"_placeholder\":true,\"num\":{bad}}}]");
        client.send_packet(&packet).await;
        assert_eq!(client.packet().await, None, "{bad}");
    }
    for good in [
        "452-3[\"joinRoom\",[{\"num\":1,\"_placeholder\":true},{\"_placeholder\":true,\"num\":0}]]",
        "452-3[\"joinRoom\",{\"_placeholder\":true,\"num\":1},{\"x\":{\"_placeholder\":true,\"num\":1}}]",
        "452-3[\"joinRoom\",{\"_placeholder\":false,\"num\":99}]",
    ] {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(good).await;
        client.send_binary(b"a").await;
        client.send_binary(b"b").await;
        assert_refusal(&mut client, "433").await;
    }
}

#[tokio::test]
async fn a_text_message_where_an_attachment_is_due_ends_the_connection() {
    let server = Server::start(&[]).await;
    for packet in ["42[\"nothing\"]", "41", "40/other,", "451-[\"a\"]", "43[]"] {
        let mut client = Client::websocket(server.address).await;
        client
            .send_packet(&format!("452-[\"joinRoom\",{PLACEHOLDER}]"))
            .await;
        client.send_binary(b"the first").await;
        client.send_packet(packet).await;
        assert_eq!(client.packet().await, None, "{packet}");
    }
}

#[tokio::test]
async fn attachments_count_together_against_the_limit() {
    let server = Server::start(&[("MAX_PAYLOAD", "1000")]).await;
    let header = format!("[\"joinRoom\",{PLACEHOLDER}]");
    for (size, good) in [(500, true), (501, false)] {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(&format!("452-3{header}")).await;
        client.send_binary(&vec![0; 500 - header.len()]).await;
        client.send_binary(&vec![0; size]).await;
        if good {
            assert_refusal(&mut client, "433").await;
        } else {
            let socket = client.websocket_transport();
            assert_eq!(socket.closed().await, Some(1009));
        }
    }
}

#[tokio::test]
async fn a_binary_answer_that_nobody_waits_for_is_swallowed() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    client.send_packet(&format!("461-12[{PLACEHOLDER}]")).await;
    client.send_binary(b"late").await;
    client.join("ann").await;
}

#[tokio::test]
async fn reserved_names_end_the_connection() {
    let server = Server::start(&[]).await;
    for name in [
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
        "\\u0063onnect",
    ] {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(&format!("42[\"{name}\",1]")).await;
        assert_eq!(client.packet().await, None, "{name}");
    }
}

#[tokio::test]
async fn events_of_the_servers_own_names_are_not_relayed() {
    let server = Server::start(&[]).await;
    let mut eve = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    eve.join("bob").await;
    let forged = draft("ann", "bob", "forged");
    for name in [
        "newMessage",
        "messageSent",
        "messageError",
        "message",
        "joinroom",
        "ChatMessage",
    ] {
        eve.emit(name, forged.clone()).await;
    }
    assert_eq!(eve.events_until_now().await, []);
    assert_eq!(bob.events_until_now().await, []);
}

#[tokio::test]
async fn nesting_as_deep_as_a_message_is_large_does_no_harm() {
    let server = Server::start(&[]).await;
    let mut bystander = Client::websocket(server.address).await;
    let deep = format!("{}{}", "[".repeat(450_000), "]".repeat(450_000));
    let open = "[".repeat(900_000);
    let objects = "{\"a\":".repeat(180_000);
    let mut packets = vec![
        format!("42{open}"),
        format!("40/x,{open}"),
        format!("42[\"nothing\",{objects}"),
    ];
    for name in ["nothing", "joinRoom", "chatMessage", "typing"] {
        packets.push(format!("42[\"{name}\",{deep}]"));
        packets.push(format!("42[\"{name}\",{{\"sender_id\":{deep}}}]"));
        packets.push(format!("451-[\"{name}\",{deep},{PLACEHOLDER}]"));
    }
    for packet in packets {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(&packet).await;
        // Closed or ignored, whichever; the end of it has to be seen.
        client.try_send_packet("2").await;
        client.closed().await;
        bystander.join("ann").await;
    }
}

#[tokio::test]
async fn the_event_right_behind_connect_is_handled() {
    let server = Server::start(&[]).await;
    for _ in 0..50 {
        let mut socket = Client::open_websocket(server.address, "", &[])
            .await
            .unwrap();
        socket.send_packet("40").await;
        socket.send_packet("421[\"joinRoom\",\"ann\"]").await;
        let answered = async {
            let mut packets = vec![socket.packet().await, socket.packet().await];
            packets.pop().flatten()
        };
        let answer = Some(Packet::Text("431[{\"status\":\"ok\"}]".into()));
        assert_eq!(answered.await, answer);
        let mut polling = Client::open_polling(server.address, "", &[]).await.unwrap();
        let body = b"40\x1e421[\"joinRoom\",\"ann\"]";
        polling.polling_transport().post(body).await;
        polling.packet().await;
        assert_eq!(polling.packet().await, answer);
    }
}

async fn assert_refusal(client: &mut Client, prefix: &str) {
    let Some(Packet::Text(ack)) = client.packet().await else {
        panic!("an acknowledgement, not the end")
    };
    let ack: Value = serde_json::from_str(ack.strip_prefix(prefix).expect(&ack)).unwrap();
    assert_eq!(ack[0]["code"], "invalid");
}
