//! The store: messages that have left the log's tail, by conversation and place, for good.

pub mod embedded;
pub mod mongo;

use std::borrow::Cow;

use futures_util::future::BoxFuture;

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;

/// A durable set of messages.
pub trait Store: Send + Sync {
    /// Inserts those that are not there yet; a message with an id already stored is left as it is, and counts as done
    /// (so a replay neither doubles a message nor undoes a spam report). When this returns `Ok`, all but the poison
    /// ones are durable.
    fn insert_many<'a>(
        &'a self,
        batch: &'a [Message],
    ) -> BoxFuture<'a, Result<Inserted, StoreError>>;

    /// One page of a conversation, in the order of places: rising `seq`, then rising id.
    fn page<'a>(&'a self, query: PageQuery<'a>) -> BoxFuture<'a, Result<Vec<Message>, StoreError>>;

    /// The messages of these ids, those that are there, in any order.
    fn find<'a>(&'a self, ids: &'a [MessageId]) -> BoxFuture<'a, Result<Vec<Message>, StoreError>>;

    /// Sets `is_spam`, durably; the message as it is then, or `None` when there is none. Idempotent.
    fn report_spam(&self, id: MessageId) -> BoxFuture<'_, Result<Option<Message>, StoreError>>;

    /// Answers when the store can serve.
    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Makes everything durable and releases what is held.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// A page ends with the message that brings it to so many bytes, however many were asked for.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// Which messages of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct PageQuery<'a> {
    pub conversation: &'a ConversationId,
    pub cursor: Cursor,
    /// At most so many, nearest the cursor; fewer when they are large ([`PAGE_BYTES_MAX`]), but one if there is any.
    pub limit: usize,
}

/// Where a page begins. Places are compared by `seq`, then by id: the id only decides among messages from before the
/// log ([`Seq::NONE`]), which come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The newest messages.
    Newest,
    /// The first ones after this place.
    After(Seq, MessageId),
    /// The last ones before this place.
    Before(Seq, MessageId),
}

/// What a bulk insert did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// New ones.
    pub inserted: usize,
    /// Ones whose id was there already.
    pub duplicates: usize,
    /// Indexes into the batch of those that the store can never take, each with the cause.
    pub poison: Vec<(usize, Cow<'static, str>)>,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Passing: the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
    /// For good, in this process.
    #[error("the store has failed: {0}")]
    Failed(Cow<'static, str>),
}
