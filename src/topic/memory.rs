//! A forgetful log in memory, for tests and benches: what a journal promises, but for durability.
//!
//! It keeps the last records only. A reader that falls further behind gets [`TopicError::Failed`]; it never skips.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::topic::{
    Bounds, Entry, Outcome, Position, Record, SharedRecord, Start, Subscription, Topic, TopicError,
};

/// A log of one partition that ends with its value and the last of its subscriptions.
pub struct Memory {
    shared: Arc<Shared>,
}

impl Memory {
    /// Keeps the last `records_max` records.
    pub fn new(records_max: usize) -> Memory {
        let log = Log {
            first: 0,
            kept: VecDeque::new(),
            records_max: records_max.max(1),
            groups: HashMap::new(),
        };
        let tip = watch::Sender::new(Tip {
            end: 0,
            over: false,
        });
        Memory {
            shared: Arc::new(Shared {
                log: Mutex::new(log),
                tip,
            }),
        }
    }

    fn append_all(&self, batch: Vec<Record>) -> Vec<Outcome> {
        let mut log = self.shared.log.lock();
        if self.shared.tip.borrow().over {
            let refused = |_| Outcome::NotAppended(TopicError::Closed);
            return batch.into_iter().map(refused).collect();
        }
        let now = Instant::now();
        let batch: Arc<[Record]> = batch.into();
        let records = SharedRecord::of(&batch, 0);
        let outcomes = records.map(|record| match log.push(record, now) {
            Some(offset) => Outcome::Appended(position(offset)),
            None => Outcome::NotAppended(TopicError::TooLarge),
        });
        let outcomes = outcomes.collect();
        let end = log.end();
        self.shared.tip.send_replace(Tip { end, over: false });
        outcomes
    }

    fn start(&self, start: Start) -> Reader {
        let mut log = self.shared.log.lock();
        let (group, next) = match start {
            Start::Latest => (None, log.end()),
            Start::Group(group) => {
                let first = log.first;
                (Some(group), *log.groups.entry(group).or_insert(first))
            }
            Start::Behind {
                group,
                window,
                records_max,
            } => (None, log.behind(group, window, records_max)),
        };
        drop(log);
        Reader {
            tip: self.shared.tip.subscribe(),
            shared: Arc::clone(&self.shared),
            group,
            next,
        }
    }
}

impl Topic for Memory {
    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(async { self.append_all(batch) })
    }

    fn subscribe(&self, start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
        Box::pin(async { Ok(Box::new(self.start(start)) as Box<dyn Subscription>) })
    }

    fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        Box::pin(async {
            let log = self.shared.log.lock();
            Ok(vec![Bounds {
                partition: 0,
                committed: log.place(group),
                end: log.end(),
            }])
        })
    }

    fn ends(&self, _within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        Box::pin(async { Ok(vec![self.shared.log.lock().end()]) })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async {
            let _log = self.shared.log.lock();
            self.shared.tip.send_modify(|tip| tip.over = true);
            Ok(())
        })
    }
}

struct Shared {
    log: Mutex<Log>,
    /// Changed only while the log is locked.
    tip: watch::Sender<Tip>,
}

#[derive(Clone, Copy)]
struct Tip {
    end: u64,
    over: bool,
}

struct Log {
    /// Offset of the first record kept.
    first: u64,
    kept: VecDeque<(Instant, SharedRecord)>,
    records_max: usize,
    groups: HashMap<&'static str, u64>,
}

impl Log {
    /// The record's offset; `None` when it is too large.
    fn push(&mut self, record: SharedRecord, now: Instant) -> Option<u64> {
        if record.size() > RECORD_BYTES_MAX {
            return None;
        }
        if self.kept.len() == self.records_max {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back((now, record));
        Some(self.end() - 1)
    }

    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn place(&self, group: &str) -> u64 {
        self.groups.get(group).copied().unwrap_or(self.first)
    }

    fn behind(&self, group: &str, window: Duration, records_max: u64) -> u64 {
        let place = self.place(group);
        let old = self.kept.partition_point(|(at, _)| at.elapsed() >= window);
        let least = place.saturating_sub(records_max);
        (self.first + old as u64).max(least).min(place)
    }
}

struct Reader {
    shared: Arc<Shared>,
    tip: watch::Receiver<Tip>,
    group: Option<&'static str>,
    next: u64,
}

impl Reader {
    async fn read(&mut self, batch: &mut Vec<Entry>, max: usize) -> Result<(), TopicError> {
        let next = self.next;
        let tip = self.tip.wait_for(|tip| tip.end > next || tip.over).await;
        if !tip.is_ok_and(|tip| tip.end > next) {
            return Err(TopicError::Closed);
        }
        let log = self.shared.log.lock();
        let Some(skip) = next.checked_sub(log.first) else {
            let lost = log.first - next;
            let what = format!("the reader fell behind and lost {lost} records from offset {next}");
            return Err(TopicError::Failed(what.into()));
        };
        let records = log.kept.iter().skip(skip as usize).take(max);
        let entries = records.zip(next..).map(|((_, record), offset)| Entry {
            time_ms: 0,
            position: position(offset),
            record: record.clone(),
        });
        let before = batch.len();
        batch.extend(entries);
        self.next += (batch.len() - before) as u64;
        Ok(())
    }
}

impl Subscription for Reader {
    fn poll<'a>(
        &'a mut self,
        batch: &'a mut Vec<Entry>,
        max: usize,
    ) -> BoxFuture<'a, Result<(), TopicError>> {
        Box::pin(self.read(batch, max))
    }

    fn commit(&mut self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async {
            if let Some(group) = self.group {
                let mut log = self.shared.log.lock();
                let place = log.groups.entry(group).or_insert(0);
                *place = self.next.max(*place);
            }
            Ok(())
        })
    }
}

fn position(offset: u64) -> Position {
    Position {
        partition: 0,
        offset,
    }
}

/// Key, headers and value of one record, together, at most: as the journal.
pub const RECORD_BYTES_MAX: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_reader_too_far_behind_is_told() {
        let memory = Memory::new(2);
        let mut slow = memory.subscribe(Start::Latest).await.expect("subscribes");
        let record = Record {
            key: Bytes::new(),
            headers: Default::default(),
            value: Bytes::from_static(b"x"),
        };
        memory.append(vec![record; 3]).await;
        let lost = slow.poll(&mut Vec::new(), 10).await;
        assert!(matches!(lost, Err(TopicError::Failed(_))), "{lost:?}");
    }
}
