//! A file on its way into the store: begun, written in parts, published, kept.
//!
//! What was asked of the store is waited for in a task of its own, also when the caller has gone: nothing can be
//! removed for sure while a request that adds to it is still under way.

use bytes::{Bytes, BytesMut};
use object_store::ObjectStoreExt;
use tokio::sync::oneshot;

use super::discard::{Sending, Unwanted};
use super::store::{BlobError, Blobs, Parts, Place, location};
use crate::chat::attachment::BlobName;

impl Blobs {
    /// Begins a file. Nothing is to be seen under `name` before [`Upload::finish`].
    pub async fn put(&self, name: BlobName) -> Result<Upload, BlobError> {
        let path = location(&name)?;
        let blobs = self.clone();
        let begun = self.run("begin upload", async move {
            let parts = blobs.within(blobs.store.put_multipart(&path)).await?;
            Ok(Upload {
                parts: Some(parts),
                sending: None,
                buffer: BytesMut::new(),
                size: 0,
                whole: true,
                name,
                blobs,
            })
        });
        begun.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Runs `work` to its end. What nobody waits for any more is dropped.
    fn run<T: Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (tell, told) = oneshot::channel();
        self.tasks.spawn(task, async move {
            let _unheard = tell.send(work.await);
        });
        told
    }

    /// Publishes the parts; when that fails, whatever is left of them is removed.
    async fn complete(self, mut parts: Parts, name: BlobName, size: u64) -> Finished {
        match self.within(parts.complete()).await {
            Ok(_) => Ok(Stored {
                size,
                kept: false,
                name,
                blobs: self,
            }),
            Err(error) => {
                if let Place::Folder(folder) = &self.place {
                    // The store lets go of its own file as soon as it begins to publish.
                    let left = folder.join(format!("{}#1", name.as_str()));
                    let removed = tokio::task::spawn_blocking(|| std::fs::remove_file(left));
                    let _gone_already = removed.await;
                    self.remove(name);
                } else {
                    let unwanted = Unwanted {
                        is_published: true,
                        is_unsettled: true,
                        ..Unwanted::unfinished(name, parts)
                    };
                    drop(self.discard(unwanted));
                }
                Err(error)
            }
        }
    }
}

// === Upload ===

/// A file being written. Dropped before [`Upload::finish`] has returned, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    /// `None` once handed to whoever publishes or removes them.
    parts: Option<Parts>,
    /// Tells what became of the part that is on its way.
    sending: Option<Sending>,
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
        let part_bytes = self.blobs.part_bytes();
        while self.buffer.len() >= part_bytes {
            let part = self.buffer.split_to(part_bytes).freeze();
            self.put_part(part).await?;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Publishes the file, synced to disk or acknowledged by the server. Cancelled meanwhile, the file is removed as
    /// soon as it is there.
    pub async fn finish(mut self) -> Finished {
        let rest = self.buffer.split().freeze();
        if !rest.is_empty() {
            self.put_part(rest).await?;
        }
        let parts = self.parts.take_if(|_| self.whole).ok_or_else(lost)?;
        let complete = self
            .blobs
            .clone()
            .complete(parts, self.name.clone(), self.size);
        // Unheard, the `Stored` that comes of it is dropped, which removes the file.
        let finished = self.blobs.run("finish upload", complete);
        finished.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Gives up, and returns when nothing is left, or the server cannot be reached to remove it now.
    pub async fn abort(mut self) {
        if let Some(unwanted) = self.unwanted() {
            let _stopping = self.blobs.discard(unwanted).await;
        }
    }

    async fn put_part(&mut self, part: Bytes) -> Result<(), BlobError> {
        let parts = self.parts.as_mut().filter(|_| self.whole);
        let parts = parts.ok_or_else(lost)?;
        self.whole = false;
        let room = self.blobs.room_for_part().await?;
        let (blobs, sent) = (self.blobs.clone(), parts.put_part(part.into()));
        let sending = self.sending.insert(self.blobs.run("send part", async move {
            let _room = room;
            blobs.within(sent).await
        }));
        let sent = sending.await.unwrap_or_else(|_| Err(stopping()));
        self.sending = None;
        sent?;
        self.whole = true;
        Ok(())
    }

    fn unwanted(&mut self) -> Option<Unwanted> {
        let unfinished = Unwanted::unfinished(self.name.clone(), self.parts.take()?);
        Some(Unwanted {
            is_unsettled: !self.whole && self.sending.is_none(),
            sending: self.sending.take(),
            ..unfinished
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(unwanted) = self.unwanted() {
            drop(self.blobs.discard(unwanted));
        }
    }
}

fn lost() -> BlobError {
    BlobError::Unavailable("a part was lost".into())
}

fn stopping() -> BlobError {
    BlobError::Unavailable("the server is stopping".into())
}

// === Stored ===

/// What [`Upload::finish`] comes to.
pub type Finished = Result<Stored, BlobError>;

/// A file that is published but not needed by anybody yet: dropped before [`Stored::keep`], it is removed.
#[derive(Debug)]
pub struct Stored {
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

    /// Lets the file stay. To be called before its message is handed to the log, since from then on the message may be
    /// there; when it certainly is not, [`Blobs::remove`] takes the file away.
    pub fn keep(mut self) -> BlobName {
        self.kept = true;
        self.name.clone()
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if !self.kept {
            self.blobs.remove(self.name.clone());
        }
    }
}
