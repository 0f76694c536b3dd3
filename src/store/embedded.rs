//! The store in a folder of our own: fjall keyspaces, nothing to install.
//!
//! `messages` holds each message under conversation and place, so that a page is one range; `ids` leads from a
//! message's id to that key. Both are written in one atomic batch, synced to disk before a call returns `Ok`. After a
//! full disk it goes on by itself once there is space; after a failed sync it takes no more writes. One process at a
//! time may have the folder open.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use fjall::{PersistMode, Slice};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::{Mutex, RwLock};

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;
use crate::store::{Cursor, Inserted, PAGE_BYTES_MAX, PageQuery, Store, StoreError};

// === EmbeddedStore ===

/// A [`Store`] in a folder. Every call does its disk work on the runtime's blocking threads, one hop a call.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

impl EmbeddedStore {
    /// Opens the folder, made when missing. Blocks: recovery reads at most the journals' bound.
    ///
    /// The error names the folder, and says so when another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let tables = Tables::open(&path)?;
        let shared = Shared {
            path,
            tables: RwLock::new(Ok(tables)),
            writes: Mutex::new(Writes::Fine),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    fn blocking<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        async move {
            let done = tokio::task::spawn_blocking(move || work(&shared)).await;
            done.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string().into())))
        }
        .boxed()
    }
}

impl Store for EmbeddedStore {
    fn insert_many<'a>(
        &'a self,
        batch: &'a [Message],
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        let batch = batch.to_vec();
        self.blocking(move |shared| shared.write(|tables| tables.insert_many(&batch)))
    }

    fn page<'a>(&'a self, query: PageQuery<'a>) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        let conversation = query.conversation.clone();
        self.blocking(move |shared| {
            shared.read(|tables| tables.page(&conversation, query.cursor, query.limit))
        })
    }

    fn find<'a>(&'a self, ids: &'a [MessageId]) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        let ids = ids.to_vec();
        self.blocking(move |shared| shared.read(|tables| tables.find(&ids)))
    }

    fn report_spam(&self, id: MessageId) -> BoxFuture<'_, Result<Option<Message>, StoreError>> {
        self.blocking(move |shared| shared.write(|tables| tables.report_spam(id)))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // Persisting to the operating system's buffers is cheap, and refused once a write has failed.
        self.blocking(|shared| {
            shared.write(|tables| {
                let persisted = tables.db.persist(PersistMode::Buffer);
                persisted.map_err(Fault::Write)
            })
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.blocking(Shared::close)
    }
}

// === Shared ===

/// What calls under way hold together; the folder is free again when the tables are dropped.
struct Shared {
    path: PathBuf,
    tables: RwLock<Result<Tables, StoreError>>,
    /// Writers look before they write, so one at a time.
    writes: Mutex<Writes>,
}

/// Whether a write may be tried.
enum Writes {
    Fine,
    /// The engine takes no more writes, for lack of space or for trouble in its background work. All that was ever
    /// answered `Ok` is on disk, so opening anew is safe, and worth trying.
    Reopen,
    /// What the disk has of the last write is unknown: nothing can be promised any more.
    Failed(StoreError),
}

impl Shared {
    fn read<T>(&self, work: impl FnOnce(&Tables) -> Result<T, Fault>) -> Result<T, StoreError> {
        let tables = self.tables.read();
        work(tables.as_ref().map_err(Clone::clone)?)
            .map_err(|fault| StoreError::Unavailable(self.text(&fault)))
    }

    fn write<T>(&self, work: impl FnOnce(&Tables) -> Result<T, Fault>) -> Result<T, StoreError> {
        let mut writes = self.writes.lock();
        match &*writes {
            Writes::Fine => {}
            Writes::Reopen => self.reopen()?,
            Writes::Failed(error) => return Err(error.clone()),
        }
        *writes = Writes::Fine;
        let tables = self.tables.read();
        work(tables.as_ref().map_err(Clone::clone)?).map_err(|fault| {
            let text = self.text(&fault);
            let (next, error) = match fault {
                Fault::Write(fjall::Error::Io(error)) if !lacks_space(&error) => {
                    let error = StoreError::Failed(text);
                    (Writes::Failed(error.clone()), error)
                }
                Fault::Write(_) => (Writes::Reopen, StoreError::Unavailable(text)),
                Fault::Read(_) | Fault::Unreadable => (Writes::Fine, StoreError::Unavailable(text)),
            };
            *writes = next;
            error
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let free = rustix::fs::statvfs(&self.path).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        if free < REOPEN_FREE_BYTES_MIN {
            let text = format!("{}: the disk is full", self.path.display());
            return Err(StoreError::Unavailable(text.into()));
        }
        let mut tables = self.tables.write();
        if let Err(StoreError::Failed(cause)) = &*tables {
            return Err(StoreError::Failed(cause.clone()));
        }
        // The old ones go first: the engine's lock lets one in at a time.
        *tables = Err(StoreError::Unavailable("it is being opened anew".into()));
        *tables = Tables::open(&self.path);
        tables.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn close(&self) -> Result<(), StoreError> {
        let closed = Err(StoreError::Failed("it is closed".into()));
        let Ok(tables) = mem::replace(&mut *self.tables.write(), closed) else {
            return Ok(());
        };
        let synced = tables.db.persist(PersistMode::SyncAll);
        synced.map_err(|error| StoreError::Failed(self.text(&Fault::Write(error))))
    }

    fn text(&self, fault: &Fault) -> Cow<'static, str> {
        format!("{}: {fault}", self.path.display()).into()
    }
}

fn lacks_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

// === Tables ===

/// The database and its two keyspaces. All methods block.
struct Tables {
    db: Database,
    messages: Keyspace,
    ids: Keyspace,
}

impl Tables {
    fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_database(path).map_err(|error| {
            let folder = path.display();
            match error {
                fjall::Error::Locked => StoreError::Unavailable(
                    format!("the folder {folder} is in use by another process").into(),
                ),
                error => StoreError::Unavailable(
                    format!("cannot open the folder {folder}: {}", Cause(&error)).into(),
                ),
            }
        })
    }

    fn open_database(path: &Path) -> fjall::Result<Self> {
        let db = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(WORKER_THREADS)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let messages = db.keyspace("messages", message_options)?;
        let ids = db.keyspace("ids", id_options)?;
        Ok(Self { db, messages, ids })
    }

    fn insert_many(&self, messages: &[Message]) -> Result<Inserted, Fault> {
        let mut batch = self.durable_batch(2 * messages.len());
        let mut seen = HashSet::with_capacity(messages.len());
        let mut scratch = Vec::new();
        for message in messages {
            if !seen.insert(message.id) || self.ids.contains_key(message.id.0)? {
                continue;
            }
            let key = Slice::from(Key::of(message).bytes);
            scratch.clear();
            scratch.push(u8::from(message.is_spam));
            scratch.extend_from_slice(&message.body);
            batch.insert(&self.messages, key.clone(), scratch.as_slice());
            batch.insert(&self.ids, message.id.0, key);
        }
        let inserted = batch.len() / 2;
        batch.commit().map_err(Fault::Write)?;
        Ok(Inserted {
            inserted,
            duplicates: messages.len() - inserted,
            poison: Vec::new(),
        })
    }

    fn page(
        &self,
        conversation: &ConversationId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Vec<Message>, Fault> {
        let prefix = Key::prefix(conversation);
        let rows = self.messages.range(key_range(&prefix, cursor));
        let row = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            let place = key.get(prefix.len()..).ok_or(Fault::Unreadable)?;
            message(conversation.clone(), place, &value)
        };
        match cursor {
            Cursor::After(..) => bounded(rows.take(limit).map(row)),
            Cursor::Newest | Cursor::Before(..) => {
                let page = bounded(rows.rev().take(limit).map(row));
                page.map(|mut page| {
                    page.reverse();
                    page
                })
            }
        }
    }

    fn find(&self, ids: &[MessageId]) -> Result<Vec<Message>, Fault> {
        ids.iter()
            .filter_map(|id| self.one(*id).transpose())
            .map(|found| found.map(|(_, message)| message))
            .collect()
    }

    fn report_spam(&self, id: MessageId) -> Result<Option<Message>, Fault> {
        let Some((key, mut message)) = self.one(id)? else {
            return Ok(None);
        };
        if !message.is_spam {
            message.is_spam = true;
            let mut batch = self.durable_batch(1);
            let value = [&[1], message.body.as_ref()].concat();
            batch.insert(&self.messages, key, value);
            batch.commit().map_err(Fault::Write)?;
        }
        Ok(Some(message))
    }

    fn one(&self, id: MessageId) -> Result<Option<(Slice, Message)>, Fault> {
        let Some(key) = self.ids.get(id.0)? else {
            return Ok(None);
        };
        let value = self.messages.get(&key)?.ok_or(Fault::Unreadable)?;
        let (conversation, place) = Key::split(&key).ok_or(Fault::Unreadable)?;
        let message = message(conversation, place, &value)?;
        Ok(Some((key, message)))
    }

    /// A batch whose commit returns when the disk has it.
    fn durable_batch(&self, rows: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), rows)
            .durability(Some(PersistMode::SyncData))
    }
}

// === rows ===

/// The key of a message: its conversation's length (so that no conversation's keys lie among another's) and bytes, then
/// its place. The place is the `seq`, big-endian so that keys sort as it does, and the id, so that even a log that
/// counts anew by mistake overwrites nothing.
struct Key {
    bytes: Vec<u8>,
}

impl Key {
    fn of(message: &Message) -> Self {
        let mut bytes = Self::prefix(&message.conversation);
        bytes.extend_from_slice(&message.seq.0.to_be_bytes());
        bytes.extend_from_slice(&message.id.0);
        Self { bytes }
    }

    fn prefix(conversation: &ConversationId) -> Vec<u8> {
        let id = conversation.as_bytes();
        let length = u16::try_from(id.len()).expect("a conversation id has at most 1,024 bytes");
        let mut bytes = Vec::with_capacity(2 + id.len() + PLACE_BYTES);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(id);
        bytes
    }

    fn split(key: &[u8]) -> Option<(ConversationId, &[u8])> {
        let (length, rest) = key.split_first_chunk()?;
        let (id, place) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some((ConversationId::new(Bytes::copy_from_slice(id))?, place))
    }
}

/// The rows up to the one that brings them to [`PAGE_BYTES_MAX`]; no more are read.
fn bounded(rows: impl Iterator<Item = Result<Message, Fault>>) -> Result<Vec<Message>, Fault> {
    let mut page = Vec::new();
    let mut bytes = 0;
    for message in rows {
        let message = message?;
        bytes += message.size();
        page.push(message);
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
    }
    Ok(page)
}

/// The keys a page is taken from.
fn key_range(prefix: &[u8], cursor: Cursor) -> Range<Vec<u8>> {
    let at = |seq: Seq, id: MessageId| [prefix, &seq.0.to_be_bytes(), &id.0].concat();
    // No key is longer than a place, so one byte more is just behind it.
    let behind = |mut key: Vec<u8>| {
        key.push(0);
        key
    };
    let past_all = || [prefix, &[0xff; PLACE_BYTES + 1]].concat();
    match cursor {
        Cursor::Newest => prefix.to_vec()..past_all(),
        Cursor::After(seq, id) => behind(at(seq, id))..past_all(),
        Cursor::Before(seq, id) => prefix.to_vec()..at(seq, id),
    }
}

fn message(conversation: ConversationId, place: &[u8], value: &[u8]) -> Result<Message, Fault> {
    let (seq, id) = place.split_first_chunk().ok_or(Fault::Unreadable)?;
    let (is_spam, body) = value.split_first().ok_or(Fault::Unreadable)?;
    Ok(Message {
        id: MessageId(id.try_into().map_err(|_| Fault::Unreadable)?),
        conversation,
        seq: Seq(u64::from_be_bytes(*seq)),
        is_spam: *is_spam != 0,
        body: Bytes::copy_from_slice(body),
    })
}

// === faults ===

enum Fault {
    Read(fjall::Error),
    Write(fjall::Error),
    Unreadable,
}

impl From<fjall::Error> for Fault {
    fn from(error: fjall::Error) -> Self {
        Self::Read(error)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) | Self::Write(error) => Cause(error).fmt(f),
            Self::Unreadable => f.write_str("a stored message cannot be read"),
        }
    }
}

/// Shows what the engine says for people where it has words, for developers where it has none.
struct Cause<'a>(&'a fjall::Error);

impl Display for Cause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            fjall::Error::Io(error) => error.fmt(f),
            fjall::Error::Poisoned => f.write_str("an earlier write failed"),
            error => error.fmt(f),
        }
    }
}

// === options ===

/// Messages are read by range, or by a key known to be there: filters would only cost.
fn message_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MESSAGE_MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(MESSAGE_BLOCK_BYTES))
        .filter_policy(FilterPolicy::disabled())
}

/// Ids are mostly asked for in vain, by inserts: every level keeps a filter.
fn id_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(ID_MEMTABLE_BYTES)
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(
            BloomConstructionPolicy::BitsPerKey(12.0),
        )))
}

/// Bytes of a key after the conversation: `seq` and message id.
const PLACE_BYTES: usize = 8 + 12;

const CACHE_BYTES: u64 = 48 << 20;
const MESSAGE_MEMTABLE_BYTES: u64 = 16 << 20;
const ID_MEMTABLE_BYTES: u64 = 8 << 20;
/// About a page of history.
const MESSAGE_BLOCK_BYTES: u32 = 16 << 10;
/// Free space below which opening anew is not worth trying.
const REOPEN_FREE_BYTES_MIN: u64 = 1 << 20;
/// What an opening may have to read again.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
const WORKER_THREADS: usize = 1;
