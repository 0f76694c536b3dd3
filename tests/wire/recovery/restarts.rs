//! Sessions across starts of the service, and under load.

use super::*;

#[tokio::test]
async fn sessions_outlive_kill_9_and_a_stop() {
    let mut server = Server::start(&[ON]).await;
    let mut bob = Fan::new(&server, "bob").await;
    bob.client.join("robert").await;
    let quiet = Fan::new(&server, "bob").await;
    let mut ann = Sender::new(&server, "bob").await;
    ann.send("0").await;
    bob.read().await;
    for way in ["killed", "stopped", "killed again"] {
        ann.send("missed").await;
        ann.send(way).await;
        match way {
            "stopped" => assert!(server.terminate(Duration::from_secs(20)).await.success()),
            _ => server.kill9().await,
        }
        server = server.restart().await;
        ann = Sender::new(&server, "bob").await;
        ann.send("after").await;
        let (mut back, recovered) = bob.back(&server).await;
        assert!(recovered, "{way}");
        assert_eq!(back.read_all().await, ["missed", way, "after"]);
        ann.send("live").await;
        assert_eq!(back.read_all().await, ["live"]);
        bob = back;
    }
    ann.client
        .emit("chatMessage", draft("ann", "robert", "hi"))
        .await;
    assert_eq!(bob.read().await, "hi", "in all its rooms");
    let (mut quiet, recovered) = quiet.back_with(&server, &json!({"pid": quiet.pid})).await;
    assert!(recovered);
    assert_eq!(quiet.read_all().await.len(), 1 + 3 * 4);
}

#[tokio::test]
async fn after_kill_9_who_was_owed_an_answer_or_had_left_begins_anew() {
    let mut server = Server::start(&[ON]).await;
    let mut owed = Fan::new(&server, "bob").await;
    owed.client
        .emit("chatMessage", draft("bob", "ann", "hi"))
        .await;
    owed.client.event_named("messageSent").await;
    let mut left = Fan::new(&server, "bob").await;
    left.client.send_packet("41").await;
    left.client.events_until_now().await;
    let calm = Fan::new(&server, "bob").await;
    server.kill9().await;
    let server = server.restart().await;
    assert!(!owed.back(&server).await.1);
    assert!(!left.back(&server).await.1);
    assert!(calm.back(&server).await.1);
}

#[tokio::test]
async fn after_a_start_of_the_machine_no_session_is_believed() {
    let mut server = Server::start(&[ON]).await;
    let bob = Fan::new(&server, "bob").await;
    server.kill9().await;
    let base = server.data_dir().join("recovery/base");
    std::fs::write(&base, "{\"boot\":\"another\"}\n").unwrap();
    let server = server.restart().await;
    assert!(!bob.back(&server).await.1);
}

#[tokio::test]
async fn however_often_connections_break_under_load_each_message_comes_once_in_order() {
    const MESSAGES: u64 = 3_000;
    let server = Server::start(&[ON]).await;
    let address = server.address;
    let bobs = (0..3).map(|n| async move {
        let mut bob = Fan::connect(address, &Value::Null).await;
        bob.client.join("bob").await;
        (n, bob)
    });
    let bobs = futures_util::future::join_all(bobs).await;
    let send = async {
        let mut ann = Client::websocket(address).await;
        for n in 0..MESSAGES {
            let message = draft("ann", "bob", &n.to_string());
            let answer = ann.emit_with_ack("chatMessage", message).await;
            assert_eq!(answer["status"], "ok");
            ann.event_named("messageSent").await;
        }
    };
    let reads = bobs.into_iter().map(|(n, mut bob)| async move {
        let mut breaks = 0;
        for expected in 0..MESSAGES {
            if expected % 7 == n {
                breaks += 1;
                let auth = bob.auth();
                let back = Fan::connect(address, &auth).await;
                assert_eq!((&back.pid, &back.id), (&bob.pid, &bob.id));
                let offset = bob.offset;
                bob = Fan { offset, ..back };
            }
            assert_eq!(bob.read().await, expected.to_string());
        }
        assert_eq!(bob.read_all().await, [""; 0]);
        breaks
    });
    let reads = futures_util::future::join_all(reads);
    let ((), breaks): ((), Vec<u64>) = futures_util::future::join(send, reads).await;
    println!("{breaks:?} breaks");
    assert_eq!(
        outcomes(&server, "recovered").await as u64,
        breaks.iter().sum::<u64>()
    );
}
