//! The tail of one partition: messages that the log has and the store does not have yet, in memory.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::chat::id::{MessageId, Seq};
use crate::chat::message::Message;
use crate::history::index::Index;
use crate::store::{Cursor, PageQuery};

/// What an entry costs beside its JSON: its places in the queue and in both indexes.
const ENTRY_BYTES: usize = 256;

/// Messages that may wait to be found by id until somebody asks for one: adding them all then takes a few milliseconds.
const UNNAMED_MAX: usize = 16_384;

/// Messages in rising `seq`, found by conversation and by id.
pub struct Tail {
    messages: VecDeque<Message>,
    by_conversation: Index,
    /// So many from the front are in `by_id`. The others are added when somebody asks: most messages have gone to the
    /// store before anybody did.
    named: usize,
    by_id: HashMap<MessageId, Seq, RandomState>,
    /// Offset up to which the store has everything.
    archived: u64,
    /// Offset up to which messages were forgotten for want of room.
    shed: u64,
}

impl Tail {
    /// `archived`: next offset that the store does not have.
    pub fn new(archived: u64) -> Self {
        Self {
            messages: VecDeque::new(),
            by_conversation: Index::default(),
            named: 0,
            by_id: HashMap::default(),
            archived,
            shed: 0,
        }
    }

    /// Adds the next message; its cost in bytes, 0 when it is here already.
    pub fn push(&mut self, message: Message) -> usize {
        if self
            .messages
            .back()
            .is_some_and(|last| last.seq >= message.seq)
        {
            return 0;
        }
        let cost = cost(&message);
        self.by_conversation.push(&message.conversation);
        self.messages.push_back(message);
        if self.messages.len() - self.named > UNNAMED_MAX {
            self.name(1);
        }
        cost
    }

    /// Puts so many more into `by_id`.
    fn name(&mut self, more: usize) {
        let end = self.named + more;
        for message in self.messages.range(self.named..end) {
            self.by_id.insert(message.id, message.seq);
        }
        self.named = end;
    }

    /// Drops all below `next`, which the store has; the bytes freed.
    pub fn archived(&mut self, next: Seq) -> usize {
        self.archived = self.archived.max(next.offset());
        let mut freed = 0;
        while self
            .messages
            .front()
            .is_some_and(|oldest| oldest.seq < next)
        {
            freed += self.pop();
        }
        freed
    }

    /// Forgets the oldest message; the bytes freed. From then on there is a gap, until the store has caught up.
    pub fn shed(&mut self) -> usize {
        if let Some(oldest) = self.messages.front() {
            self.shed = self.shed.max(oldest.seq.offset() + 1);
        }
        self.pop()
    }

    /// Whether there are messages that neither the tail nor the store has.
    pub fn has_gap(&self) -> bool {
        self.shed > self.archived
    }

    fn pop(&mut self) -> usize {
        let Some(message) = self.messages.pop_front() else {
            return 0;
        };
        self.by_conversation.pop();
        if self.named > 0 {
            self.named -= 1;
            self.by_id.remove(&message.id);
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(1024);
        }
        cost(&message)
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn get(&mut self, id: MessageId) -> Option<Message> {
        self.name(self.messages.len() - self.named);
        let seq = self.by_id.get(&id)?;
        let index = self.messages.binary_search_by_key(seq, |m| m.seq).ok()?;
        self.messages.get(index).cloned()
    }

    /// At most `limit` messages of the conversation nearest the cursor, in rising `seq`. All here have a place of
    /// their own.
    pub fn page(&self, query: PageQuery<'_>) -> Vec<Message> {
        let range = match query.cursor {
            Cursor::Newest => 0..self.messages.len(),
            Cursor::Before(seq, _) => 0..self.messages.partition_point(|m| m.seq < seq),
            Cursor::After(seq, _) => {
                self.messages.partition_point(|m| m.seq <= seq)..self.messages.len()
            }
        };
        let places = self.by_conversation.places(query.conversation, range);
        let own = |place| {
            let message: Option<&Message> = self.messages.get(place);
            message.filter(|message| message.conversation == *query.conversation)
        };
        if matches!(query.cursor, Cursor::After(..)) {
            let rising = places.filter_map(own).take(query.limit);
            return rising.cloned().collect();
        }
        let falling = places.rev().filter_map(own).take(query.limit);
        let mut page: Vec<_> = falling.cloned().collect();
        page.reverse();
        page
    }
}

fn cost(message: &Message) -> usize {
    message.body.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::id::ConversationId;

    fn message(n: u64) -> Message {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&n.to_be_bytes());
        Message {
            id: MessageId(id),
            conversation: ConversationId::new(vec![b'a' + (n % 2) as u8]).unwrap(),
            seq: Seq::new(1, n),
            is_spam: false,
            body: Bytes::from_static(b"{"),
        }
    }

    fn page(tail: &Tail, conversation: &ConversationId, cursor: Cursor, limit: usize) -> Vec<u64> {
        let query = PageQuery {
            conversation,
            cursor,
            limit,
        };
        let page = tail.page(query);
        page.iter().map(|message| message.seq.offset()).collect()
    }

    fn newest(tail: &Tail, conversation: &ConversationId, limit: usize) -> Vec<u64> {
        page(tail, conversation, Cursor::Newest, limit)
    }

    #[test]
    fn messages_are_found_from_first_to_last() {
        let mut tail = Tail::new(0);
        let (end, a) = (50_000, message(0).conversation);
        for n in 0..end {
            tail.push(message(n));
            if n == 3 {
                assert_eq!(newest(&tail, &a, 5), [0, 2]);
            }
        }
        tail.archived(Seq::new(1, 9));
        assert!((0..9).all(|n| tail.get(message(n).id).is_none()));
        assert!((9..end).all(|n| tail.get(message(n).id) == Some(message(n))));
        assert_eq!(tail.by_id.len(), tail.len());
        assert_eq!(newest(&tail, &a, 2), [end - 4, end - 2]);
        let at = |n: u64| (Seq::new(1, n), message(n).id);
        let (seq, id) = at(end - 10);
        assert_eq!(
            page(&tail, &a, Cursor::After(seq, id), 2),
            [end - 8, end - 6]
        );
        let (seq, id) = at(14);
        assert_eq!(page(&tail, &a, Cursor::Before(seq, id), 9), [10, 12]);
        tail.push(message(end));
        tail.archived(Seq::new(1, end));
        assert_eq!(newest(&tail, &a, 2), [end]);
        tail.archived(Seq::new(1, end + 1));
        assert_eq!(newest(&tail, &a, 2), [] as [u64; 0]);
        assert!(tail.by_id.is_empty());
    }
}
