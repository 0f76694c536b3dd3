//! A log that other nodes append to as well.

use super::*;

/// A log that other nodes append to: its end is where the test says, or not to be known.
#[derive(Default)]
struct Far {
    end: AtomicU64,
    committed: AtomicU64,
    away: AtomicBool,
    asked: AtomicU64,
    /// Closed: no answer comes.
    gate: Option<tokio::sync::Semaphore>,
}

impl Topic for Far {
    fn append(&self, _: Vec<crate::topic::Record>) -> BoxFuture<'_, Vec<crate::topic::Outcome>> {
        Box::pin(async { Vec::new() })
    }

    fn subscribe(
        &self,
        _: crate::topic::Start,
    ) -> BoxFuture<'_, Result<Box<dyn crate::topic::Subscription>, TopicError>> {
        Box::pin(async { Err(TopicError::Closed) })
    }

    fn bounds(&self, _: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        Box::pin(async {
            Ok(vec![Bounds {
                partition: 0,
                committed: self.committed.load(Ordering::Relaxed),
                end: self.end.load(Ordering::Relaxed),
            }])
        })
    }

    fn ends(&self, _: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            match self.away.load(Ordering::Relaxed) {
                true => Err(TopicError::Unavailable("away".into())),
                false => Ok(vec![self.end.load(Ordering::Relaxed)]),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Setup {
    fn shared(self, topic: &Arc<Far>) -> Arc<Setup> {
        let history = self.history.shared(topic.clone(), "archive");
        Arc::new(Setup { history, ..self })
    }

    /// Runs a scenario while what other nodes do is followed.
    async fn followed<T>(&self, scenario: impl Future<Output = T>) -> T {
        tokio::select! {
            () = self.history.follow() => unreachable!("it follows for good"),
            done = scenario => done,
        }
    }
}

#[tokio::test]
async fn a_page_waits_for_what_another_node_appended() {
    let topic = Arc::new(Far::default());
    let setup = setup(1 << 20).shared(&topic);
    topic.end.store(1, Ordering::Relaxed);
    let page = setup.offsets(Place::Newest, 10);
    let feed = async {
        while topic.asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let mut batch = vec![Arrival {
            position: at(0),
            message: Some(message(0)),
            is_foreign: false,
        }];
        drop(setup.history.feed(&mut batch));
    };
    let both = futures_util::future::join(page, feed);
    assert_eq!(setup.followed(both).await.0, [0]);
}

#[tokio::test]
async fn while_a_shared_log_cannot_tell_its_end_pages_show_what_is_known_and_reports_wait() {
    let topic = Arc::new(Far::default());
    let setup = setup(1 << 20).shared(&topic);
    setup.feed(0, message(0));
    topic.end.store(1, Ordering::Relaxed);
    topic.away.store(true, Ordering::Relaxed);
    for cut_off in 1..=2 {
        let page = setup.offsets(Place::Newest, 10);
        assert_eq!(setup.followed(page).await, [0]);
        assert_eq!(setup.history.metrics.pages_cut_off.get(), cut_off);
    }
    let unknown = setup.followed(setup.history.caught_up()).await;
    assert!(matches!(unknown, Err(HistoryError::Unavailable(_))));
    topic.away.store(false, Ordering::Relaxed);
    let page = setup.offsets(Place::Newest, 10);
    assert_eq!(setup.followed(page).await, [0]);
    assert_eq!(setup.history.metrics.pages_cut_off.get(), 2);
}

#[tokio::test]
async fn one_question_serves_all_that_came_before_it_was_asked() {
    let topic = Arc::new(Far {
        gate: Some(tokio::sync::Semaphore::new(0)),
        ..Far::default()
    });
    let setup = setup(1 << 20).shared(&topic);
    let first = setup.history.caught_up();
    let rest = async {
        // The first question is under way: it may have been answered before these came, so it does not serve them.
        while topic.asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let all = futures_util::future::join_all((0..100).map(|_| setup.history.caught_up()));
        let open = async {
            tokio::task::yield_now().await;
            topic.gate.as_ref().unwrap().add_permits(100);
        };
        futures_util::future::join(all, open).await.0
    };
    let (first, rest) = setup
        .followed(futures_util::future::join(first, rest))
        .await;
    assert!(first.is_ok() && rest.iter().all(Result::is_ok));
    assert_eq!(topic.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_another_node_archived_leaves_the_tail_and_can_be_reported() {
    let topic = Arc::new(Far::default());
    let setup = setup(1 << 20).shared(&topic);
    setup.feed(0, message(0));
    topic.end.store(1, Ordering::Relaxed);
    let report = setup.history.report_spam(message(0).id);
    let archive = async {
        while topic.asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        setup.store.insert_many(&[message(0)]).await.unwrap();
        topic.committed.store(1, Ordering::Relaxed);
    };
    let both = futures_util::future::join(report, archive);
    let reported = setup.followed(both).await.0.unwrap().unwrap();
    assert!(reported.is_spam);
    assert_eq!(setup.history.lag(), 0);
    assert_eq!(setup.history.metrics.tail_messages.get(), 0);
}

#[tokio::test]
async fn of_two_copies_by_two_nodes_the_first_in_the_log_counts() {
    let topic = Arc::new(Far::default());
    let setup = setup(1 << 20).shared(&topic);
    setup.feed(0, message(0));
    let ours = Message {
        seq: Seq::new(1, 1),
        ..message(0)
    };
    setup.feed(1, ours);
    setup.feed(2, message(2));
    // What stands elsewhere is not waited for.
    setup.history.appended(at(8));
    let second = Duration::from_secs(1);
    let appended = [(message(0).id, at(1)), (message(2).id, at(2))];
    let earlier = setup.history.earlier(&appended, second).await.unwrap();
    assert_eq!(earlier.into_values().collect::<Vec<_>>(), [message(0)]);
    let unread = [(message(3).id, at(3))];
    let unknown = setup.history.earlier(&unread, Duration::ZERO).await;
    assert!(matches!(unknown, Err(HistoryError::Unavailable(_))));
}
