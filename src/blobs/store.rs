//! The store of files: opening it, reading from it, and why it cannot be used.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::chunked::ChunkedStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt};
use rustix::fs::{Access, access};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::chat::attachment::BlobName;
use crate::drain::{Drain, Tasks};

use super::folder;
use super::s3::{self, Bucket};

// === Blobs ===

/// Where files are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) place: Place,
    pub(super) tasks: Tasks,
    pub(super) drain: Drain,
    /// Bounds the parts under way, also of uploads that were given up.
    pub(super) parts: Arc<Semaphore>,
    /// Bounds what waits to be removed.
    pub(super) discards: Arc<Semaphore>,
}

impl Blobs {
    /// Opens the place and shows that it can be written to. A folder is made when missing, and what interrupted uploads
    /// left there is removed: one server a folder, for a second one's uploads under way would be taken for left over.
    /// Blocks; a bucket takes a thread of a runtime on which that is allowed.
    ///
    /// `tasks` run what has to happen even when the caller goes away; when `drain` begins, nothing is waited for that
    /// may take long.
    pub fn open(config: &BlobsConfig, tasks: Tasks, drain: Drain) -> Result<Self, OpenError> {
        match config {
            BlobsConfig::Folder(folder) => {
                let (store, folder) = open_folder(folder)?;
                Ok(Self::new(store, Place::Folder(folder), tasks, drain))
            }
            BlobsConfig::Bucket(bucket) => {
                let (store, links) = bucket.open().map_err(OpenError)?;
                let blobs = Self::new(store, Place::Bucket(links), tasks, drain);
                let proof = blobs.within(bucket.prove(&*blobs.store));
                let proven = tokio::runtime::Handle::current().block_on(proof);
                proven.map_err(|error| OpenError(format!("cannot use {bucket}: {error}")))?;
                Ok(blobs)
            }
        }
    }

    fn new(store: Arc<dyn ObjectStore>, place: Place, tasks: Tasks, drain: Drain) -> Self {
        Self {
            store,
            place,
            tasks,
            drain,
            parts: Arc::new(Semaphore::new(PARTS_MAX)),
            discards: Arc::new(Semaphore::new(DISCARDS_MAX)),
        }
    }

    /// A file, or `range` of it, which must lie within the file.
    pub async fn get(&self, name: &BlobName, range: Option<Range<u64>>) -> Result<Blob, BlobError> {
        let options = GetOptions {
            range: range.map(Into::into),
            ..GetOptions::default()
        };
        let got = self
            .within(self.store.get_opts(&location(name)?, options))
            .await?;
        Ok(Blob {
            info: info(&got.meta),
            range: got.range.clone(),
            stream: got.into_stream().map(some_bytes).boxed(),
        })
    }

    pub async fn head(&self, name: &BlobName) -> Result<BlobInfo, BlobError> {
        Ok(info(&self.within(self.store.head(&location(name)?)).await?))
    }

    /// A link by which anybody gets the file from the bucket's server for as long as `valid`, as the type and in
    /// the way that we would serve it. Does not look whether the file is there. A folder has no links: an error.
    pub async fn link(&self, name: &BlobName, valid: Duration) -> Result<String, BlobError> {
        let Place::Bucket(links) = &self.place else {
            return Err(BlobError::Unavailable("a folder has no links".into()));
        };
        let (path, media) = (location(name)?, name.media());
        let signed = links.sign(&path, media.content_type, media.disposition(), valid);
        Ok(self.within(signed).await?.into())
    }

    /// Removes a file; one that is not there counts as removed.
    pub async fn delete(&self, name: &BlobName) -> Result<(), BlobError> {
        match self.within(self.store.delete(&location(name)?)).await {
            Ok(()) | Err(BlobError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Answers when files can be written.
    pub async fn ping(&self) -> Result<(), BlobError> {
        let folder = match &self.place {
            Place::Folder(folder) => Arc::clone(folder),
            Place::Bucket(_) => return self.within(s3::ping(&*self.store)).await,
        };
        let access = move || access(&*folder, Access::WRITE_OK | Access::EXEC_OK);
        let answer = tokio::task::spawn_blocking(access).await;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BlobError::Unavailable(error.to_string().into())),
            Err(error) => Err(BlobError::Unavailable(error.to_string().into())),
        }
    }

    /// Waits for an answer: from a disk as long as it takes, from a server at most [`ANSWER_SECONDS_MAX`].
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BlobError> {
        match self.place {
            Place::Folder(_) => Ok(work.await?),
            Place::Bucket(_) => {
                let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
                let answer = tokio::time::timeout(limit, work).await;
                Ok(answer.map_err(|_| BlobError::Unavailable("no answer in time".into()))??)
            }
        }
    }

    /// Waits until one more part may be under way, no longer than for an answer.
    pub(super) async fn room_for_part(&self) -> Result<OwnedSemaphorePermit, BlobError> {
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let room = tokio::time::timeout(limit, self.parts.clone().acquire_owned()).await;
        match room {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(BlobError::Unavailable("too many parts wait".into())),
        }
    }

    /// What an upload holds in memory at most, in bytes.
    pub(super) fn part_bytes(&self) -> usize {
        match self.place {
            Place::Folder(_) => PART_BYTES,
            Place::Bucket(_) => s3::PART_BYTES,
        }
    }
}

fn open_folder(folder: &FsPath) -> Result<(Arc<dyn ObjectStore>, Arc<FsPath>), OpenError> {
    let cannot = |error: &dyn Error| {
        OpenError(format!(
            "cannot use the upload folder {}: {error}",
            folder.display()
        ))
    };
    let folder = folder::prepare(folder).map_err(|error| cannot(&error))?;
    let local = LocalFileSystem::new_with_prefix(&folder).map_err(|error| cannot(&error))?;
    let local = ChunkedStore::new(Arc::new(local.with_fsync(true)), READ_BYTES);
    Ok((Arc::new(local), folder.into()))
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Folder(Arc<FsPath>),
    Bucket(s3::Links),
}

/// Which place files go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobsConfig {
    Folder(PathBuf),
    Bucket(Bucket),
}

impl BlobsConfig {
    /// The URL when there is one (`file:///folder`, `s3://bucket/prefix`), else the folder `path`. For a bucket the
    /// AWS_ variables of the environment say where its server is and with which keys.
    pub fn choose(path: &FsPath, url: Option<&str>) -> Result<Self, OpenError> {
        let Some(url) = url else {
            return Ok(Self::Folder(path.to_owned()));
        };
        // The URL itself is not shown: it may hold a password.
        let wrong =
            || OpenError("the upload URL must be file:///FOLDER or s3://BUCKET/PREFIX".into());
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        match parsed.scheme() {
            "file" => parsed
                .to_file_path()
                .map(Self::Folder)
                .map_err(|()| wrong()),
            "s3" => Bucket::parse(&parsed).map(Self::Bucket).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// One sentence for the operator on why uploads cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

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
            // What the server says besides repeats the request.
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Self::Unavailable(
                "the server refuses AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY".into(),
            ),
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

// === places ===

pub(super) type Parts = Box<dyn MultipartUpload>;

pub(super) fn location(name: &BlobName) -> Result<Path, BlobError> {
    // A name that the store cannot have is the name of no file.
    Path::parse(name.as_str()).map_err(|_| BlobError::NotFound)
}

/// A server's answer is waited for no longer than this.
pub const ANSWER_SECONDS_MAX: u64 = 10;
/// How many files may wait to be removed from a server that is away; more are tried once.
const DISCARDS_MAX: usize = 1_024;
/// Parts on their way at once, whole and in memory.
const PARTS_MAX: usize = 64;
/// Written to a folder at once, so held in memory by an upload.
const PART_BYTES: usize = 256 << 10;
/// Read at once.
const READ_BYTES: usize = 64 << 10;
