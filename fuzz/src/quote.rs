//! An event of the quote service.
//!
//! Reading ends; an accepted quote becomes one readable system message, the same one whenever the event comes again.

use chat_svc::chat::id::{ID_BYTES_MAX, Seq};
use chat_svc::chat::message::Message;
use chat_svc::chat::quote::{QUOTE_ACCEPTED, Quote, QuoteEvent};
use serde_json::Value;

const UNIX_MS: u64 = 1_785_585_600_123;

pub fn run(data: &[u8]) {
    match QuoteEvent::parse(data) {
        Ok(QuoteEvent::Accepted(quote)) => accepted(&quote),
        Ok(QuoteEvent::Ignored(kind)) => assert!(!kind.is_empty() && kind != QUOTE_ACCEPTED),
        Err(error) => assert!(error.to_string().len() < 100),
    }
}

fn accepted(quote: &Quote) {
    let sealed = quote.seal(UNIX_MS);
    let value: Value = serde_json::from_slice(&sealed.value).expect("a sealed message is JSON");
    assert_eq!(value["_id"], quote.message_id().to_string());
    assert_eq!(value["sender_id"], "system");
    assert_eq!(value["participants"][0], value["receiver_id"]);
    assert_eq!(value["conversation_id"], sealed.conversation.as_str());
    let ids = [
        &value["participants"][0],
        &value["participants"][1],
        &value["metadata"]["quote_id"],
    ];
    for id in ids {
        assert!(
            id.as_str()
                .is_some_and(|id| (1..=ID_BYTES_MAX).contains(&id.len()))
        );
    }
    assert!(sealed.may_be_resent);
    let recipients: Value = serde_json::from_slice(&sealed.recipients).expect("a JSON array");
    assert_eq!(recipients, value["participants"]);
    assert_eq!(quote.seal(UNIX_MS).value, sealed.value);
    let key = sealed.conversation.as_bytes();
    let message = Message::from_log(key, &sealed.value, Seq::new(0, 1));
    assert_eq!(message, Some(sealed.at(Seq::new(0, 1))));
}
