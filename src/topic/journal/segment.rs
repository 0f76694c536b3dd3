//! A segment: one file of blocks, named by the offset of its first record; and the shelf of all of them.
//!
//! A segment's head carries the salt of its blocks' checksums. Only the last segment grows.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::topic::journal::block::{self, Head};

/// What is known of one segment without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub base: u64,
    /// Offset after the last durable record.
    pub end: u64,
    /// Length up to the last durable block.
    pub bytes: u64,
    /// Time of the last block; 0 when there is none.
    pub last_ms: u64,
    pub salt: u32,
}

impl Segment {
    /// A segment without blocks.
    pub fn empty(base: u64, salt: u32) -> Segment {
        Segment {
            base,
            end: base,
            bytes: SEGMENT_HEAD_BYTES,
            last_ms: 0,
            salt,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.base == self.end
    }

    /// Takes in a block that became durable.
    pub fn grow(&mut self, block_bytes: u64, end: u64, time_ms: u64) {
        self.bytes += block_bytes;
        self.end = end;
        self.last_ms = time_ms;
    }
}

/// The retained segments, oldest first; there is always one.
pub(super) struct Shelf {
    folder: PathBuf,
    segments: VecDeque<Segment>,
    retention: Duration,
    retained_bytes_max: u64,
}

impl Shelf {
    pub fn new(
        folder: PathBuf,
        segments: VecDeque<Segment>,
        retention: Duration,
        retained_bytes_max: u64,
    ) -> Shelf {
        Shelf {
            folder,
            segments,
            retention,
            retained_bytes_max,
        }
    }

    /// Offset of the first retained record.
    pub fn first(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.base)
    }

    /// The segment that holds this record.
    pub fn find(&self, offset: u64) -> Option<Segment> {
        let after = self.segments.partition_point(|s| s.base <= offset);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (offset < segment.end).then_some(*segment)
    }

    /// The first segment with a block of that time or later.
    pub fn find_time(&self, time_ms: u64) -> Option<Segment> {
        let found = self.segments.iter().find(|s| s.last_ms >= time_ms);
        found.copied()
    }

    pub fn path(&self, base: u64) -> PathBuf {
        segment_path(&self.folder, base)
    }

    pub fn last_mut(&mut self) -> Option<&mut Segment> {
        self.segments.back_mut()
    }

    pub fn add(&mut self, segment: Segment) {
        self.segments.push_back(segment);
    }

    pub fn remove_first(&mut self) {
        self.segments.pop_front();
    }

    /// The oldest segment, if nobody needs it: all groups are past it (`committed` is the least of theirs), and it is
    /// old, or those like it are too many bytes. Without a group nothing is removed.
    pub fn removable(&self, committed: Option<u64>, now_ms: u64) -> Option<Segment> {
        let committed = committed?;
        let closed = self.segments.len().saturating_sub(1);
        let archived = self.segments.iter().take(closed);
        let archived = archived.take_while(|segment| segment.end <= committed);
        let oldest = archived.clone().next()?;
        let age = Duration::from_millis(now_ms.saturating_sub(oldest.last_ms));
        let bytes: u64 = archived.map(|segment| segment.bytes).sum();
        (age > self.retention || bytes > self.retained_bytes_max).then_some(*oldest)
    }

    pub fn count(&self) -> usize {
        self.segments.len()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// Steps through the heads of a segment's blocks without reading their records.
pub(super) struct Walk<'a> {
    pub file: &'a File,
    /// Where the next block begins.
    pub position: u64,
    /// Where the last block ends.
    pub limit: u64,
    /// Base offset that the next block must have.
    pub next: u64,
}

impl Walk<'_> {
    /// The next head, which lies at the position before the call. An error of kind `InvalidData` means a broken chain.
    pub fn step(&mut self) -> io::Result<Option<Head>> {
        if self.position == self.limit {
            return Ok(None);
        }
        let mut bytes = [0; block::HEAD_BYTES];
        let found = match self.file.read_exact_at(&mut bytes, self.position) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            Err(_) => None,
            Ok(()) => Head::parse(&bytes),
        };
        let follows = |head: &Head| {
            let end = self.position + head.block_bytes() as u64;
            head.base == self.next && end <= self.limit
        };
        let Some(head) = found.filter(follows) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.position += head.block_bytes() as u64;
        self.next = head.end();
        Ok(Some(head))
    }

    /// Moves to the block that holds `offset`, or to the end.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.stop_at(|head| head.end() > offset)
    }

    /// Moves to the first block of that time or later, or to the end.
    pub fn seek_time(&mut self, time_ms: u64) -> io::Result<()> {
        self.stop_at(|head| head.time_ms >= time_ms)
    }

    fn stop_at(&mut self, found: impl Fn(&Head) -> bool) -> io::Result<()> {
        loop {
            let before = (self.position, self.next);
            match self.step()? {
                Some(head) if found(&head) => {
                    (self.position, self.next) = before;
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}

/// Creates the file, over one that a crash may have left half made, and writes its head; nothing is synced yet.
pub(super) fn create(path: &Path, base: u64, salt: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all_at(&segment_head(base, salt), 0)?;
    Ok(file)
}

/// The salt, if the file's head is whole and belongs to this base offset.
pub(super) fn read_salt(file: &File, base: u64) -> io::Result<Option<u32>> {
    let mut bytes = [0; SEGMENT_HEAD_BYTES as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let salt = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    Ok((bytes == segment_head(base, salt)).then_some(salt))
}

pub(super) fn segment_path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("{base:020}.log"))
}

/// The base offset that a file name tells, if it is a segment's.
pub(super) fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// Makes names that were added or removed in the folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn segment_head(base: u64, salt: u32) -> [u8; SEGMENT_HEAD_BYTES as usize] {
    let mut head = [0; SEGMENT_HEAD_BYTES as usize];
    head[..8].copy_from_slice(FORMAT);
    head[8..16].copy_from_slice(&base.to_le_bytes());
    head[16..20].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&head[..20]);
    head[20..24].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Where a segment's first block begins.
pub(super) const SEGMENT_HEAD_BYTES: u64 = 24;
/// Name and version of the format.
const FORMAT: &[u8; 8] = b"chatlog\x01";

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(ends: &[u64]) -> Shelf {
        let mut base = 0;
        let segments = ends.iter().map(|end| {
            let mut segment = Segment::empty(base, 0);
            segment.grow(100, *end, *end);
            base = *end;
            segment
        });
        Shelf::new(
            PathBuf::new(),
            segments.collect(),
            Duration::from_millis(5),
            300,
        )
    }

    #[test]
    fn a_record_is_found_in_its_segment_only() {
        let shelf = shelf(&[10, 20, 25]);
        let base = |offset| shelf.find(offset).map(|segment| segment.base);
        assert_eq!([base(0), base(9), base(10)], [Some(0), Some(0), Some(10)]);
        assert_eq!([base(24), base(25)], [Some(20), None]);
    }

    #[test]
    fn only_what_every_group_has_left_behind_is_removable() {
        let shelf = shelf(&[10, 20, 25]);
        let base = |committed, now| shelf.removable(committed, now).map(|segment| segment.base);
        assert_eq!(base(Some(10), 16), Some(0));
        assert_eq!(base(Some(10), 15), None, "too young");
        assert_eq!(base(Some(9), 16), None, "not archived");
        assert_eq!(base(None, 16), None, "no group");
    }

    #[test]
    fn too_many_archived_bytes_are_removed_young_but_never_the_last_segment() {
        let four = shelf(&[10, 20, 25, 30]);
        assert_eq!(four.removable(Some(30), 0).map(|s| s.base), Some(0));
        assert_eq!(four.removable(Some(20), 0), None);
        assert_eq!(shelf(&[10]).removable(Some(10), 1_000), None);
    }

    #[test]
    fn names_tell_offsets() {
        let path = segment_path(Path::new(""), 42);
        let name = path.to_str().expect("ascii");
        assert_eq!(segment_base(name), Some(42));
        assert_eq!(segment_base("42.log"), None);
        assert_eq!(segment_base("+0000000000000000042.log"), None);
    }
}
