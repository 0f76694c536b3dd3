//! SIGTERM: everybody is let go in order, nothing on its way is lost, and it ends in time.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::http;
use crate::support::packet::{Incoming, Packet};
use crate::support::server::Server;
use crate::support::websocket::CLOSE;
use crate::support::{history, within};
use crate::{ENGINE, assert_refused, draft, polling_path};

const IN_TIME: Duration = Duration::from_secs(12);

#[tokio::test]
async fn websockets_get_a_close_frame_and_no_disconnect() {
    let mut server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::websocket(server.address).await);
    }
    server.signal(Signal::TERM);
    for client in &mut clients {
        let socket = client.websocket_transport();
        let frame = socket.frame().await.expect("a close frame");
        // A Socket.IO DISCONNECT would keep the client away for good.
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        assert_eq!(socket.frame().await, None);
    }
    drop(clients);
    let status = server.exit(IN_TIME).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
}

#[tokio::test]
async fn parked_polls_fail_so_that_their_clients_come_back() {
    let mut server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut client = Client::polling(server.address).await;
        client.polling_transport().send_get().await;
        // Its answer comes by the held GET, which is thus known to be held; the next one stays.
        let ask = format!("42{n}[\"joinRoom\",\"ann\"]");
        client.polling_transport().post(ask.as_bytes()).await;
        client.polling_transport().finish_get().await;
        client.polling_transport().send_get().await;
        clients.push(client);
    }
    // The last GET is with the server when an answer to a later request on the same road is here.
    http::get(server.address, "/health")
        .await
        .expect_status(200);
    server.signal(Signal::TERM);
    for client in &mut clients {
        let answer = client.polling_transport().finish_get().await;
        // Python's clients take a goodbye, the packet `1`, as final, and would not come to the next server.
        assert_refused(&answer, 1, "Session ID unknown");
    }
    let status = server.exit(IN_TIME).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
}

#[tokio::test]
async fn what_is_acknowledged_while_stopping_is_shown_and_there_after_the_next_start() {
    // Where the signal falls among the messages is chance.
    for _ in 0..5 {
        stop_amid_messages().await;
    }
}

async fn stop_amid_messages() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(folder.path(), &[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    for n in 0..500 {
        ann.emit("chatMessage", draft("ann", "bob", &n.to_string()))
            .await;
    }
    server.signal(Signal::TERM);
    let (mut sent, mut refused) = (Vec::new(), 0);
    for event in ann.closed().await {
        match event.name.as_str() {
            "messageSent" => sent.push(event.data().clone()),
            "messageError" => {
                assert_eq!(event.data()["code"], "draining");
                assert_eq!(event.data()["retryable"], true);
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    drop(ann);
    // No answer at all is left to those only that the server had not read when it closed.
    println!("{} sent, {refused} refused", sent.len());
    let mut heard: Vec<Value> = Vec::new();
    while let Some(incoming) = within("the end", bob.next()).await {
        if let Incoming::Event(event) = incoming {
            heard.push(event.data().clone());
        }
    }
    drop(bob);
    assert_eq!(heard, sent, "what is acknowledged is shown before the end");
    assert_eq!(server.exit(IN_TIME).await.code(), Some(0));
    let server = Server::start_in(folder.path(), &[]).await;
    assert_eq!(history::whole(server.address, "talk").await, sent);
}

#[tokio::test]
async fn nothing_new_is_taken_while_stopping() {
    // Held back by a client that does not let go.
    let mut server = Server::start(&[("DRAIN_TIMEOUT_MS", "4000")]).await;
    let mut client = Client::websocket(server.address).await;
    server.signal(Signal::TERM);
    assert_eq!(client.packet().await, None);
    let path = format!("{ENGINE}&transport=polling");
    if let Ok(mut connection) = http::Connection::try_open(server.address).await {
        connection.try_send("GET", &path, &[], b"").await.ok();
        let answer = within("a refusal", connection.next_response("GET")).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(server.exit(Duration::from_secs(7)).await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_let_go_holds_the_end_up_to_its_time_only() {
    let mut server = Server::start(&[("DRAIN_TIMEOUT_MS", "4000")]).await;
    let _websocket = Client::websocket(server.address).await;
    let polling = Client::polling(server.address).await;
    let mut half = http::Connection::open(server.address).await;
    let path = polling_path(polling.sid());
    half.send("POST", &path, &[("Content-Length", "100")], b"42")
        .await;
    let mut idle = http::Connection::open(server.address).await;
    idle.send("GET", "/health", &[], b"").await;
    idle.response("GET").await;
    server.signal(Signal::TERM);
    let status = server.exit(Duration::from_secs(7)).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&[("DRAIN_TIMEOUT_MS", "60000")]).await;
    let mut client = Client::websocket(server.address).await;
    server.signal(Signal::TERM);
    // The close frame shows that the first signal was seen; it is not answered.
    let frame = client.websocket_transport().frame().await.unwrap();
    assert_eq!(frame.opcode, CLOSE);
    let mut stuck = client;
    server.signal(Signal::INT);
    let status = server.exit(Duration::from_secs(4)).await;
    assert_eq!(status.code(), Some(1), "{}", server.output());
    assert_eq!(stuck.packet().await, None::<Packet>);
}
