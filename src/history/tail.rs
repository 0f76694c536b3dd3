//! The tail of one partition: messages that the log has and the store does not have yet, in memory.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;
use crate::store::{Cursor, PageQuery};

/// What an entry costs beside its JSON: its places in the queue and in both indexes.
const ENTRY_BYTES: usize = 256;

/// Messages in rising `seq`, found by conversation and by id.
pub struct Tail {
    messages: VecDeque<Message>,
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
        self.by_id.insert(message.id, message.seq);
        let places = self
            .by_conversation
            .entry(message.conversation.clone())
            .or_default();
        places.push_back(message.seq);
        let cost = cost(&message);
        self.messages.push_back(message);
        cost
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
        self.by_id.remove(&message.id);
        if let Some(places) = self.by_conversation.get_mut(&message.conversation) {
            places.pop_front();
            if places.is_empty() {
                self.by_conversation.remove(&message.conversation);
            }
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(1024);
        }
        cost(&message)
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn get(&self, id: MessageId) -> Option<Message> {
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
    pub fn page(&self, query: PageQuery<'_>) -> Vec<Message> {
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
