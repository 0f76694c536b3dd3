//! A page made of two: what the store has and what the tail has.

use std::collections::HashSet;

use crate::chat::id::MessageId;
use crate::chat::message::Message;
use crate::store::{Cursor, PAGE_BYTES_MAX};

/// Joins a page of the store and one of the tail: each message once, in rising `seq`, the `limit` nearest the cursor,
/// and of these as many as [`PAGE_BYTES_MAX`] lets stand.
pub fn merge(
    stored: Vec<Message>,
    tail: Vec<Message>,
    cursor: Cursor,
    limit: usize,
) -> Vec<Message> {
    let is_cut = bytes(&stored) >= PAGE_BYTES_MAX;
    // A page cut by its bytes may end before the store does: what comes later must not follow it.
    let tail = if is_cut && matches!(cursor, Cursor::After(..)) {
        Vec::new()
    } else {
        tail
    };
    let mut page = stored;
    let known: HashSet<MessageId> = page.iter().map(|m| m.id).collect();
    page.extend(
        tail.into_iter()
            .filter(|message| !known.contains(&message.id)),
    );
    page.sort_by_key(Message::place);
    match cursor {
        Cursor::After(..) => page.truncate(limit.min(fitting(page.iter()))),
        Cursor::Newest | Cursor::Before(..) => {
            let kept = limit.min(fitting(page.iter().rev()));
            drop(page.drain(..page.len().saturating_sub(kept)));
        }
    }
    page
}

fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(Message::size).sum()
}

/// How many of these messages a page may hold.
fn fitting<'a>(messages: impl Iterator<Item = &'a Message>) -> usize {
    let mut bytes = 0;
    let fits = |message: &&Message| {
        let before = bytes;
        bytes += message.size();
        before < PAGE_BYTES_MAX
    };
    messages.take_while(fits).count()
}
