//! Quote events on Kafka: one system message each, in every shape, however often they are read; what cannot be read is
//! put aside.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use serde_json::{Value, json};

use support::client::Client;
use support::records::Kafka;
use support::server::Server;
use support::{DEADLINE, history, http, services, within_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_the_event_is_one_system_message_to_both_people_in_order() {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let server = Server::start_with(kafka.settings()).await;
    let mut client = Client::websocket(server.address).await;
    let mut professional = Client::polling(server.address).await;
    client.join("c").await;
    professional.join("p").await;
    let shapes = shapes();
    let events: Vec<String> = shapes.iter().map(|(_, event)| event.to_string()).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    kafka.send(&kafka.quotes(), &events);
    let mut shown = Vec::new();
    for (quote, _) in &shapes {
        let message = client.event_named("newMessage").await;
        assert_eq!(message["metadata"]["quote_id"], *quote, "{message}");
        assert_eq!(message["message_type"], "system");
        assert_eq!(message["participants"], json!(["c", "p"]));
        assert_eq!(professional.event_named("newMessage").await, message);
        shown.push(message);
    }
    assert_eq!(history::whole(server.address, "talk").await, shown);
    kafka.all_committed("quotes", &kafka.quotes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_read_again_after_a_crash_between_append_and_commit_is_still_one_message() {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let (quotes, letters) = (kafka.quotes(), format!("{}.dlq", kafka.quotes()));
    let mut server = Server::start_with(kafka.hasty_settings()).await;
    // Without its topic of dead letters the consumer cannot get past what is broken: it stands between the append of
    // the first event and the commit of both.
    kafka.delete(&letters).await;
    kafka.send(&quotes, &[&accepted("q1"), "{"]);
    let first = appears(&server, "c:p").await;
    server
        .prints("dead letters cannot be written", 6 * DEADLINE)
        .await;
    assert_eq!(kafka.committed("quotes", &quotes), 0);
    server.kill9().await;
    kafka.send(&quotes, &[&accepted("q1")]);
    let server = server.restart().await;
    let mut client = Client::websocket(server.address).await;
    client.join("c").await;
    kafka.all_committed("quotes", &quotes).await;
    kafka.send(&quotes, &[&accepted("q1"), &accepted("q2")]);
    assert_eq!(
        client.event_named("newMessage").await["metadata"]["quote_id"],
        "q2"
    );
    kafka.all_committed("quotes", &quotes).await;
    let whole = history::whole(server.address, "c:p").await;
    assert_eq!((whole.len(), &whole[0]), (2, &first));
    assert!(client.events_until_now().await.is_empty());
    let letter = &kafka.read(&letters, 1).await[0];
    assert_eq!((&letter.value[..], kafka.end(&letters)), (&b"{"[..], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_types_are_counted_and_what_is_broken_is_put_aside_while_the_rest_goes_on() {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let quotes = kafka.quotes();
    let server = Server::start_with(kafka.settings()).await;
    let sent = json!({"type": "QUOTE_SENT", "quote_id": "q"}).to_string();
    kafka.send(&quotes, &[&sent, &sent]);
    let headless = json!({"type": "QUOTE_ACCEPTED", "quote_id": "q"}).to_string();
    kafka.send_marked(&quotes, "k", ("trace", "t1"), headless.as_bytes());
    kafka.send_marked(&quotes, "k", ("trace", "t2"), b"\xff\x00");
    kafka.send(&quotes, &[&accepted("q1")]);
    appears(&server, "c:p").await;
    kafka.all_committed("quotes", &quotes).await;
    let letters = kafka.read(&format!("{quotes}.dlq"), 2).await;
    let causes = [
        "unreadable: the event has no client_id",
        "unreadable: the event must be a JSON object",
    ];
    let values = [headless.as_bytes(), b"\xff\x00"];
    for (n, letter) in letters.iter().enumerate() {
        assert_eq!((&letter.key[..], &letter.value[..]), (&b"k"[..], values[n]));
        let header = |name: &str| letter.headers[name].as_str();
        assert_eq!(header("trace"), format!("t{}", n + 1));
        assert_eq!(header("dlq.cause"), causes[n]);
        assert_eq!(header("dlq.topic"), quotes);
        assert_eq!(header("dlq.partition"), "0");
        assert_eq!(header("dlq.offset"), (n + 2).to_string());
    }
    let metrics = http::get(server.admin, "/metrics").await.text();
    for line in [
        "chat_quotes_ignored_total{type=\"QUOTE_SENT\"} 2".to_owned(),
        "chat_quotes_accepted_total 1".to_owned(),
        format!("chat_dead_letters_total{{topic=\"{quotes}\",cause=\"unreadable\"}} 2"),
    ] {
        assert!(metrics.contains(&line), "{line} is not in:\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_left_undone_the_other_does_and_nobody_sees_it_twice() {
    // Nodes share a store, too: either archives what the other wrote.
    let (Some(kafka), Some(store)) = (Kafka::here(), services::mongo()) else {
        return;
    };
    let quotes = kafka.quotes();
    let settings = [kafka.settings(), store].concat();
    let mut nodes = [
        Server::start_with(settings.clone()).await,
        Server::start_with(settings).await,
    ];
    kafka.send(&quotes, &[&accepted("q1")]);
    for node in &nodes {
        appears(node, "c:p").await;
    }
    kafka.all_committed("quotes", &quotes).await;
    // The one partition is either's: with each of them gone, the other one goes on.
    nodes[0].kill9().await;
    kafka.send(&quotes, &[&accepted("q1"), &accepted("q2")]);
    kafka.all_committed("quotes", &quotes).await;
    let [first, mut second] = nodes;
    let first = first.restart().await;
    second.kill9().await;
    kafka.send(&quotes, &[&accepted("q2"), &accepted("q3")]);
    kafka.all_committed("quotes", &quotes).await;
    kafka.all_committed("archive", &kafka.chat()).await;
    let whole = history::whole(first.address, "c:p").await;
    let told: Vec<&Value> = whole.iter().map(|m| &m["metadata"]["quote_id"]).collect();
    assert_eq!(told, ["q1", "q2", "q3"]);
}

/// Quote ids, and an event of each shape.
fn shapes() -> Vec<(String, Value)> {
    let mut shapes = Vec::new();
    for name in ["event_type", "eventType", "type", "event"] {
        for camel in [false, true] {
            for place in ["", "data", "payload"] {
                let quote = format!("{name}-{camel}-{place}");
                let fields = match camel {
                    false => json!({
                        "quote_id": quote, "client_id": "c", "professional_id": "p", "conversation_id": "talk"
                    }),
                    true => json!({
                        "quoteId": quote, "clientId": "c", "professionalId": "p", "conversationId": "talk"
                    }),
                };
                let mut event = match place {
                    "" => fields,
                    place => json!({place: fields}),
                };
                event[name] = json!("QUOTE_ACCEPTED");
                shapes.push((quote, event));
            }
        }
    }
    shapes
}

fn accepted(quote: &str) -> String {
    json!({"event_type": "QUOTE_ACCEPTED", "quote_id": quote, "client_id": "c", "professional_id": "p"}).to_string()
}

/// The one message of a conversation, once it is there.
async fn appears(server: &Server, conversation: &str) -> Value {
    let there = async {
        loop {
            let mut page = history::page(server.address, conversation, "").await;
            assert!(page.len() < 2, "{page:?}");
            if let Some(message) = page.pop() {
                return message;
            }
        }
    };
    within_for(3 * DEADLINE, "a quote's message", there).await
}
