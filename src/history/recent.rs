//! Ids read lately, to recognise a message that stands in the log a second time.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::chat::id::{MessageId, Seq};

/// The last ids read that may come again, at most a fixed number; the oldest are forgotten first.
pub struct Recent {
    first: HashMap<MessageId, Seq, RandomState>,
    order: VecDeque<MessageId>,
    ids_max: usize,
}

impl Recent {
    pub fn new(ids_max: usize) -> Self {
        Self {
            first: HashMap::default(),
            order: VecDeque::new(),
            ids_max,
        }
    }

    /// Notes that `id` was read at `seq`. Whether it stands for the message: true at the first place, and when that
    /// place is read again.
    pub fn insert(&mut self, id: MessageId, seq: Seq) -> bool {
        if let Some(first) = self.first.get(&id) {
            return *first == seq;
        }
        if self.ids_max == 0 {
            return true;
        }
        if self.order.len() >= self.ids_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.first.remove(&oldest);
        }
        self.first.insert(id, seq);
        self.order.push_back(id);
        true
    }

    /// Whether `id` was read lately.
    pub fn contains(&self, id: MessageId) -> bool {
        self.first.contains_key(&id)
    }

    /// Where it was read first, as far as that is remembered.
    pub fn first(&self, id: MessageId) -> Option<Seq> {
        self.first.get(&id).copied()
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId([n; 12])
    }

    #[test]
    fn the_first_place_stays_the_messages_place() {
        let mut recent = Recent::new(10);
        assert!(recent.insert(id(1), Seq(5)));
        assert!(!recent.insert(id(1), Seq(6)));
        assert_eq!(recent.first(id(1)), Some(Seq(5)));
        assert_eq!(recent.first(id(2)), None);
        assert!(
            recent.insert(id(1), Seq(5)),
            "a re-read of the same place is no duplicate"
        );
    }

    #[test]
    fn at_the_limit_the_oldest_is_forgotten() {
        let mut recent = Recent::new(2);
        for n in 1..=3 {
            assert!(recent.insert(id(n), Seq(u64::from(n))));
        }
        assert_eq!(recent.len(), 2);
        assert!(!recent.contains(id(1)) && recent.contains(id(2)));
        assert!(!recent.insert(id(2), Seq(9)));
        assert!(recent.insert(id(1), Seq(9)), "forgotten");
    }
}
