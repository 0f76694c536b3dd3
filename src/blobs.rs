//! Uploaded files, in an object store: a folder of this machine.
//!
//! A file appears under its name whole and synced, or not at all. Whatever is not finished and kept is removed, also
//! when the request that wrote it is cancelled; what a crash leaves is removed at the next start. Memory per transfer
//! is bounded by one part.

use std::borrow::Cow;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::chunked::ChunkedStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt};
use rustix::fs::{Access, access};
use tokio::sync::oneshot;
use url::Url;

use crate::chat::attachment::BlobName;
use crate::drain::Tasks;

// === Blobs ===

/// Where files are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    folder: Arc<FsPath>,
    tasks: Tasks,
}

impl Blobs {
    /// Opens the place, made when missing, and removes what interrupted uploads left there. One server a folder: a
    /// second one's uploads under way would be taken for left over. Blocks.
    ///
    /// `tasks` run what has to happen even when the caller goes away.
    pub fn open(config: &BlobsConfig, tasks: Tasks) -> Result<Self, OpenError> {
        let BlobsConfig::Folder(folder) = config;
        let cannot = |error: &dyn Error| {
            OpenError(format!(
                "cannot use the upload folder {}: {error}",
                folder.display()
            ))
        };
        let folder = prepare(folder).map_err(|error| cannot(&error))?;
        let local = LocalFileSystem::new_with_prefix(&folder).map_err(|error| cannot(&error))?;
        let local = ChunkedStore::new(Arc::new(local.with_fsync(true)), READ_BYTES);
        Ok(Self {
            store: Arc::new(local),
            folder: folder.into(),
            tasks,
        })
    }

    /// Begins a file. Nothing is to be seen under `name` before [`Upload::finish`].
    pub async fn put(&self, name: BlobName) -> Result<Upload, BlobError> {
        let parts = self.store.put_multipart(&location(&name)?).await?;
        Ok(Upload {
            parts: Some(parts),
            buffer: BytesMut::new(),
            size: 0,
            whole: true,
            name,
            blobs: self.clone(),
        })
    }

    /// A file, or `range` of it, which must lie within the file.
    pub async fn get(&self, name: &BlobName, range: Option<Range<u64>>) -> Result<Blob, BlobError> {
        let options = GetOptions {
            range: range.map(Into::into),
            ..GetOptions::default()
        };
        let got = self.store.get_opts(&location(name)?, options).await?;
        Ok(Blob {
            info: info(&got.meta),
            range: got.range.clone(),
            stream: got.into_stream().map(some_bytes).boxed(),
        })
    }

    pub async fn head(&self, name: &BlobName) -> Result<BlobInfo, BlobError> {
        Ok(info(&self.store.head(&location(name)?).await?))
    }

    /// Removes a file; one that is not there counts as removed.
    pub async fn delete(&self, name: &BlobName) -> Result<(), BlobError> {
        match self.store.delete(&location(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers when files can be written.
    pub async fn ping(&self) -> Result<(), BlobError> {
        let folder = Arc::clone(&self.folder);
        let access = move || access(&*folder, Access::WRITE_OK | Access::EXEC_OK);
        let answer = tokio::task::spawn_blocking(access).await;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BlobError::Unavailable(error.to_string().into())),
            Err(error) => Err(BlobError::Unavailable(error.to_string().into())),
        }
    }

    /// Removes a file, finished or half finished, in a task of its own. Sends when that is done.
    fn discard(&self, name: BlobName, parts: Option<Parts>) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        // Without a runtime the whole process is ending: parts dropped remove themselves, the rest is for the next
        // start.
        if tokio::runtime::Handle::try_current().is_ok() {
            let blobs = self.clone();
            self.tasks.spawn("discard upload", async move {
                match parts {
                    Some(parts) => blobs.abort(parts).await,
                    None => blobs.remove(&name).await,
                }
                // Nobody may be waiting.
                let _unheard = done.send(());
            });
        }
        receiver
    }

    async fn abort(&self, mut parts: Parts) {
        if let Err(error) = parts.abort().await {
            tracing::warn!(%error, "an unfinished upload could not be removed");
        }
    }

    async fn remove(&self, name: &BlobName) {
        if let Err(error) = self.delete(name).await {
            tracing::warn!(%error, name = name.as_str(), "a file nobody needs could not be removed");
        }
    }

    /// Publishes the parts; when that fails, whichever of them are left behind are removed.
    async fn complete(self, mut parts: Parts, name: BlobName, size: u64) -> Finished {
        match parts.complete().await {
            Ok(put) => Ok(Stored {
                etag: put.e_tag,
                size,
                kept: false,
                name,
                blobs: self,
            }),
            Err(error) => {
                // The store lets go of its own file as soon as it begins to publish.
                let left = self.folder.join(format!("{}#1", name.as_str()));
                let _gone_already = tokio::task::spawn_blocking(|| fs::remove_file(left)).await;
                self.remove(&name).await;
                Err(error.into())
            }
        }
    }
}

/// Which place files go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobsConfig {
    Folder(PathBuf),
}

impl BlobsConfig {
    /// The URL when there is one (`file:///folder`), else the folder `path`.
    pub fn choose(path: &FsPath, url: Option<&str>) -> Result<Self, OpenError> {
        let Some(url) = url else {
            return Ok(Self::Folder(path.to_owned()));
        };
        let parsed = Url::parse(url).ok();
        let folder = parsed
            .filter(|url| url.scheme() == "file")
            .and_then(|url| url.to_file_path().ok());
        folder.map(Self::Folder).ok_or_else(|| {
            // The URL itself is not shown: it may hold a password.
            OpenError("the upload URL must be file:///FOLDER".to_owned())
        })
    }
}

/// One sentence for the operator on why uploads cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

// === Upload ===

/// A file being written. Dropped before [`Upload::finish`] has returned, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    /// `None` once handed to whoever publishes or removes them.
    parts: Option<Parts>,
    buffer: BytesMut,
    size: u64,
    /// No part was lost: cleared while one is on its way.
    whole: bool,
    name: BlobName,
    blobs: Blobs,
}

impl Upload {
    /// Appends. After an error, or when this was cancelled, the upload can only be dropped.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.put_part(part).await?;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Publishes the file, synced to disk. Cancelled meanwhile, the file is removed as soon as it is there.
    pub async fn finish(mut self) -> Finished {
        let rest = self.buffer.split().freeze();
        if !rest.is_empty() {
            self.put_part(rest).await?;
        }
        let parts = self.parts.take().filter(|_| self.whole);
        let parts = parts.ok_or_else(|| BlobError::Unavailable("a part was lost".into()))?;
        let (tell, told) = oneshot::channel();
        let (blobs, name) = (self.blobs.clone(), self.name.clone());
        let complete = blobs.complete(parts, name, self.size);
        self.blobs.tasks.spawn("finish upload", async move {
            // Unheard, the `Stored` in it is dropped, which removes the file.
            let _unheard = tell.send(complete.await);
        });
        told.await
            .unwrap_or_else(|_| Err(BlobError::Unavailable("the server is stopping".into())))
    }

    /// Gives up, and returns when nothing is left.
    pub async fn abort(mut self) {
        if let Some(parts) = self.parts.take() {
            let done = self.blobs.discard(self.name.clone(), Some(parts));
            let _stopping = done.await;
        }
    }

    async fn put_part(&mut self, part: Bytes) -> Result<(), BlobError> {
        let lost = || BlobError::Unavailable("a part was lost".into());
        let parts = self
            .parts
            .as_mut()
            .filter(|_| self.whole)
            .ok_or_else(lost)?;
        self.whole = false;
        parts.put_part(part.into()).await?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            drop(self.blobs.discard(self.name.clone(), Some(parts)));
        }
    }
}

/// What [`Upload::finish`] comes to.
pub type Finished = Result<Stored, BlobError>;

/// A file that is published but not needed by anybody yet: dropped before [`Stored::keep`], it is removed.
#[derive(Debug)]
pub struct Stored {
    etag: Option<String>,
    size: u64,
    kept: bool,
    name: BlobName,
    blobs: Blobs,
}

impl Stored {
    pub fn name(&self) -> &BlobName {
        &self.name
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Lets the file stay. To be called before its message is handed to the log, since from then on the message may be
    /// there; when it certainly is not, [`Blobs::delete`] takes the file away.
    pub fn keep(mut self) -> BlobName {
        self.kept = true;
        self.name.clone()
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if !self.kept {
            drop(self.blobs.discard(self.name.clone(), None));
        }
    }
}

// === Blob ===

/// A file to be read.
pub struct Blob {
    pub info: BlobInfo,
    /// The bytes that the stream gives.
    pub range: Range<u64>,
    pub stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

/// What is known of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Bytes of the whole file.
    pub size: u64,
    /// Strong, with its quotes.
    pub etag: Option<String>,
    pub modified: SystemTime,
}

fn info(meta: &ObjectMeta) -> BlobInfo {
    BlobInfo {
        size: meta.size,
        etag: meta.e_tag.clone(),
        modified: meta.last_modified.into(),
    }
}

/// A file cut short under its reader gives empty chunks for ever: the first one ends it.
fn some_bytes(chunk: object_store::Result<Bytes>) -> Result<Bytes, BlobError> {
    match chunk? {
        bytes if bytes.is_empty() => Err(BlobError::Unavailable("the file ends early".into())),
        bytes => Ok(bytes),
    }
}

// === BlobError ===

/// Why a file cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("there is no such file")]
    NotFound,
    /// The disk, or the share of it that we may use, is full.
    #[error("there is no space for the file")]
    NoSpace,
    #[error("the file store is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            error if lacks_space(&error) => Self::NoSpace,
            error => Self::Unavailable(error.to_string().into()),
        }
    }
}

fn lacks_space(error: &object_store::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(
            kind,
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        )
    })
}

// === the folder ===

type Parts = Box<dyn MultipartUpload>;

fn location(name: &BlobName) -> Result<Path, BlobError> {
    // A name that the store cannot have is the name of no file.
    Path::parse(name.as_str()).map_err(|_| BlobError::NotFound)
}

fn prepare(folder: &FsPath) -> io::Result<PathBuf> {
    let made = !folder.try_exists()?;
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    if made {
        // Else a loss of power could take the folder, and files that messages already name. Not all folders above may
        // be opened, so as many as can be.
        for above in folder.ancestors().skip(1) {
            let _best_effort = File::open(above).and_then(|above| above.sync_all());
        }
    }
    let proof = folder.join(format!(".writable-{}", std::process::id()));
    File::create(&proof)?;
    fs::remove_file(&proof)?;
    remove_left_overs(&folder, SystemTime::now())?;
    Ok(folder)
}

/// Removes files that uploads before `now` did not finish: named as the store does it, our name and `#` and a number.
fn remove_left_overs(folder: &FsPath, now: SystemTime) -> io::Result<()> {
    let mut removed = 0_u64;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_staged(&entry.file_name().to_string_lossy()) && entry.metadata()?.modified()? < now {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, "removed what interrupted uploads had left");
    }
    Ok(())
}

fn is_staged(file_name: &str) -> bool {
    file_name.split_once('#').is_some_and(|(name, number)| {
        let ours = BlobName::parse(name).is_some_and(|name| name.is_ours());
        ours && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Written at once, so held in memory by an upload.
const PART_BYTES: usize = 256 << 10;
/// Read at once.
const READ_BYTES: usize = 64 << 10;
