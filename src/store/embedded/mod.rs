//! The store in a folder of our own: fjall keyspaces, nothing to install.
//!
//! A call that writes returns `Ok` when the disk has it. After a full disk it goes on by itself once
//! there is space; after a failed sync it takes no more writes. One process at a time may have the folder open.

mod fault;
mod index;
pub mod run;
mod tables;

use std::borrow::Cow;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::{Mutex, RwLock};

use self::fault::Fault;
use self::tables::Tables;
use crate::chat::id::MessageId;
use crate::chat::message::Message;
use crate::store::{Inserted, PageQuery, Store, StoreError};

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
        self.blocking(|shared| shared.write(Tables::ping))
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
        let synced = tables.sync();
        synced.map_err(|fault| StoreError::Failed(self.text(&fault)))
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

/// Free space below which opening anew is not worth trying.
const REOPEN_FREE_BYTES_MIN: u64 = 1 << 20;
