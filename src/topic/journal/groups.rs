//! The groups' places: one small file a group, two checksummed slots in it which are written in turns.
//!
//! A commit is not synced: after loss of power a group may find an older place and read some records again.
//! A group is known from its first subscription on, and for good: its file keeps segments from being removed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Buf;

use crate::topic::journal::segment::sync_folder;

/// All groups of a journal.
pub(super) struct Groups {
    folder: PathBuf,
    known: HashMap<String, Group>,
    closed: bool,
}

struct Group {
    file: File,
    place: Option<Place>,
}

/// What one slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Counts the commits; the higher slot is the valid one.
    turn: u64,
    committed: u64,
}

impl Groups {
    /// Reads the groups in the folder. `end` is the log's: a place beyond it comes from records that are gone.
    pub fn open(folder: &Path, end: u64) -> io::Result<Groups> {
        fs::create_dir_all(folder)?;
        let mut groups = Groups {
            folder: folder.to_owned(),
            known: HashMap::new(),
            closed: false,
        };
        for entry in fs::read_dir(folder)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if is_name(&name) {
                groups.load(&name, end)?;
            }
        }
        Ok(groups)
    }

    /// The group's place, if it ever committed.
    pub fn committed(&self, name: &str) -> Option<u64> {
        let place = self.known.get(name)?.place?;
        Some(place.committed)
    }

    /// Makes the group known, durably.
    pub fn join(&mut self, name: &str) -> io::Result<()> {
        if self.closed || !is_name(name) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !self.known.contains_key(name) {
            let file = open_file(&self.folder.join(name))?;
            file.sync_all()?;
            sync_folder(&self.folder)?;
            let place = None;
            self.known.insert(name.to_owned(), Group { file, place });
        }
        Ok(())
    }

    /// Moves the group's place forward; never back.
    pub fn commit(&mut self, name: &str, committed: u64) -> io::Result<()> {
        match self.known.get_mut(name) {
            _ if self.closed => Err(io::ErrorKind::BrokenPipe.into()),
            None => Err(io::ErrorKind::NotFound.into()),
            Some(group) if group.place.is_some_and(|p| p.committed >= committed) => Ok(()),
            Some(group) => group.put(committed),
        }
    }

    /// The least place of all groups; `None` when there is no group, or one that never committed.
    pub fn least(&self) -> Option<u64> {
        let mut places = self.known.values().map(|group| group.place);
        let first = places.next()??.committed;
        places.try_fold(first, |least, place| Some(least.min(place?.committed)))
    }

    /// Refuses commits from now on: the folder may belong to another process.
    pub fn close(&mut self) {
        self.closed = true;
    }

    fn load(&mut self, name: &str, end: u64) -> io::Result<()> {
        let file = open_file(&self.folder.join(name))?;
        let mut group = Group {
            place: read_place(&file)?,
            file,
        };
        if let Some(place) = group.place.filter(|place| place.committed > end) {
            tracing::warn!(
                group = name,
                committed = place.committed,
                end,
                "the group is beyond the log's end"
            );
            group.put(end)?;
        }
        self.known.insert(name.to_owned(), group);
        Ok(())
    }
}

impl Group {
    fn put(&mut self, committed: u64) -> io::Result<()> {
        let turn = self.place.map_or(0, |place| place.turn) + 1;
        let place = Place { turn, committed };
        self.file
            .write_all_at(&encode(place), turn % 2 * SLOT_BYTES as u64)?;
        self.place = Some(place);
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn read_place(file: &File) -> io::Result<Option<Place>> {
    let mut slots = [0; SLOT_BYTES * 2];
    let mut filled = 0;
    while filled < slots.len() {
        match file.read_at(&mut slots[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    let places = slots.chunks_exact(SLOT_BYTES).filter_map(decode);
    Ok(places.max_by_key(|place| place.turn))
}

fn encode(place: Place) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&place.turn.to_le_bytes());
    slot[8..16].copy_from_slice(&place.committed.to_le_bytes());
    let crc = crc32fast::hash(&slot[..16]);
    slot[16..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(mut slot: &[u8]) -> Option<Place> {
    let crc = crc32fast::hash(slot.get(..16)?);
    let place = Place {
        turn: slot.get_u64_le(),
        committed: slot.get_u64_le(),
    };
    (slot.get_u32_le() == crc && place.turn > 0).then_some(place)
}

/// A group's name is a file's name.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=100).contains(&name.len()) && name.bytes().all(plain)
}

const SLOT_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_and_never_move_back() {
        let folder = tempfile::tempdir().expect("folder");
        let mut groups = Groups::open(folder.path(), 0).expect("opens");
        assert_eq!(groups.least(), None);
        groups.join("archive").expect("joins");
        for committed in [3, 9, 7] {
            groups.commit("archive", committed).expect("commits");
        }
        let again = Groups::open(folder.path(), 100).expect("opens");
        assert_eq!(again.committed("archive"), Some(9));
        let shorter = Groups::open(folder.path(), 5).expect("opens");
        assert_eq!(shorter.committed("archive"), Some(5));
    }

    #[test]
    fn a_torn_slot_leaves_the_place_before() {
        let folder = tempfile::tempdir().expect("folder");
        let mut groups = Groups::open(folder.path(), 0).expect("opens");
        groups.join("archive").expect("joins");
        groups.commit("archive", 3).expect("commits");
        groups.commit("archive", 9).expect("commits");
        let file = open_file(&folder.path().join("archive")).expect("opens");
        file.write_all_at(&[7], 9).expect("writes");
        let again = Groups::open(folder.path(), 100).expect("opens");
        assert_eq!(again.committed("archive"), Some(3));
    }

    #[test]
    fn the_least_place_waits_for_groups_that_never_committed() {
        let folder = tempfile::tempdir().expect("folder");
        let mut groups = Groups::open(folder.path(), 0).expect("opens");
        groups.join("archive").expect("joins");
        groups.commit("archive", 3).expect("commits");
        assert_eq!(groups.least(), Some(3));
        groups.join("quotes").expect("joins");
        assert_eq!(groups.least(), None);
        assert!(groups.join("../lock").is_err());
        groups.close();
        assert!(groups.commit("archive", 4).is_err());
    }
}
