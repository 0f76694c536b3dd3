//! The JavaScript client's own files, for pages that load `/socket.io/socket.io.js` from the server they talk to.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::http::range::if_none_match_names;
use crate::http::reply::{self, Reply};

/// Names that clients are distributed under. Nothing else in the folder is served.
const NAMES: [&str; 8] = [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
];

/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files, in memory.
#[derive(Debug, Default)]
pub struct ClientFiles {
    files: HashMap<&'static str, File>,
}

#[derive(Debug)]
struct File {
    content: Bytes,
    etag: HeaderValue,
}

impl ClientFiles {
    /// Reads those that are in the folder.
    ///
    /// # Errors
    /// One cannot be read, is larger than [`FILE_BYTES_MAX`], or there is none.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut files = HashMap::new();
        for name in NAMES {
            match fs::File::open(folder.join(name)) {
                Ok(file) => drop(files.insert(name, File::read(file, name)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if files.is_empty() {
            let why = "it holds no socket.io.js, socket.io.min.js or the like";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(Self { files })
    }

    /// The answer for what follows the Socket.IO path, if it is one of them.
    pub fn get(&self, name: &str, headers: &HeaderMap) -> Option<Reply> {
        let file = self.files.get(name)?;
        let tag = file.etag.to_str().ok();
        let known = headers
            .get(IF_NONE_MATCH)
            .and_then(|tags| tags.to_str().ok());
        let mut answer = if known.is_some_and(|tags| if_none_match_names(tags, tag)) {
            reply::empty(StatusCode::NOT_MODIFIED)
        } else {
            let kind = if name.ends_with(".map") {
                "application/json"
            } else {
                "text/javascript; charset=utf-8"
            };
            reply::reply(StatusCode::OK, kind, file.content.clone())
        };
        let headers = answer.headers_mut();
        headers.insert(ETAG, file.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=0"));
        Some(answer)
    }
}

impl File {
    fn read(file: fs::File, name: &str) -> io::Result<Self> {
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            let why = format!("{name} is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let digest = Sha256::digest(&content);
        let etag = format!("\"{}\"", hex(&digest[..16]));
        Ok(Self {
            content: content.into(),
            etag: HeaderValue::try_from(etag).expect("hex in quotes is a header's value"),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn only_the_clients_files_are_served() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("socket.io.js"), "js").unwrap();
        fs::write(folder.path().join("secret.js"), "no").unwrap();
        let files = ClientFiles::read(folder.path()).unwrap();
        let none = HeaderMap::new();
        let found = files.get("socket.io.js", &none).unwrap();
        assert_eq!(
            found.headers()[CONTENT_TYPE],
            "text/javascript; charset=utf-8"
        );
        for name in ["secret.js", "socket.io.min.js", "", "../socket.io.js"] {
            assert!(files.get(name, &none).is_none(), "{name}");
        }
        let tag = found.headers()[ETAG].clone();
        let again = HeaderMap::from_iter([(IF_NONE_MATCH, tag)]);
        let known = files.get("socket.io.js", &again).unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn a_file_may_be_so_large_and_no_larger() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("socket.io.js")).unwrap();
        file.set_len(FILE_BYTES_MAX).unwrap();
        assert!(ClientFiles::read(folder.path()).is_ok());
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(ClientFiles::read(folder.path()).is_err());
    }

    #[test]
    fn a_folder_without_them_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ClientFiles::read(folder.path()).is_err());
        assert!(ClientFiles::read(&folder.path().join("missing")).is_err());
    }
}
