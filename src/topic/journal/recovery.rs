//! Opening a folder of segments: what a crash left half written is cut, what is damaged is refused.
//!
//! One block is written and synced at a time, so a crash can only harm the end of the last segment. A bad block with
//! good ones after it, or in an earlier segment, means that records which were durable are gone: only a person may
//! decide that.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::topic::journal::block::{self, Head};
use crate::topic::journal::segment::{self, SEGMENT_HEAD_BYTES, Segment, Walk};

/// Why a journal could not be opened. A damaged one is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the journal in {}: stop it, or choose another folder", .0.display())]
    Locked(PathBuf),
    #[error("the journal's {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Records that were durable cannot be read.
    #[error(
        "the journal is damaged: {} at byte {position}: {what}. Restore the folder from a copy; or, to give up the records \
         from offset {offset} on, cut that file to {position} bytes and move the later .log files away",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        position: u64,
        /// First offset that cannot be read.
        offset: u64,
        what: &'static str,
    },
}

impl OpenError {
    /// For `map_err`: names the file.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    }
}

/// Checks all segments, cuts a torn end, and opens the last segment for writing; creates the first in an empty folder.
pub(super) fn recover(folder: &Path, salt: u32) -> Result<(VecDeque<Segment>, File), OpenError> {
    let bases = list(folder).map_err(OpenError::io(folder))?;
    let mut segments = VecDeque::with_capacity(bases.len().max(1));
    for pair in bases.windows(2) {
        segments.push_back(check_earlier(folder, pair[0], pair[1])?);
    }
    let base = bases.last().copied().unwrap_or(0);
    let (last, file) = match bases.is_empty() {
        true => begin(folder, base, salt)?,
        false => check_last(folder, base, salt)?,
    };
    segments.push_back(last);
    Ok((segments, file))
}

fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        bases.extend(name.to_str().and_then(segment::segment_base));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// An earlier segment: its chain of heads must lead to the next one's base. Its records are verified when they are
/// read.
fn check_earlier(folder: &Path, base: u64, next_base: u64) -> Result<Segment, OpenError> {
    let path = segment::segment_path(folder, base);
    let file = File::open(&path).map_err(OpenError::io(&path))?;
    let bytes = file.metadata().map_err(OpenError::io(&path))?.len();
    let damaged = |position, offset, what| OpenError::Damaged {
        path: path.clone(),
        position,
        offset,
        what,
    };
    let salt = segment::read_salt(&file, base).map_err(OpenError::io(&path))?;
    let salt = salt.ok_or_else(|| damaged(0, base, "the segment has no valid head"))?;
    let mut segment = Segment::empty(base, salt);
    let mut walk = Walk {
        file: &file,
        position: SEGMENT_HEAD_BYTES,
        limit: bytes,
        next: base,
    };
    loop {
        match walk.step() {
            Ok(Some(head)) => segment.grow(head.block_bytes() as u64, head.end(), head.time_ms),
            Ok(None) => break,
            // Its zeros were cut before the next segment was begun, yet the disk may have seen it otherwise.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let rest = read_from(&file, segment.bytes).map_err(OpenError::io(&path))?;
                if rest.iter().all(|byte| *byte == 0) {
                    break;
                }
                let what = "a block is damaged, yet a later segment follows";
                return Err(damaged(segment.bytes, segment.end, what));
            }
            Err(error) => return Err(OpenError::io(&path)(error)),
        }
    }
    if segment.end != next_base {
        let what = "the next segment does not follow on it";
        return Err(damaged(segment.bytes, segment.end, what));
    }
    Ok(segment)
}

fn check_last(folder: &Path, base: u64, salt: u32) -> Result<(Segment, File), OpenError> {
    let path = segment::segment_path(folder, base);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(&path);
    let file = file.map_err(OpenError::io(&path))?;
    let found = segment::read_salt(&file, base).map_err(OpenError::io(&path))?;
    let Some(found) = found else {
        return redo_head(folder, base, salt, &file);
    };
    let mut segment = Segment::empty(base, found);
    scan(&file, &mut segment).map_err(OpenError::io(&path))?;
    let rest = read_from(&file, segment.bytes).map_err(OpenError::io(&path))?;
    if let Some(at) = later_block(&rest, &segment) {
        tracing::error!(file = %path.display(), at = segment.bytes + at, "a good block follows a damaged one");
        return Err(OpenError::Damaged {
            path,
            position: segment.bytes,
            offset: segment.end,
            what: "a block is damaged, yet good blocks follow it",
        });
    }
    // Also what is whole may not be on the disk yet: a crash of the process alone came before its sync.
    cut(&file, &segment).map_err(OpenError::io(&path))?;
    if rest.iter().any(|byte| *byte != 0) {
        tracing::warn!(file = %path.display(), bytes = rest.len(), end = segment.end,
            "cut what a crash left half written at the journal's end");
    }
    Ok((segment, file))
}

/// A crash between creating a segment and syncing its head leaves no block in it; with blocks, the head was damaged
/// later.
fn redo_head(
    folder: &Path,
    base: u64,
    salt: u32,
    file: &File,
) -> Result<(Segment, File), OpenError> {
    let path = segment::segment_path(folder, base);
    let rest = read_from(file, SEGMENT_HEAD_BYTES).map_err(OpenError::io(&path))?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(OpenError::Damaged {
            path,
            position: 0,
            offset: base,
            what: "the segment has no valid head, yet it has content",
        });
    }
    tracing::warn!(file = %path.display(), "made anew a segment that a crash left half created");
    begin(folder, base, salt)
}

fn begin(folder: &Path, base: u64, salt: u32) -> Result<(Segment, File), OpenError> {
    let path = segment::segment_path(folder, base);
    let file = segment::create(&path, base, salt).map_err(OpenError::io(&path))?;
    file.sync_all().map_err(OpenError::io(&path))?;
    segment::sync_folder(folder).map_err(OpenError::io(folder))?;
    Ok((Segment::empty(base, salt), file))
}

/// Reads block by block, with checksums, up to the first that is not sound.
fn scan(file: &File, segment: &mut Segment) -> io::Result<()> {
    let file_bytes = file.metadata()?.len();
    let mut buffer = Vec::new();
    loop {
        let left = file_bytes - segment.bytes;
        buffer.resize(block::HEAD_BYTES.min(left as usize), 0);
        file.read_exact_at(&mut buffer, segment.bytes)?;
        let whole = Head::parse(&buffer).map(|head| head.block_bytes());
        let Some(whole) = whole.filter(|bytes| *bytes as u64 <= left) else {
            return Ok(());
        };
        buffer.resize(whole, 0);
        file.read_exact_at(&mut buffer, segment.bytes)?;
        match Head::verify(&buffer, segment.salt) {
            Some(head) if head.base == segment.end => {
                segment.grow(whole as u64, head.end(), head.time_ms);
            }
            _ => return Ok(()),
        }
    }
}

/// Where in `rest`, which begins after the last good block, a later good block lies.
fn later_block(rest: &[u8], segment: &Segment) -> Option<u64> {
    let places = memchr::memmem::find_iter(rest, &block::MAGIC);
    places
        .map(|at| (at, Head::verify(&rest[at..], segment.salt)))
        .find(|(_, head)| head.is_some_and(|head| head.base >= segment.end))
        .map(|(at, _)| at as u64)
}

fn read_from(file: &File, position: u64) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(position);
    let mut rest = vec![0; left as usize];
    file.read_exact_at(&mut rest, position)?;
    Ok(rest)
}

fn cut(file: &File, segment: &Segment) -> io::Result<()> {
    file.set_len(segment.bytes)?;
    file.sync_all()
}
