//! A conversation's history, read the way clients read it: page by page.

use std::net::SocketAddr;

use serde_json::Value;

use super::http;

/// The whole history of a conversation, oldest first. It is paged back from the newest message, then forward from the
/// first one, and both ways must agree.
pub async fn whole(address: SocketAddr, conversation: &str) -> Vec<Value> {
    let back = back_to_the_first(address, conversation).await;
    let Some(first) = back.first() else {
        return back;
    };
    let mut forward = vec![first.clone()];
    loop {
        let last = id(&forward[forward.len() - 1]);
        let page = page(address, conversation, &format!("&last_message_id={last}")).await;
        if page.is_empty() {
            break;
        }
        forward.extend(page);
        assert_bounded(&forward);
    }
    let ids = |messages: &[Value]| messages.iter().map(id).collect::<Vec<_>>();
    assert_eq!(
        ids(&back),
        ids(&forward),
        "history of {conversation} read back and forth"
    );
    back
}

async fn back_to_the_first(address: SocketAddr, conversation: &str) -> Vec<Value> {
    let mut pages = vec![page(address, conversation, "").await];
    let mut read = 0;
    while let Some(first) = pages.last().and_then(|page| page.first()) {
        let before = page(address, conversation, &format!("&before={}", id(first))).await;
        read += before.len();
        assert!(read < MESSAGES_MAX, "history of {conversation} has no end");
        pages.push(before);
    }
    pages.into_iter().rev().flatten().collect()
}

/// One page, as large as the server makes them (`PAGE_MAX`), with `query` (`&before=…`) added.
pub async fn page(address: SocketAddr, conversation: &str, query: &str) -> Vec<Value> {
    let path = format!("/api/chat/messages/{conversation}?limit=5000{query}");
    let response = http::get(address, &path).await.expect_status(200);
    match response.json() {
        Value::Array(messages) => messages,
        other => panic!("history is an array, not {other}"),
    }
}

/// A message's `_id`.
pub fn id(message: &Value) -> String {
    message["_id"]
        .as_str()
        .expect("a message has an _id")
        .to_string()
}

fn assert_bounded(messages: &[Value]) {
    assert!(messages.len() < MESSAGES_MAX, "history has no end");
}

/// More than any test writes: a cursor that does not move is found.
const MESSAGES_MAX: usize = 2_000_000;
