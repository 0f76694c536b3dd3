mod shared;

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::store::Inserted;
use crate::topic::{Record, SharedRecord, Topic, TopicError};

/// A store of the test's own: a sorted list that can be told to fail.
#[derive(Default)]
struct List {
    messages: Mutex<Vec<Message>>,
    down: AtomicBool,
}

impl List {
    fn check(&self) -> Result<(), StoreError> {
        match self.down.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("down".into())),
            false => Ok(()),
        }
    }
}

impl Store for List {
    fn insert_many<'a>(
        &'a self,
        batch: &'a [Message],
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        Box::pin(async move {
            self.check()?;
            self.messages.lock().extend(batch.iter().cloned());
            Ok(Inserted {
                inserted: batch.len(),
                ..Inserted::default()
            })
        })
    }

    fn page<'a>(&'a self, query: PageQuery<'a>) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let all = self.messages.lock().clone();
            let all = all
                .into_iter()
                .filter(|m| m.conversation == *query.conversation);
            let inside: Vec<_> = match query.cursor {
                Cursor::Newest => all.collect(),
                Cursor::After(seq, id) => {
                    let after = all.filter(|m| m.place() > (seq, id));
                    after.take(query.limit).collect()
                }
                Cursor::Before(seq, id) => all.filter(|m| m.place() < (seq, id)).collect(),
            };
            Ok(inside[inside.len().saturating_sub(query.limit)..].to_vec())
        })
    }

    fn find<'a>(&'a self, ids: &'a [MessageId]) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let all = self.messages.lock().clone();
            Ok(all
                .into_iter()
                .filter(|message| ids.contains(&message.id))
                .collect())
        })
    }

    fn report_spam(&self, id: MessageId) -> BoxFuture<'_, Result<Option<Message>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let mut all = self.messages.lock();
            Ok(all
                .iter_mut()
                .find(|message| message.id == id)
                .map(|message| {
                    message.is_spam = true;
                    message.clone()
                }))
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.check() })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Setup {
    store: Arc<List>,
    history: History,
}

fn setup(tail_bytes_max: usize) -> Setup {
    let store = Arc::new(List::default());
    let bounds = [Bounds {
        partition: 0,
        committed: 0,
        end: 0,
    }];
    let limits = HistoryLimits {
        tail_bytes_max,
        recent_ids_max: 100,
    };
    let metrics = Arc::new(Metrics::new(&[]));
    let history = History::new(
        store.clone(),
        &bounds,
        Origin {
            epoch: 1,
            topic: "t",
        },
        limits,
        metrics,
    );
    Setup { store, history }
}

fn at(offset: u64) -> Position {
    Position {
        partition: 0,
        offset,
    }
}

fn conversation() -> ConversationId {
    ConversationId::new(Bytes::from_static(b"c")).unwrap()
}

fn message(offset: u64) -> Message {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&offset.to_be_bytes());
    Message {
        id: MessageId(id),
        conversation: conversation(),
        seq: Seq::new(1, offset),
        is_spam: false,
        body: Bytes::from(format!(
            "{{\"_id\":\"{}\",\"client_message_id\":\"x\"",
            MessageId(id)
        )),
    }
}

impl Setup {
    fn feed(&self, offset: u64, message: Message) -> bool {
        self.history.appended(at(offset));
        let mut batch = vec![Arrival {
            position: at(offset),
            message: Some(message),
            is_foreign: false,
        }];
        drop(self.history.feed(&mut batch));
        !batch.is_empty() && self.history.is_new(at(offset))
    }

    async fn archive(&self, offsets: std::ops::Range<u64>) {
        let batch: Vec<_> = offsets.clone().map(message).collect();
        self.store.insert_many(&batch).await.unwrap();
        self.history.archived(at(offsets.end));
    }

    async fn offsets(&self, place: Place, limit: usize) -> Vec<u64> {
        let page = self
            .history
            .page(&conversation(), place, limit)
            .await
            .unwrap();
        page.iter().map(|message| message.seq.offset()).collect()
    }
}

#[tokio::test]
async fn pages_cross_the_border_between_store_and_tail() {
    let setup = setup(1 << 20);
    for offset in 0..10 {
        assert!(setup.feed(offset, message(offset)));
    }
    setup.archive(0..5).await;
    assert_eq!(setup.offsets(Place::Newest, 7).await, [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(
        setup.offsets(Place::After(message(2).id), 4).await,
        [3, 4, 5, 6]
    );
    assert_eq!(
        setup.offsets(Place::Before(message(7).id), 4).await,
        [3, 4, 5, 6]
    );
    assert_eq!(
        setup.offsets(Place::Before(message(0).id), 4).await,
        [0u64; 0]
    );
}

#[tokio::test]
async fn messages_from_before_the_log_come_first_and_are_cursors_too() {
    let setup = setup(1 << 20);
    let old = [100, 101, 102].map(|n| Message {
        seq: Seq::NONE,
        ..message(n)
    });
    setup.store.insert_many(&old).await.unwrap();
    let new = [0, 1].map(message);
    for (offset, message) in new.iter().enumerate() {
        setup.feed(offset as u64, message.clone());
    }
    let whole = [&old[..], &new[..]].concat();
    for (index, message) in whole.iter().enumerate() {
        for limit in 1..=whole.len() {
            let page = async |place| setup.history.page(&conversation(), place, limit).await;
            let back = page(Place::Before(message.id)).await.unwrap();
            assert_eq!(back, whole[index.saturating_sub(limit)..index]);
            let on = page(Place::After(message.id)).await.unwrap();
            assert_eq!(on, whole[index + 1..whole.len().min(index + 1 + limit)]);
        }
    }
}

#[tokio::test]
async fn a_message_half_way_into_the_store_is_shown_once() {
    let setup = setup(1 << 20);
    for offset in 0..4 {
        setup.feed(offset, message(offset));
    }
    setup
        .store
        .insert_many(&[message(0), message(2)])
        .await
        .unwrap();
    assert_eq!(setup.offsets(Place::Newest, 10).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_second_copy_in_the_log_is_not_shown() {
    let setup = setup(1 << 20);
    assert!(setup.feed(0, message(0)));
    let copy = Message {
        seq: Seq::new(1, 1),
        ..message(0)
    };
    assert!(!setup.feed(1, copy));
    assert_eq!(setup.offsets(Place::Newest, 10).await, [0]);
}

#[tokio::test]
async fn a_page_waits_for_what_was_acknowledged() {
    let setup = Arc::new(setup(1 << 20));
    setup.history.appended(at(0));
    let reader = setup.clone();
    let page = async move { reader.offsets(Place::Newest, 10).await };
    let feed = async {
        tokio::task::yield_now().await;
        setup.feed(0, message(0));
    };
    assert_eq!(futures_util::future::join(page, feed).await.0, [0]);
}

#[tokio::test]
async fn a_cursor_of_another_conversation_is_unknown() {
    let setup = setup(1 << 20);
    setup.feed(0, message(0));
    let other = ConversationId::new(Bytes::from_static(b"other")).unwrap();
    let page = setup
        .history
        .page(&other, Place::After(message(0).id), 5)
        .await;
    assert!(matches!(page, Err(HistoryError::UnknownCursor)));
    let page = setup
        .history
        .page(&conversation(), Place::After(message(9).id), 5)
        .await;
    assert!(matches!(page, Err(HistoryError::UnknownCursor)));
}

#[tokio::test]
async fn a_spam_report_waits_until_the_message_is_stored() {
    let setup = Arc::new(setup(1 << 20));
    setup.feed(0, message(0));
    let reporter = setup.clone();
    let report = async move { reporter.history.report_spam(message(0).id).await.unwrap() };
    let archive = async {
        tokio::task::yield_now().await;
        setup.archive(0..1).await;
    };
    assert!(
        futures_util::future::join(report, archive)
            .await
            .0
            .unwrap()
            .is_spam
    );
    assert!(
        setup
            .history
            .report_spam(message(5).id)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn while_the_store_is_down_a_page_is_an_error_unless_the_tail_has_all_of_it() {
    let setup = setup(1 << 20);
    for offset in 0..4 {
        setup.feed(offset, message(offset));
    }
    setup.store.down.store(true, Ordering::Relaxed);
    assert_eq!(setup.offsets(Place::Newest, 4).await, [0, 1, 2, 3]);
    let page = setup.history.page(&conversation(), Place::Newest, 5).await;
    assert!(matches!(page, Err(HistoryError::Unavailable(_))));
}

#[tokio::test]
async fn over_its_bound_the_tail_forgets_and_pages_fail_until_the_store_has_caught_up() {
    let one = tail::Tail::new(0).push(message(0));
    let setup = setup(3 * one);
    for offset in 0..3 {
        setup.feed(offset, message(offset));
    }
    assert_eq!(
        setup.offsets(Place::Newest, 10).await,
        [0, 1, 2],
        "at the limit"
    );
    setup.feed(3, message(3));
    let page = setup.history.page(&conversation(), Place::Newest, 1).await;
    assert!(
        matches!(page, Err(HistoryError::Unavailable(_))),
        "one more"
    );
    // Nor is the one that was forgotten called missing: it would be appended again, at another place.
    let forgotten = [message(0).id, message(1).id];
    let unknown = setup.history.find(&forgotten).await;
    assert!(matches!(unknown, Err(HistoryError::Unavailable(_))));
    let found = |messages: &[Message], has_gap| Found {
        messages: messages.to_vec(),
        has_gap,
    };
    let known = setup.history.find_own(&forgotten).await.unwrap();
    assert_eq!(known, found(&[message(1)], true));
    let known = setup.history.find_own(&forgotten[1..]).await.unwrap();
    assert_eq!(known, found(&[message(1)], false));
    setup.archive(0..1).await;
    assert_eq!(setup.offsets(Place::Newest, 10).await, [0, 1, 2, 3]);
    let known = setup.history.find_own(&[message(0).id; 2]).await.unwrap();
    assert_eq!(known, found(&[message(0)], false));
    let known = setup.history.find_own(&[message(9).id]).await.unwrap();
    assert_eq!(known, found(&[], false));
}

#[tokio::test]
async fn another_producers_message_is_shown_once_however_often_it_was_written() {
    let setup = setup(1 << 20);
    let feed = |offset, is_foreign| {
        setup.history.appended(at(offset));
        let message = Message {
            body: Bytes::from_static(b"{"),
            seq: Seq::new(1, offset),
            ..message(7)
        };
        let mut batch = vec![Arrival {
            position: at(offset),
            message: Some(message),
            is_foreign,
        }];
        drop(setup.history.feed(&mut batch));
        !batch.is_empty()
    };
    assert!(feed(0, true) && feed(0, true), "read again");
    assert!(!feed(1, true));
    assert_eq!(setup.offsets(Place::Newest, 10).await, [0]);
}

#[tokio::test]
async fn a_foreign_record_is_read_as_a_message() {
    let setup = setup(1 << 20);
    let record = |value: &'static str| Entry {
        position: at(3),
        time_ms: 9,
        record: SharedRecord::from(Record {
            key: Bytes::new(),
            headers: Default::default(),
            value: Bytes::from_static(value.as_bytes()),
        }),
    };
    let plain = record(r#"{"sender_id":"a","receiver_id":"b","text_content":"t"}"#);
    let message = setup.history.read(&plain).unwrap();
    assert_eq!(
        (message.seq, message.conversation.as_str()),
        (Seq::new(1, 3), "a:b")
    );
    assert_eq!(message.id, foreign::id_of_place("t", 1, 0, 3));
    assert_eq!(message.receiver().as_deref(), Some("b"));
    assert!(setup.history.read(&record("{}")).is_err());
}

proptest! {
    #[test]
    fn any_page_is_the_one_of_the_whole(
        total in 0u64..30, archived in 0u64..30, cursor in 0u64..30, limit in 1usize..12, kind in 0..3,
    ) {
        let archived = archived.min(total);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let setup = setup(1 << 20);
            for offset in 0..total {
                setup.feed(offset, message(offset));
            }
            setup.archive(0..archived).await;
            let all: Vec<u64> = (0..total).collect();
            let (place, expected) = match kind {
                _ if cursor >= total => (Place::Newest, &all[all.len().saturating_sub(limit)..]),
                0 => (Place::Newest, &all[all.len().saturating_sub(limit)..]),
                1 => {
                    let rest = &all[cursor as usize + 1..];
                    (Place::After(message(cursor).id), &rest[..rest.len().min(limit)])
                }
                _ => {
                    let before = &all[..cursor as usize];
                    (Place::Before(message(cursor).id), &before[before.len().saturating_sub(limit)..])
                }
            };
            assert_eq!(setup.offsets(place, limit).await, expected);
        });
    }
}
