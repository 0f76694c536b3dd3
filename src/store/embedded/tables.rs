//! The database: its keyspaces, and what is read from and written to them. Everything here blocks.
//!
//! `messages` holds runs of messages under conversation and place ([`run`]), so that a page is one range; the index
//! leads from a message's id to its run. What belongs together is written in one atomic batch.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{mem, thread};

use fjall::KvSeparationOptions;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions};
use fjall::{OwnedWriteBatch, PersistMode, Slice};
use foldhash::fast::RandomState;

use super::fault::{Cause, Fault};
use super::index::{Index, Places};
use super::run::{self, Key};
use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;
use crate::store::{Cursor, Inserted, PAGE_BYTES_MAX, StoreError};

/// A run as the database hands it over.
type Run = run::Run<Slice, Slice>;

/// Rows of an insert that are written together, and where their messages are then.
struct Part {
    batch: OwnedWriteBatch,
    places: Places,
    messages: usize,
}

/// The database and what is in it.
pub struct Tables {
    db: Database,
    messages: Keyspace,
    index: Index,
    /// No message stored has a higher `seq`. What is above it needs no look at what is there.
    newest: AtomicU64,
}

impl Tables {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
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
        let index = Index::open(&db)?;
        let newest = match messages.get(NEWEST)? {
            Some(seq) => seq.as_ref().try_into().map_or(u64::MAX, u64::from_be_bytes),
            None if messages.is_empty()? => 0,
            // Written before there were runs: it is not known, and every insert looks.
            None => u64::MAX,
        };
        Ok(Self {
            db,
            messages,
            index,
            newest: newest.into(),
        })
    }

    /// Whether a write would be taken; cheap.
    pub fn ping(&self) -> Result<(), Fault> {
        // Persisting to the operating system's buffers is refused once a write has failed.
        self.db.persist(PersistMode::Buffer).map_err(Fault::Write)
    }

    pub fn sync(&self) -> Result<(), Fault> {
        self.db.persist(PersistMode::SyncAll).map_err(Fault::Write)
    }

    // --- inserts ---

    /// One caller at a time: what is there is looked up before it is written. In parts, each an atomic batch that is
    /// durable before the next: a call that failed may have left some, which the next finds there.
    ///
    /// Between parts the thread lets others have the processor: a long insert must not keep messages waiting.
    pub fn insert_many(&self, messages: &[Message]) -> Result<Inserted, Fault> {
        let fresh = self.fresh(messages)?;
        let mut by_conversation: HashMap<&ConversationId, Vec<&Message>, RandomState> =
            HashMap::default();
        for message in &fresh {
            let conversation = by_conversation.entry(&message.conversation);
            conversation.or_default().push(message);
        }
        let newest = self.newest.load(Relaxed);
        let highest = messages.iter().map(|message| message.seq.0).max();
        let highest = newest.max(highest.unwrap_or_default());
        let mut part = self.part();
        if highest > newest {
            // With the first part: what is stored is never newer.
            part.batch
                .insert(&self.messages, NEWEST, highest.to_be_bytes());
        }
        let mut writer = run::Writer::default();
        for mut messages in by_conversation.into_values() {
            messages.sort_by_key(|message| message.place());
            let (among, above) =
                messages.split_at(messages.partition_point(|message| message.seq.0 <= newest));
            self.make_room(&mut part, highest)?;
            self.put_among(&mut part.batch, among, &mut writer)?;
            part.messages += among.len();
            for run in run::cut(above) {
                self.make_room(&mut part, highest)?;
                self.put(&mut part.batch, &mut part.places, run, &mut writer);
                part.messages += run.len();
            }
        }
        self.commit(part, highest)?;
        if fresh.is_empty() {
            // What a call that failed has left may not be on the disk yet.
            self.db
                .persist(PersistMode::SyncData)
                .map_err(Fault::Write)?;
        }
        Ok(Inserted {
            inserted: fresh.len(),
            duplicates: messages.len() - fresh.len(),
            poison: Vec::new(),
        })
    }

    fn part(&self) -> Part {
        Part {
            batch: self.durable_batch(PART_ROWS),
            places: Places::default(),
            messages: 0,
        }
    }

    /// Commits a part that is full, and lets others have the processor.
    fn make_room(&self, part: &mut Part, highest: u64) -> Result<(), Fault> {
        if part.messages < PART_MESSAGES {
            return Ok(());
        }
        self.commit(mem::replace(part, self.part()), highest)?;
        thread::yield_now();
        Ok(())
    }

    fn commit(&self, mut part: Part, highest: u64) -> Result<(), Fault> {
        self.index.put(&mut part.batch, &mut part.places);
        // Before it is there: too high only means a look more, and a commit that fails is followed by an opening.
        self.newest.store(highest, Relaxed);
        part.batch.commit().map_err(Fault::Write)
    }

    /// A batch whose commit returns when the disk has it. No row may lie written and unsynced: a sync of the engine's
    /// own thread could fail for it, and the next one, of an insert that is then answered, would not be told.
    fn durable_batch(&self, rows: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), rows)
            .durability(Some(PersistMode::SyncData))
    }

    /// Those that are not there yet, of each id the first.
    fn fresh<'m>(&self, messages: &'m [Message]) -> Result<Vec<&'m Message>, Fault> {
        let mut ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        ids.sort_unstable();
        let mut known = self.index.stored(&ids)?;
        let mut fresh: Vec<&Message> = messages.iter().collect();
        if !known.is_empty() || ids.windows(2).any(|two| two[0] == two[1]) {
            fresh.retain(|message| known.insert(message.id));
        }
        Ok(fresh)
    }

    /// Writes a run. Adds where its messages are now.
    fn put(
        &self,
        batch: &mut OwnedWriteBatch,
        places: &mut Places,
        run: &[&Message],
        writer: &mut run::Writer,
    ) {
        let key = Slice::from(Key::of(&run[0].conversation).at(run[0].place()));
        batch.insert(&self.messages, key.clone(), writer.write(run));
        places.add(key, run.iter().map(|message| message.id));
    }

    /// Writes messages of one conversation, in rising order, that may belong before, behind or into runs that are
    /// there: the log's order is that of each of its partitions, and messages may come from before the log.
    fn put_among(
        &self,
        batch: &mut OwnedWriteBatch,
        messages: &[&Message],
        writer: &mut run::Writer,
    ) -> Result<(), Fault> {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let mut key = Key::of(&first.conversation);
            let at = key.at(first.place()).to_vec();
            let below = self.messages.range(key.start()..at.clone()).next_back();
            let mut below = below
                .map(run)
                .transpose()?
                .map(|run| all(&run))
                .transpose()?;
            let last = below
                .as_ref()
                .and_then(|below| below.last())
                .map(Message::place);
            let count = match last.filter(|last| *last > first.place()) {
                Some(last) => rest.partition_point(|message| message.place() < last),
                None => {
                    below = None;
                    match self.messages.range(at..key.end()).next() {
                        Some(above) => {
                            let next = run::first_place(&above.key()?);
                            let next = next.ok_or(Fault::Unreadable)?;
                            rest.partition_point(|message| message.place() < next)
                        }
                        None => rest.len(),
                    }
                }
            };
            let (now, later) = rest.split_at(count);
            let mut together: Vec<&Message> =
                below.iter().flatten().chain(now.iter().copied()).collect();
            together.sort_by_key(|message| message.place());
            let mut places = Places::default();
            for run in run::cut(&together) {
                self.put(batch, &mut places, run, writer);
            }
            // Each alone: some of them may have moved, and be in a pack with their old place.
            self.index.put_single(batch, &places);
            rest = later;
        }
        Ok(())
    }

    /// Sets the flag; the message as it is then.
    pub fn report_spam(&self, id: MessageId) -> Result<Option<Message>, Fault> {
        let Some(run) = self.run_of(id)? else {
            return Ok(None);
        };
        let mut messages = all(&run)?;
        let reported = messages.iter_mut().find(|message| message.id == id);
        let reported = reported.ok_or(Fault::Unreadable)?;
        let is_new = !mem::replace(&mut reported.is_spam, true);
        let reported = reported.clone();
        if is_new {
            let mut writer = run::Writer::default();
            let value = writer.write(&messages.iter().collect::<Vec<_>>());
            let mut batch = self.durable_batch(1);
            batch.insert(&self.messages, run.key, value);
            batch.commit().map_err(Fault::Write)?;
        }
        Ok(Some(reported))
    }

    // --- reads ---

    pub fn page(
        &self,
        conversation: &ConversationId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Vec<Message>, Fault> {
        let mut key = Key::of(conversation);
        let (start, end) = (key.start(), key.end());
        let page = Page::new(conversation, limit);
        match cursor {
            Cursor::Newest => {
                let runs = self.messages.range(start..end).rev();
                page.fill(Direction::Falling, runs, |_| true)
            }
            Cursor::Before(seq, id) => {
                let runs = self.messages.range(start..key.at((seq, id)).to_vec());
                page.fill(Direction::Falling, runs.rev(), |place| place < (seq, id))
            }
            Cursor::After(seq, id) => {
                let at = key.at((seq, id)).to_vec();
                // The cursor may stand within a run, which then begins before it.
                let within = self.messages.range(start..at.clone()).next_back();
                let runs = within.into_iter().chain(self.messages.range(at..end));
                page.fill(Direction::Rising, runs, |place| place > (seq, id))
            }
        }
    }

    pub fn find(&self, ids: &[MessageId]) -> Result<Vec<Message>, Fault> {
        let mut found = Vec::new();
        for id in ids {
            if let Some(run) = self.run_of(*id)? {
                let rows = run.rows().ok_or(Fault::Unreadable)?;
                let row = rows.into_iter().find(|row| row.id == *id);
                let conversation = run.conversation().ok_or(Fault::Unreadable)?;
                found.push(row.ok_or(Fault::Unreadable)?.to_message(&conversation));
            }
        }
        Ok(found)
    }

    fn run_of(&self, id: MessageId) -> Result<Option<Run>, Fault> {
        let Some(key) = self.index.get(id)? else {
            return Ok(None);
        };
        let value = self.messages.get(&key)?.ok_or(Fault::Unreadable)?;
        Ok(Some(Run::new(key, value)))
    }
}

fn run(guard: Guard) -> Result<Run, Fault> {
    let (key, value) = guard.into_inner()?;
    Ok(Run::new(key, value))
}

fn all(run: &Run) -> Result<Vec<Message>, Fault> {
    let conversation = run.conversation().ok_or(Fault::Unreadable)?;
    let rows = run.rows().ok_or(Fault::Unreadable)?;
    Ok(rows
        .into_iter()
        .map(|row| row.to_message(&conversation))
        .collect())
}

// === Page ===

/// Which way runs are read. A page is in rising order either way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Rising,
    Falling,
}

/// Messages of one conversation, up to the limit, or up to the one that brings them to [`PAGE_BYTES_MAX`]; no run is
/// read behind that.
struct Page<'a> {
    conversation: &'a ConversationId,
    limit: usize,
    bytes: usize,
    messages: Vec<Message>,
}

impl<'a> Page<'a> {
    fn new(conversation: &'a ConversationId, limit: usize) -> Self {
        Self {
            conversation,
            limit,
            bytes: 0,
            messages: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }

    fn push(&mut self, row: run::Row<'_>) {
        if !self.is_full() {
            let message = row.to_message(self.conversation);
            self.bytes += message.size();
            self.messages.push(message);
        }
    }

    /// Takes the messages that belong to the page from runs that lie in this direction.
    fn fill(
        mut self,
        direction: Direction,
        mut runs: impl Iterator<Item = Guard>,
        belongs: impl Fn((Seq, MessageId)) -> bool,
    ) -> Result<Vec<Message>, Fault> {
        while !self.is_full()
            && let Some(guard) = runs.next()
        {
            let run = run(guard)?;
            let mut rows = run.rows().ok_or(Fault::Unreadable)?;
            if direction == Direction::Falling {
                rows.reverse();
            }
            let rows = rows.into_iter().filter(|row| belongs(row.place()));
            rows.for_each(|row| self.push(row));
        }
        if direction == Direction::Falling {
            self.messages.reverse();
        }
        Ok(self.messages)
    }
}

// === options ===

/// Messages are read by range, or by a key known to be there: filters would only cost.
fn message_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MESSAGE_MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(MESSAGE_BLOCK_BYTES))
        .filter_policy(FilterPolicy::disabled())
        .with_kv_separation(Some(
            KvSeparationOptions::default()
                .separation_threshold(APART_BYTES_MIN)
                .compression(CompressionType::None),
        ))
}

/// A part has a run more at most, or what one conversation has that belongs between older ones. It takes about a
/// millisecond.
const PART_MESSAGES: usize = 1_024;
/// About.
const PART_ROWS: usize = 64;

/// Key of the highest `seq` stored: that of a conversation with an empty name, which there is not.
const NEWEST: &[u8] = &[0, 0];

const CACHE_BYTES: u64 = 48 << 20;
const MESSAGE_MEMTABLE_BYTES: u64 = 16 << 20;
/// About a page of history.
const MESSAGE_BLOCK_BYTES: u32 = 16 << 10;
/// Runs of so many bytes are kept apart from their keys, and not copied when keys are merged. What can be packed is
/// packed already.
const APART_BYTES_MIN: u32 = 1 << 10;
/// What an opening may have to read again.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
const WORKER_THREADS: usize = 1;
