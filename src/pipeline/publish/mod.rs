//! The only way into the log: bounded lanes, each of which appends what queued while its last batch was under way.
//!
//! A lane takes a conversation's messages in the order submitted. Every submission ends in exactly one answer: the
//! message with its place, once the log has it durably, or a refusal.

mod resends;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tokio::sync::{Notify, oneshot};

use crate::chat::id::Seq;
use crate::chat::message::{Message, Sealed};
use crate::chat::rejection::Rejection;
use crate::disk::FreeSpace;
use crate::drain::{Drain, Stage, Tasks};
use crate::history::History;
use crate::hub::Hub;
use crate::hub::session::Session;
use crate::metrics::Metrics;
use crate::protocol::event;
use crate::topic::{Outcome, Position, Record, Topic, TopicError};

/// A full lane whose append, or wait for its turn, takes this long is not overrun: the log does not answer.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// Bytes of one append, and one message more: those of all lanes have to find room in the log's queue.
const APPEND_BYTES_MAX: usize = 4 << 20;

// === Publisher ===

/// Takes messages for the log. Shared by all that accept them.
pub struct Publisher {
    lanes: Box<[Lane]>,
    limits: LaneLimits,
    /// Messages submitted and not answered.
    open: AtomicUsize,
    idle: Notify,
    is_refusing: AtomicBool,
    space: Arc<FreeSpace>,
    /// When the store could not tell what was sent before.
    untold: Mutex<Option<Instant>>,
    parts: Parts,
}

/// What a lane works with.
pub struct Parts {
    pub topic: Arc<dyn Topic>,
    pub history: Arc<History>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
}

/// Bounds of each lane. By default those of a server that is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    pub messages_max: usize,
    pub bytes_max: usize,
    pub batch_max: usize,
    /// What has waited longer behind a log that does not answer is refused, not appended: its sender has given up.
    pub wait_max: Duration,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self {
            messages_max: 8_192,
            bytes_max: 32 << 20,
            batch_max: 4_096,
            wait_max: Duration::from_secs(30),
        }
    }
}

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    submissions: VecDeque<Submission>,
    bytes: usize,
    /// When the append under way, or the wait for its turn, began.
    appending: Option<Instant>,
}

struct Submission {
    sealed: Sealed,
    submitted: Instant,
    /// One, unless the same message was submitted again before it was appended.
    receipts: Receipts,
}

type Receipts = SmallVec<[Receipt; 1]>;

/// Who gets the answer to a submission.
pub enum Receipt {
    /// A socket: `messageSent` or `messageError`, and an acknowledgement when it asked for one.
    Socket {
        session: Arc<Session>,
        ack: Option<Box<str>>,
        client_message_id: Option<Box<str>>,
    },
    /// Somebody who waits.
    Waiter(oneshot::Sender<Result<Published, Rejection>>),
}

/// A message in the log.
#[derive(Clone, Debug)]
pub struct Published {
    pub message: Message,
    /// Whether it had been there before: the submission was a resend.
    pub is_resend: bool,
}

impl Publisher {
    pub fn new(lanes: usize, limits: LaneLimits, space: Arc<FreeSpace>, parts: Parts) -> Self {
        Self {
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
            limits,
            open: AtomicUsize::new(0),
            idle: Notify::new(),
            is_refusing: AtomicBool::new(false),
            space,
            untold: Mutex::new(None),
            parts,
        }
    }

    /// Queues a message for the log; never waits. On `Ok` the receipt will be answered; on `Err` nothing was queued and
    /// the receipt was not used.
    pub fn submit(&self, sealed: Sealed, receipt: Receipt) -> Result<(), Rejection> {
        if self.is_refusing.load(Ordering::Acquire) {
            return Err(Rejection::Draining);
        }
        if self.space.is_low() {
            return Err(Rejection::Unavailable);
        }
        let lane = self.lane(&sealed);
        let bytes = size(&sealed);
        let submission = Submission {
            sealed,
            submitted: Instant::now(),
            receipts: smallvec![receipt],
        };
        {
            let mut queue = lane.queue.lock();
            let is_full = queue.submissions.len() >= self.limits.messages_max
                || queue.bytes + bytes > self.limits.bytes_max;
            if is_full {
                let stalled = |began: Instant| began.elapsed() >= STALLED_AFTER;
                return Err(match queue.appending.is_some_and(stalled) {
                    true => Rejection::Unavailable,
                    false => Rejection::Busy,
                });
            }
            self.open.fetch_add(1, Ordering::AcqRel);
            queue.bytes += bytes;
            queue.submissions.push_back(submission);
        }
        lane.filled.notify_one();
        Ok(())
    }

    /// Queues a message and waits for its answer.
    pub async fn publish(&self, sealed: Sealed) -> Result<Published, Rejection> {
        let (answer, answered) = oneshot::channel();
        self.submit(sealed, Receipt::Waiter(answer))?;
        answered.await.unwrap_or(Err(Rejection::Unknown))
    }

    fn lane(&self, sealed: &Sealed) -> &Lane {
        let hash = FixedState::default().hash_one(sealed.conversation.as_bytes());
        &self.lanes[hash as usize % self.lanes.len()]
    }

    /// Starts the lanes' tasks. They end when the stop has come to [`Stage::Stopped`].
    pub fn start(self: &Arc<Self>, tasks: &Tasks, drain: &Drain) {
        for lane in 0..self.lanes.len() {
            let (publisher, drain) = (self.clone(), drain.clone());
            tasks.spawn("publish", async move {
                tokio::select! {
                    () = publisher.run(&publisher.lanes[lane]) => {}
                    () = drain.reached(Stage::Stopped) => {}
                }
            });
        }
    }

    /// Refuses messages from now on.
    pub fn refuse(&self) {
        self.is_refusing.store(true, Ordering::Release);
    }

    /// Waits until every submission has been answered.
    pub async fn flushed(&self) {
        loop {
            let idle = self.idle.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    async fn run(&self, lane: &Lane) {
        loop {
            let waiting = lane.queue.lock().submissions.len();
            if waiting == 0 {
                lane.filled.notified().await;
                continue;
            }
            lane.queue.lock().appending = Some(Instant::now());
            if waiting < self.limits.batch_max
                && let Some(turn) = self.parts.topic.turn()
            {
                turn.await;
            }
            let batch = self.take(lane);
            let count = batch.len();
            self.process(lane, batch).await;
            if self.open.fetch_sub(count, Ordering::AcqRel) == count {
                self.idle.notify_waiters();
            }
        }
    }

    fn take(&self, lane: &Lane) -> Vec<Submission> {
        let mut queue = lane.queue.lock();
        let mut bytes = 0;
        let fits = |one: &&Submission| {
            let has_room = bytes < APPEND_BYTES_MAX;
            bytes += size(&one.sealed);
            has_room
        };
        let waiting = queue.submissions.iter().take(self.limits.batch_max);
        let count = waiting.take_while(fits).count();
        let batch: Vec<_> = queue.submissions.drain(..count).collect();
        queue.bytes -= batch
            .iter()
            .map(|submission| size(&submission.sealed))
            .sum::<usize>();
        // The turn has come: what it took is no sign of a log that does not answer.
        queue.appending = Some(Instant::now());
        let metrics = &self.parts.metrics;
        metrics.lane_messages.set(queue.submissions.len() as i64);
        metrics.lane_bytes.set(queue.bytes as i64);
        batch
    }

    async fn process(&self, lane: &Lane, batch: Vec<Submission>) {
        let batch = self.refuse_late(batch);
        let batch = self.answer_resends(batch).await;
        if !batch.is_empty() {
            self.append(batch).await;
        }
        lane.queue.lock().appending = None;
    }

    /// Refuses those that waited too long; the rest is still to be appended.
    fn refuse_late(&self, batch: Vec<Submission>) -> Vec<Submission> {
        let now = Instant::now();
        let is_late = |one: &Submission| now.duration_since(one.submitted) > self.limits.wait_max;
        if !batch.iter().any(is_late) {
            return batch;
        }
        let (late, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_late);
        for submission in late {
            self.answer(submission.receipts, Err(Rejection::Unavailable), false);
        }
        rest
    }

    async fn append(&self, batch: Vec<Submission>) {
        let metrics = &self.parts.metrics;
        metrics.append_batch.observe(batch.len() as f64);
        let started = Instant::now();
        let mut records = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for one in batch {
            let sealed = one.sealed;
            waiting.push((one.receipts, sealed.at(Seq::NONE), sealed.may_be_resent));
            records.push(Record::from(sealed));
        }
        let mut outcomes = self.parts.topic.append(records).await.into_iter();
        metrics
            .append_seconds
            .observe(started.elapsed().as_secs_f64());
        let mut named = Vec::new();
        let parts = &self.parts;
        let may_stand_before = parts.history.is_shared() || parts.topic.may_append_late();
        for (receipts, mut message, may_be_resent) in waiting {
            // A topic that answers with too few outcomes has said nothing of the rest.
            let outcome = outcomes
                .next()
                .unwrap_or(Outcome::Unknown(TopicError::Closed));
            match outcome {
                Outcome::Appended(position) => {
                    self.parts.history.appended(position);
                    message.seq = self.parts.history.seq(position);
                    if may_be_resent && may_stand_before {
                        named.push((receipts, message, position));
                    } else {
                        self.accept(receipts, &message);
                    }
                }
                Outcome::NotAppended(error) => self.refuse_one(receipts, error),
                Outcome::Unknown(error) => {
                    tracing::warn!(%error, id = %message.id, "a message may or may not be in the log");
                    self.answer(receipts, Err(Rejection::Unknown), false);
                }
            }
        }
        self.accept_named(named).await;
    }

    fn accept(&self, receipts: Receipts, message: &Message) {
        self.parts.metrics.messages_accepted.inc();
        self.answer(receipts, Ok(message), false);
    }

    /// Answers for messages that may stand in the log before, appended by another node, or by us when we were not told:
    /// the first counts, and the log's reader knows which that is.
    async fn accept_named(&self, named: Vec<(Receipts, Message, Position)>) {
        if named.is_empty() {
            return;
        }
        let places: Vec<_> = named.iter().map(|(_, m, place)| (m.id, *place)).collect();
        // A log that stands still does so for its reader too, and an append may wait as long.
        let within = self.limits.wait_max;
        let earlier = self.parts.history.earlier(&places, within).await;
        for (receipts, message, _) in named {
            match &earlier {
                Ok(earlier) => match earlier.get(&message.id) {
                    Some(earlier) => self.accept_resend(receipts, earlier),
                    None => self.accept(receipts, &message),
                },
                Err(error) => {
                    // It is in the log, so it is not refused; which place it has cannot be told.
                    tracing::warn!(%error, id = %message.id, "a message may stand in the log twice");
                    self.answer(receipts, Err(Rejection::Unknown), false);
                }
            }
        }
    }

    fn accept_resend(&self, receipts: Receipts, first: &Message) {
        let resent = receipts.len() as u64;
        self.parts.metrics.messages_resent.inc_by(resent);
        self.answer(receipts, Ok(first), true);
    }

    fn refuse_one(&self, receipts: Receipts, error: TopicError) {
        let rejection = match error {
            TopicError::TooLarge => Rejection::TooLarge("the message is too large"),
            error => {
                tracing::warn!(%error, "a message was not appended");
                Rejection::Unavailable
            }
        };
        self.answer(receipts, Err(rejection), false);
    }

    fn answer(&self, receipts: Receipts, result: Result<&Message, Rejection>, is_resend: bool) {
        for (n, receipt) in receipts.into_iter().enumerate() {
            match receipt {
                Receipt::Socket {
                    session,
                    ack,
                    client_message_id,
                } => match result {
                    Ok(message) => self.confirm(&session, ack.as_deref(), message),
                    Err(rejection) => {
                        self.parts.metrics.refused(rejection.index());
                        let (ack, id) = (ack.as_deref(), client_message_id.as_deref());
                        refuse(&self.parts.hub, &session, ack, &rejection, id);
                    }
                },
                Receipt::Waiter(waiter) => {
                    let is_resend = is_resend || n > 0;
                    let published = result.map(|m| Published {
                        message: m.clone(),
                        is_resend,
                    });
                    // Who waited may have gone; the message is in the log all the same.
                    let _gone = waiter.send(published);
                }
            }
        }
    }

    fn confirm(&self, session: &Arc<Session>, ack: Option<&str>, message: &Message) {
        let ack = ack.map(|ack| event::ack_message(ack, message));
        let frames = [event::message_sent(message)].into_iter().chain(ack);
        self.parts.hub.send_all(session, frames);
        self.parts.hub.answered(session);
    }
}

/// Tells a socket that its message was refused: the answer to a message that [`Hub::asked`] has noted.
pub fn refuse(
    hub: &Hub,
    session: &Arc<Session>,
    ack: Option<&str>,
    rejection: &Rejection,
    client_message_id: Option<&str>,
) {
    hub.send(session, event::message_error(rejection, client_message_id));
    if let Some(ack) = ack {
        hub.send(session, event::ack_error(ack, rejection, client_message_id));
    }
    hub.answered(session);
}

/// What a submission counts for in its lane's bound.
fn size(sealed: &Sealed) -> usize {
    const OVERHEAD: usize = 256;
    sealed.value.len() + sealed.recipients.len() + sealed.conversation.as_bytes().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::chat::draft::Draft;
    use crate::chat::id::MessageId;
    use crate::history::Arrival;
    use crate::hub::HubLimits;
    use crate::store::embedded::EmbeddedStore;
    use crate::topic::memory::Memory;
    use crate::topic::{Bounds, Entry, Start, Subscription};

    /// Gives a turn when the test does, and remembers how many records came together.
    struct Paced {
        log: Memory,
        turns: Semaphore,
        asked: Notify,
        sizes: Mutex<Vec<usize>>,
    }

    impl Topic for Paced {
        fn may_append_late(&self) -> bool {
            true
        }

        fn turn(&self) -> Option<BoxFuture<'_, ()>> {
            self.asked.notify_one();
            Some(Box::pin(async {
                self.turns.acquire().await.unwrap().forget()
            }))
        }

        fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
            self.sizes.lock().push(batch.len());
            self.log.append(batch)
        }

        fn subscribe(&self, at: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
            self.log.subscribe(at)
        }

        fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
            self.log.bounds(group)
        }

        fn ends(&self, within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
            self.log.ends(within)
        }

        fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
            self.log.close()
        }
    }

    type Answer = Result<Published, Rejection>;

    const BATCH_MAX: usize = 3;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn paced() -> Arc<Paced> {
        Arc::new(Paced {
            log: Memory::new(100),
            turns: Semaphore::new(0),
            asked: Notify::new(),
            sizes: Mutex::default(),
        })
    }

    async fn publisher(topic: Arc<Paced>, folder: &std::path::Path) -> Arc<Publisher> {
        let metrics = Arc::new(Metrics::new(&[]));
        let store = Arc::new(EmbeddedStore::open(folder.join("store")).unwrap());
        let history = History::alone(&*topic, store, metrics.clone());
        let parts = Parts {
            history: Arc::new(history.await.unwrap()),
            topic,
            hub: Arc::new(Hub::new(HubLimits::default(), None, metrics.clone())),
            metrics,
        };
        let limits = LaneLimits {
            batch_max: BATCH_MAX,
            ..LaneLimits::default()
        };
        let space = FreeSpace::watch(folder.to_owned(), 0).unwrap();
        Arc::new(Publisher::new(1, limits, Arc::new(space), parts))
    }

    fn submit(publisher: &Publisher, count: usize) -> Vec<oneshot::Receiver<Answer>> {
        let draft = r#"{"sender_id":"a","receiver_id":"b","text_content":"t"}"#;
        let draft = Draft::parse(draft).unwrap();
        let answers = (0..count).map(|_| {
            let (answer, answered) = oneshot::channel();
            let sealed = draft.seal(MessageId([7; 12]), 1);
            let taken = publisher.submit(sealed, Receipt::Waiter(answer));
            taken.unwrap();
            answered
        });
        answers.collect()
    }

    async fn answered(answers: Vec<oneshot::Receiver<Answer>>) {
        for answer in answers {
            let answer = timeout(DEADLINE, answer).await;
            answer.expect("an answer in time").unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_comes_before_the_turn_goes_with_it_and_a_full_batch_waits_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let topic = paced();
        let publisher = publisher(topic.clone(), folder.path()).await;
        let drain = Drain::default();
        let tasks = Tasks::default();
        publisher.start(&tasks, &drain);
        let mut answers = submit(&publisher, 1);
        let asked = timeout(DEADLINE, topic.asked.notified()).await;
        asked.expect("the lane asks for a turn");
        answers.extend(submit(&publisher, BATCH_MAX - 2));
        assert!(topic.sizes.lock().is_empty());
        topic.turns.add_permits(1);
        answered(answers).await;
        answered(submit(&publisher, BATCH_MAX)).await;
        assert_eq!(*topic.sizes.lock(), vec![BATCH_MAX - 1, BATCH_MAX]);
        drain.advance(Stage::Stopped);
    }

    /// A client sends again what it was told nothing of; meanwhile the first copy has come into the log.
    #[tokio::test]
    async fn a_resend_behind_a_copy_that_came_late_is_answered_with_the_first_place() {
        let folder = tempfile::tempdir().unwrap();
        let topic = paced();
        topic.turns.add_permits(1);
        let publisher = publisher(topic.clone(), folder.path()).await;
        let mut log = topic.subscribe(Start::Latest).await.unwrap();
        let (drain, tasks) = (Drain::default(), Tasks::default());
        publisher.start(&tasks, &drain);
        let draft =
            r#"{"sender_id":"a","receiver_id":"b","text_content":"t","client_message_id":"m"}"#;
        let draft = Draft::parse(draft).unwrap();
        let sealed = || draft.seal(draft.derived_id().unwrap(), 1);
        topic.append(vec![Record::from(sealed())]).await;
        let history = &publisher.parts.history;
        let follow = async {
            let mut entries = Vec::new();
            while entries.len() < 2 {
                log.poll(&mut entries, 2).await.unwrap();
            }
            let arrival = |entry: &Entry| Arrival {
                position: entry.position,
                message: history.read(entry).ok(),
                is_foreign: false,
            };
            drop(history.feed(&mut entries.iter().map(arrival).collect()));
        };
        let both = futures_util::future::join(publisher.publish(sealed()), follow);
        let (published, ()) = timeout(DEADLINE, both).await.unwrap();
        let published = published.unwrap();
        assert_eq!(published.message.seq.offset(), 0);
        assert!(published.is_resend);
        drain.advance(Stage::Stopped);
    }

    #[tokio::test]
    async fn a_batch_ends_with_the_message_that_brings_it_to_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let topic = paced();
        let publisher = publisher(topic, folder.path()).await;
        let lane = &publisher.lanes[0];
        let half = APPEND_BYTES_MAX / 2;
        // The size counts more than the text; two of the second kind are just below the bound.
        for (text, taken) in [(half, 2), (half - 2_000, 3)] {
            let draft = format!(
                r#"{{"sender_id":"a","receiver_id":"b","text_content":"{}"}}"#,
                "x".repeat(text)
            );
            let draft = Draft::parse(&draft).unwrap();
            for _ in 0..3 {
                let receipt = Receipt::Waiter(oneshot::channel().0);
                let sealed = draft.seal(MessageId([7; 12]), 1);
                publisher.submit(sealed, receipt).unwrap();
            }
            assert_eq!(publisher.take(lane).len(), taken);
            while !publisher.take(lane).is_empty() {}
            assert_eq!(lane.queue.lock().bytes, 0);
        }
    }
}
