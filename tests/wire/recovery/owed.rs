//! What a client was owed when its connection broke, or how it left, decides whether it gets its session again.

use super::*;

#[tokio::test]
async fn who_may_not_have_heard_of_its_own_message_begins_anew() {
    let server = Server::start(&[ON]).await;
    let mut bob = Fan::new(&server, "bob").await;
    bob.client
        .emit("chatMessage", draft("bob", "ann", "hi"))
        .await;
    // It has, but nobody knows.
    bob.client.event_named("messageSent").await;
    let (_, recovered) = bob.back(&server).await;
    assert!(!recovered);
    assert_eq!(outcomes(&server, "unanswered").await, 1);
}

#[tokio::test]
async fn a_message_read_behind_the_answer_proves_that_it_was_heard() {
    let server = Server::start(&[ON]).await;
    let mut bob = Fan::new(&server, "bob").await;
    let mut ann = Sender::new(&server, "bob").await;
    bob.client
        .emit("chatMessage", draft("bob", "ann", "hi"))
        .await;
    bob.client.event_named("messageSent").await;
    // Shown before or after the answer: the first of these is behind it in any case.
    ann.send("1").await;
    bob.read().await;
    ann.send("2").await;
    let (mut back, recovered) = bob.back(&server).await;
    assert!(recovered);
    assert_eq!(back.read_all().await, ["2"]);
}

#[tokio::test]
async fn a_ping_answered_behind_the_answer_proves_that_it_was_heard() {
    let settings = [ON, ("PING_INTERVAL_MS", "300"), ("PING_TIMEOUT_MS", "5000")];
    let server = Server::start(&settings).await;
    let mut bob = Fan::new(&server, "bob").await;
    bob.client.answers_pings = false;
    bob.client
        .emit("chatMessage", draft("bob", "ann", "hi"))
        .await;
    bob.client.emit("chatMessage", json!({"bad": 1})).await;
    let (mut sent, mut refused) = (false, false);
    loop {
        match bob.client.packet().await {
            Some(crate::support::packet::Packet::Text(text)) if text == "2" => {
                bob.client.send_packet("3").await;
                if sent && refused {
                    break;
                }
            }
            Some(crate::support::packet::Packet::Text(text)) => {
                sent |= text.starts_with("42[\"messageSent\"");
                refused |= text.starts_with("42[\"messageError\"");
            }
            other => panic!("{other:?}"),
        }
    }
    bob.client.answers_pings = true;
    bob.client.events_until_now().await;
    let (_, recovered) = bob.back(&server).await;
    assert!(recovered);
}

#[tokio::test]
async fn who_has_left_has_no_session_to_come_back_to() {
    let server = Server::start(&[ON]).await;
    let mut bob = Fan::new(&server, "bob").await;
    bob.client.send_packet("41").await;
    bob.client.events_until_now().await;
    let (_, recovered) = bob.back(&server).await;
    assert!(!recovered);
    // On the same connection it gets a session of its own, which can be recovered.
    let answer = bob.client.connect("/").await;
    assert_ne!(answer["pid"], bob.pid);
    let fresh = Fan {
        id: answer["sid"].clone(),
        pid: answer["pid"].clone(),
        ..bob
    };
    assert!(fresh.back(&server).await.1);
}

#[tokio::test]
async fn who_broke_the_protocol_begins_anew() {
    let server = Server::start(&[ON]).await;
    let mut bob = Fan::new(&server, "bob").await;
    bob.client.send_packet("42{}").await;
    bob.client.closed().await;
    assert!(!bob.back(&server).await.1);
    // To CONNECT twice breaks it too, whatever is claimed.
    let eve = Fan::new(&server, "eve").await;
    let mut twice = Fan::new(&server, "bob").await;
    twice.client.send_packet(&format!("40{}", eve.auth())).await;
    twice.client.closed().await;
    assert!(eve.back(&server).await.1, "it was not theirs to end");
}
