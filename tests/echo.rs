//! The socket layer alone, as the echo example mounts it: namespaces, events and acknowledgements both ways.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use serde_json::{Value, json};

use support::client::Client;
use support::echo::Echo;
use support::packet::Packet;

/// The next packet's text.
async fn text(client: &mut Client) -> String {
    match client.packet().await {
        Some(Packet::Text(text)) => text,
        other => panic!("expected a text packet: {other:?}"),
    }
}

async fn expect(client: &mut Client, packets: &[&str]) {
    for packet in packets {
        assert_eq!(text(client).await, *packet);
    }
}

/// A client in `/`, past its `auth` event, on either transport.
async fn clients(echo: &Echo) -> [Client; 2] {
    let mut clients = [
        Client::websocket(echo.address).await,
        Client::polling(echo.address).await,
    ];
    for client in &mut clients {
        assert_eq!(client.event_named("auth").await, json!({}));
    }
    clients
}

/// All is well: an event comes back, and nothing before it.
async fn goes_on(client: &mut Client) {
    client.send_packet(r#"42["message","still here"]"#).await;
    expect(client, &[r#"42["message-back","still here"]"#]).await;
}

// === the server asks ===

#[tokio::test]
async fn the_client_is_asked_and_its_answer_heard() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        client.send_packet(r#"427["ask"]"#).await;
        expect(&mut client, &[r#"421["question",1]"#]).await;
        client.send_packet(r#"431["yes",{"b":1,"a":2}]"#).await;
        expect(&mut client, &[r#"437["yes",{"b":1,"a":2}]"#]).await;
    }
}

#[tokio::test]
async fn an_answer_may_be_empty_and_may_have_attachments() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        client.send_packet(r#"421["ask"]"#).await;
        client.send_packet(r#"422["ask"]"#).await;
        expect(
            &mut client,
            &[r#"421["question",1]"#, r#"422["question",1]"#],
        )
        .await;
        client
            .send_packet(r#"461-2[{"_placeholder":true,"num":0}]"#)
            .await;
        client.send_binary(&[1, 2, 3]).await;
        expect(&mut client, &[r#"461-2[{"_placeholder":true,"num":0}]"#]).await;
        assert_eq!(client.packet().await, Some(Packet::Binary(vec![1, 2, 3])));
        client.send_packet("431[]").await;
        expect(&mut client, &["431[]"]).await;
    }
}

#[tokio::test]
async fn the_first_answer_counts_and_others_are_ignored() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        client.send_packet(r#"427["ask"]"#).await;
        expect(&mut client, &[r#"421["question",1]"#]).await;
        for ack in ["432[2]", "430[0]", "43[]", "4399999999999999999999[3]"] {
            client.send_packet(ack).await;
        }
        client.send_packet(r#"431["first"]"#).await;
        client.send_packet(r#"431["second"]"#).await;
        expect(&mut client, &[r#"437["first"]"#]).await;
        goes_on(&mut client).await;
    }
}

#[tokio::test]
async fn an_answer_from_another_namespace_is_ignored() {
    let echo = Echo::start(&[]);
    let [mut client, _] = clients(&echo).await;
    client.connect("/custom").await;
    client.event_named("auth").await;
    client.send_packet(r#"42/custom,7["ask"]"#).await;
    expect(&mut client, &[r#"42/custom,1["question",1]"#]).await;
    client.send_packet(r#"431["wrong"]"#).await;
    client.send_packet(r#"43/custom,1["right"]"#).await;
    expect(&mut client, &[r#"43/custom,7["right"]"#]).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_in_time_and_a_late_one_ignored() {
    let echo = Echo::start(&["--ack-timeout-ms", "50"]);
    for mut client in clients(&echo).await {
        client.send_packet(r#"427["ask"]"#).await;
        let error = r#"437[{"error":"the client did not acknowledge in time"}]"#;
        expect(&mut client, &[r#"421["question",1]"#, error]).await;
        client.send_packet(r#"431["late"]"#).await;
        goes_on(&mut client).await;
    }
}

#[tokio::test]
async fn a_client_may_owe_64_answers_and_no_more() {
    let echo = Echo::start(&[]);
    let [mut client, _] = clients(&echo).await;
    for id in 1..=64 {
        client.send_packet(&format!(r#"42{id}["ask"]"#)).await;
        expect(&mut client, &[&format!(r#"42{id}["question",1]"#)]).await;
    }
    client.send_packet(r#"4265["ask"]"#).await;
    let error = r#"4365[{"error":"the client owes too many acknowledgements"}]"#;
    expect(&mut client, &[error]).await;
    client.send_packet(r#"4364["yes"]"#).await;
    expect(&mut client, &[r#"4364["yes"]"#]).await;
    client.send_packet(r#"4266["ask"]"#).await;
    expect(&mut client, &[r#"4265["question",1]"#]).await;
}

// === namespaces ===

#[tokio::test]
async fn namespaces_are_by_allow_list() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        for name in ["/custom", "/dyn-0", "/dyn-4711"] {
            let payload = client.connect(name).await;
            assert_eq!(payload["sid"].as_str().map(str::len), Some(20));
            assert_eq!(client.event_named("auth").await, json!({}));
        }
        let auth = json!({"token": "123"});
        client.connect_with("/dyn-1", &auth).await.unwrap();
        assert_eq!(client.event_named("auth").await, auth);
        for name in ["/dyn-", "/dyn-1a", "/other"] {
            let refused = client.connect_with(name, &Value::Null).await;
            assert_eq!(refused, Err(json!({"message": "Invalid namespace"})));
        }
        let refused = client.connect_with("/deny", &Value::Null).await;
        let reason = json!({"message": "Not authorized", "data": {"code": 42}});
        assert_eq!(refused, Err(reason));
        goes_on(&mut client).await;
    }
}

#[tokio::test]
async fn a_client_may_be_in_16_namespaces_and_no_more() {
    let echo = Echo::start(&[]);
    let [mut client, _] = clients(&echo).await;
    for n in 1..16 {
        client.connect(&format!("/dyn-{n}")).await;
    }
    let refused = client.connect_with("/dyn-16", &Value::Null).await;
    assert_eq!(refused, Err(json!({"message": "Too many namespaces"})));
    client.send_packet("41/dyn-3,").await;
    client.connect("/dyn-3").await;
}

#[tokio::test]
async fn a_client_taken_out_of_one_namespace_stays_in_the_others() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        client.connect("/custom").await;
        client.event_named("auth").await;
        client.send_packet(r#"42/custom,["kickns"]"#).await;
        client
            .send_packet(r#"42/custom,["message","on its way"]"#)
            .await;
        expect(&mut client, &["41/custom,"]).await;
        goes_on(&mut client).await;
        client.connect("/custom").await;
    }
}

#[tokio::test]
async fn what_was_sent_before_the_server_closes_arrives() {
    let echo = Echo::start(&[]);
    for mut client in clients(&echo).await {
        client.send_packet(r#"42["burst",500]"#).await;
        client.send_packet(r#"42["kick"]"#).await;
        let events = client.closed().await;
        let numbers: Vec<_> = events.iter().map(|event| event.data().clone()).collect();
        assert_eq!(numbers, (0..500).map(Value::from).collect::<Vec<_>>());
    }
}

// === events ===

#[tokio::test]
async fn arguments_come_back_to_the_byte() {
    let echo = Echo::start(&[]);
    let args = r#"1,"2\ud83d",{"b":[1e400,123456789012345678901234567890],"a":null},[[]]"#;
    for mut client in clients(&echo).await {
        client
            .send_packet(&format!(r#"42["message",{args}]"#))
            .await;
        expect(&mut client, &[&format!(r#"42["message-back",{args}]"#)]).await;
        let asked = format!(r#"42007["message-with-ack",{args}]"#);
        client.send_packet(&asked).await;
        expect(&mut client, &[&format!("43007[{args}]")]).await;
    }
}

#[tokio::test]
async fn attachments_come_back_behind_their_packet() {
    let echo = Echo::start(&[]);
    let placeholders = r#"{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}"#;
    for mut client in clients(&echo).await {
        for (sent, back) in [
            (r#"452-["message","#, r#"452-["message-back","#),
            (r#"452-9["message-with-ack","#, "462-9["),
        ] {
            client.send_packet(&format!("{sent}{placeholders}]")).await;
            client.send_binary(b"a").await;
            client.send_binary(b"").await;
            expect(&mut client, &[&format!("{back}{placeholders}]")]).await;
            assert_eq!(client.packet().await, Some(Packet::Binary(b"a".to_vec())));
            assert_eq!(client.packet().await, Some(Packet::Binary(vec![])));
        }
    }
}

#[tokio::test]
async fn a_socket_knows_itself() {
    let echo = Echo::start(&[]);
    for (mut client, transport) in clients(&echo)
        .await
        .into_iter()
        .zip(["websocket", "polling"])
    {
        let me = client.emit_with_ack("whoami", json!(null)).await;
        assert_eq!(me["transport"], transport);
        assert_eq!((&me["eio"], &me["recovered"]), (&json!(4), &json!(false)));
        assert_eq!(me["rooms"], json!([me["id"]]));
        assert_ne!(me["id"], client.open["sid"], "the session's id is a secret");
    }
    let mut client = Client::open_websocket(echo.address, "&tenant=a%26b&t=x", &[])
        .await
        .unwrap();
    client.connect("/").await;
    let me = client.emit_with_ack("whoami", json!(null)).await;
    assert_eq!(me["query"], json!({"tenant": "a&b"}));
}
