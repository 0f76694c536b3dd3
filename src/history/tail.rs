//! The tail of one partition: messages that the log has and the store does not have yet, in memory.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;
use crate::store::{Cursor, PageQuery};

/// What an entry costs beside its JSON: its places in the queue and in both indexes.
const ENTRY_BYTES: usize = 256;

/// Messages that may wait to be indexed until somebody asks: adding them all then takes a few milliseconds. About half
/// as many are one insert into the embedded store.
pub const UNINDEXED_MAX: usize = 16_384;

/// Messages in rising `seq`, found by conversation and by id.
pub struct Tail {
    messages: VecDeque<Message>,
    /// So many from the front are in the indexes. The others are added when somebody asks: most messages have gone to
    /// the store before anybody did.
    indexed: usize,
    by_conversation: HashMap<ConversationId, VecDeque<Seq>, RandomState>,
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
            indexed: 0,
            by_conversation: HashMap::default(),
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
        self.messages.push_back(message);
        if self.messages.len() - self.indexed > UNINDEXED_MAX {
            self.index_next();
        }
        cost
    }

    fn index_next(&mut self) {
        let Some(message) = self.messages.get(self.indexed) else {
            return;
        };
        self.indexed += 1;
        self.by_id.insert(message.id, message.seq);
        let conversation = message.conversation.clone();
        let places = self.by_conversation.entry(conversation).or_default();
        places.push_back(message.seq);
    }

    fn index_all(&mut self) {
        while self.indexed < self.messages.len() {
            self.index_next();
        }
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
        if self.indexed > 0 {
            self.indexed -= 1;
            self.forget(&message);
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(1024);
        }
        cost(&message)
    }

    /// Takes the oldest message out of the indexes.
    fn forget(&mut self, message: &Message) {
        self.by_id.remove(&message.id);
        if let Some(places) = self.by_conversation.get_mut(&message.conversation) {
            places.pop_front();
            if places.is_empty() {
                self.by_conversation.remove(&message.conversation);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn get(&mut self, id: MessageId) -> Option<Message> {
        self.index_all();
        self.at(*self.by_id.get(&id)?).cloned()
    }

    fn at(&self, seq: Seq) -> Option<&Message> {
        let index = self
            .messages
            .binary_search_by_key(&seq, |message| message.seq)
            .ok()?;
        self.messages.get(index)
    }

    /// At most `limit` messages of the conversation nearest the cursor, in rising `seq`. All here have a place of
    /// their own.
    pub fn page(&mut self, query: PageQuery<'_>) -> Vec<Message> {
        self.index_all();
        let Some(places) = self.by_conversation.get(query.conversation) else {
            return Vec::new();
        };
        let range = match query.cursor {
            Cursor::Newest => places.len().saturating_sub(query.limit)..places.len(),
            Cursor::After(seq, _) => {
                let start = places.partition_point(|place| *place <= seq);
                start..places.len().min(start + query.limit)
            }
            Cursor::Before(seq, _) => {
                let end = places.partition_point(|place| *place < seq);
                end.saturating_sub(query.limit)..end
            }
        };
        places
            .range(range)
            .filter_map(|seq| self.at(*seq))
            .cloned()
            .collect()
    }
}

fn cost(message: &Message) -> usize {
    message.body.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

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

    fn newest(tail: &mut Tail, conversation: &ConversationId, limit: usize) -> Vec<u64> {
        let query = PageQuery {
            conversation,
            cursor: Cursor::Newest,
            limit,
        };
        let page = tail.page(query);
        page.iter().map(|message| message.seq.offset()).collect()
    }

    #[test]
    fn messages_are_found_whether_anybody_asked_before_they_came_or_not() {
        let mut tail = Tail::new(0);
        let (end, a) = (UNINDEXED_MAX as u64 + 10, message(0).conversation);
        for n in 0..end {
            tail.push(message(n));
            if n == 3 {
                assert_eq!(newest(&mut tail, &a, 5), [0, 2]);
            }
        }
        assert_eq!(tail.messages.len() - tail.indexed, UNINDEXED_MAX);
        tail.archived(Seq::new(1, 9));
        assert!((0..9).all(|n| tail.get(message(n).id).is_none()));
        assert!((9..end).all(|n| tail.get(message(n).id) == Some(message(n))));
        assert_eq!(newest(&mut tail, &a, 2), [end - 4, end - 2]);
        tail.push(message(end));
        tail.archived(Seq::new(1, end));
        assert_eq!(newest(&mut tail, &a, 2), [end]);
        tail.archived(Seq::new(1, end + 1));
        assert!(tail.by_id.is_empty() && tail.by_conversation.is_empty());
    }
}
