//! Uploaded files, in an object store: a folder of this machine, or a bucket of an S3 server.
//!
//! A file appears under its name whole and synced, or not at all. Whatever is not finished and kept is removed, also
//! when the request that wrote it is cancelled and when the server is away just then; what a crash leaves is removed at
//! the next start of a folder, and by a lifecycle rule of a bucket. Memory per transfer is bounded by one part. A
//! server that does not answer ends every request within [`ANSWER_SECONDS_MAX`].

mod discard;
mod folder;
mod s3;
mod store;
mod upload;

pub use s3::Bucket;
pub use store::{ANSWER_SECONDS_MAX, Blob, BlobError, BlobInfo, Blobs, BlobsConfig, OpenError};
pub use upload::{Finished, Stored, Upload};
