//! `POST /api/chat/upload/:conversation_id`: a file streamed into the object store, then a message about it the way of
//! all messages. No message without its file, and no file left without a message.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use multer::Field;
use tokio::sync::{Semaphore, oneshot};

use crate::api::messages::{conversation_id, json};
use crate::api::multipart::{self, FORM_OVERHEAD, Form};
use crate::blobs::{BlobError, Blobs, Stored};
use crate::chat::attachment::{self, BlobName};
use crate::chat::draft::{Attachment, Draft};
use crate::chat::id::MessageIdMaker;
use crate::chat::message::Sealed;
use crate::chat::rejection::Rejection;
use crate::disk::FreeSpace;
use crate::drain::Tasks;
use crate::history::History;
use crate::http::body::declared_length;
use crate::http::reply::{self, Body, Error, Reply};
use crate::metrics::Metrics;
use crate::pipeline::publish::{Published, Publisher};

/// Bytes at the beginning of a file that tell its type.
const SNIFF_BYTES: usize = 512;

/// Takes uploads.
pub struct Uploads {
    pub blobs: Blobs,
    pub publisher: Arc<Publisher>,
    pub history: Arc<History>,
    pub ids: Arc<MessageIdMaker>,
    pub space: Arc<FreeSpace>,
    pub metrics: Arc<Metrics>,
    /// What has to end once it was begun runs here.
    pub tasks: Tasks,
    pub file_bytes_max: u64,
    /// Uploads that may be under way.
    pub slots: Semaphore,
    /// Time and randomness, handed in.
    pub unix_ms: fn() -> u64,
    pub random: fn() -> [u8; 16],
}

/// What a form said.
#[derive(Default)]
struct Fields {
    sender: Option<String>,
    receiver: Option<String>,
    text: Option<String>,
    client_message_id: Option<String>,
    file: Option<File>,
}

struct File {
    stored: Stored,
    name: String,
    media_type: String,
}

impl Uploads {
    /// Takes one upload: 201 with its message, or 200 with the first one's when it was uploaded before.
    pub async fn upload(&self, conversation: &str, request: Request<Body>) -> Reply {
        self.try_upload(conversation, request)
            .await
            .unwrap_or_else(Error::reply)
    }

    async fn try_upload(&self, conversation: &str, request: Request<Body>) -> Result<Reply, Error> {
        let conversation = conversation_id(conversation)?;
        if self.space.is_low() {
            return Err(no_space());
        }
        self.check_length(request.headers())?;
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(Error::unavailable(
                "too many uploads are under way, try again",
            ));
        };
        let (parts, body) = request.into_parts();
        let form = Form::new(&parts.headers, body, self.file_bytes_max)?;
        let fields = self.read(form).await?;
        let published = self
            .publish(conversation.as_str().to_owned(), fields)
            .await?;
        let status = if published.is_resend {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        Ok(reply::json(status, json(&published.message)))
    }

    fn check_length(&self, headers: &HeaderMap) -> Result<(), Error> {
        let length = declared_length(headers);
        match length {
            Some(length) if length > self.file_bytes_max.saturating_add(FORM_OVERHEAD) => {
                Err(too_large())
            }
            _ => Ok(()),
        }
    }

    /// Reads the form to its end. Of a repeated field the first counts.
    async fn read(&self, mut form: Form) -> Result<Fields, Error> {
        let mut fields = Fields::default();
        while let Some(field) = form.next().await? {
            let place = match field.name() {
                Some("attachment") if fields.file.is_none() => {
                    fields.file = Some(self.store(field).await?);
                    continue;
                }
                Some("sender_id") => &mut fields.sender,
                Some("receiver_id") => &mut fields.receiver,
                Some("text_content") => &mut fields.text,
                Some("client_message_id") => &mut fields.client_message_id,
                _ => {
                    multipart::skip(field).await?;
                    continue;
                }
            };
            let text = multipart::text(field).await?;
            place.get_or_insert(text);
        }
        Ok(fields)
    }

    async fn store(&self, mut field: Field<'static>) -> Result<File, Error> {
        let name = attachment::file_name(field.file_name().unwrap_or_default());
        let claimed = field.content_type().map(ToString::to_string);
        let mut head = BytesMut::new();
        while head.len() < SNIFF_BYTES {
            match multipart::chunk(&mut field).await? {
                Some(chunk) => head.extend_from_slice(&chunk),
                None => break,
            }
        }
        if head.is_empty() {
            return Err(Error::invalid("the file is empty"));
        }
        let sniffed = &head[..head.len().min(SNIFF_BYTES)];
        let media_type = attachment::media_type(sniffed, claimed.as_deref(), &name);
        let blob = BlobName::new((self.random)(), &media_type);
        let mut upload = self.blobs.put(blob).await.map_err(blob_error)?;
        let mut next = Some(head.freeze());
        while let Some(chunk) = next {
            self.check_size(upload.size(), &chunk)?;
            upload.write(chunk).await.map_err(blob_error)?;
            next = multipart::chunk(&mut field).await?;
        }
        let stored = upload.finish().await.map_err(blob_error)?;
        Ok(File {
            stored,
            name,
            media_type,
        })
    }

    fn check_size(&self, written: u64, chunk: &Bytes) -> Result<(), Error> {
        if written + chunk.len() as u64 > self.file_bytes_max {
            return Err(too_large());
        }
        Ok(())
    }

    async fn publish(&self, conversation: String, fields: Fields) -> Result<Published, Error> {
        let File {
            stored,
            name,
            media_type,
        } = fields
            .file
            .ok_or(Error::invalid("the form has no file named attachment"))?;
        let url = format!("/uploads/{}", stored.name().as_str());
        let draft = Draft::attachment(Attachment {
            sender: fields.sender.unwrap_or_default(),
            receiver: fields.receiver.unwrap_or_default(),
            conversation,
            text: fields.text,
            client_message_id: fields.client_message_id,
            url,
            filename: name,
            mimetype: media_type,
        })?;
        let derived = draft.derived_id();
        if let Some(id) = derived
            && let Some(message) = self.first(id).await?
        {
            // The file of a resend is not kept: `stored` is dropped here.
            return Ok(Published {
                message,
                is_resend: true,
            });
        }
        let unix_ms = (self.unix_ms)();
        let id = derived.unwrap_or_else(|| self.ids.fresh(unix_ms / 1000));
        Ok(self.append(draft.seal(id, unix_ms), stored).await?)
    }

    /// Hands the message to the log, and settles what becomes of its file, in a task of its own: a client that goes
    /// away meanwhile does not leave that open.
    async fn append(&self, sealed: Sealed, stored: Stored) -> Result<Published, Rejection> {
        let (answer, answered) = oneshot::channel();
        let (publisher, metrics) = (self.publisher.clone(), self.metrics.clone());
        let blobs = self.blobs.clone();
        let size = stored.size();
        // From here on the message may be in the log, so its file has to stay whatever becomes of this request.
        let blob = stored.keep();
        self.tasks.spawn("publish upload", async move {
            let published = publisher.publish(sealed).await;
            match &published {
                Ok(Published {
                    is_resend: false, ..
                }) => {
                    metrics.uploads.inc();
                    metrics.upload_bytes.inc_by(size);
                }
                // It may be in the log, so it may need its file.
                Err(Rejection::Unknown) => {}
                Ok(_) | Err(_) => blobs.remove(blob),
            }
            // The client may have gone.
            let _unheard = answer.send(published);
        });
        answered.await.unwrap_or(Err(Rejection::Unknown))
    }

    async fn first(
        &self,
        id: crate::chat::id::MessageId,
    ) -> Result<Option<crate::chat::message::Message>, Error> {
        let found = self.history.find(&[id]).await;
        let found =
            found.map_err(|_| Error::unavailable("history is not available now, try again"))?;
        Ok(found.into_iter().next())
    }
}

fn too_large() -> Error {
    Error::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "the file is too large",
    )
}

fn no_space() -> Error {
    Error::new(
        StatusCode::INSUFFICIENT_STORAGE,
        "no_space",
        "there is no space for files now",
    )
}

pub(super) fn blob_error(error: BlobError) -> Error {
    match error {
        BlobError::NotFound => Error::NOT_FOUND,
        BlobError::NoSpace => no_space(),
        BlobError::Unavailable(cause) => {
            tracing::warn!(%cause, "the file store failed");
            Error::unavailable("files are not available now, try again")
        }
    }
}
