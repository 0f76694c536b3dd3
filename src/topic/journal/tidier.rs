//! The tidier: a thread that removes segments which nobody needs. To remove a large file takes long enough that no
//! append should wait for it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::topic::journal::bell::Bell;
use crate::topic::journal::segment::{self, segment_path};
use crate::topic::journal::shared::{Shared, now_ms};

/// The thread's work, until the bell has rung for the last time.
pub(super) fn run(shared: &Shared, folder: &Path) {
    while shared.tidying.hear() {
        tidy(shared, folder);
    }
}

/// Takes what can go out of the log, oldest first, each durably before the next: a crash leaves no gap. A stop does not
/// wait for all of it: the next start goes on.
fn tidy(shared: &Shared, folder: &Path) {
    while !shared.tidying.is_over() {
        let least = shared.groups.lock().least();
        let oldest = shared.shelf.lock().removable(least, now_ms());
        let Some(oldest) = oldest else { return };
        let path = segment_path(folder, oldest.base);
        let removed = path.with_extension(REMOVED);
        let taken = rename(&path, &removed).and_then(|()| segment::sync_folder(folder));
        if let Err(error) = taken {
            tracing::warn!(file = %path.display(), %error, "could not remove an archived segment");
            return;
        }
        shared.shelf.lock().remove_first();
        if let Err(error) = shrink(&removed, &shared.tidying) {
            tracing::warn!(file = %removed.display(), %error, "removed segments stay until the next start");
        }
    }
}

/// Done before, when only the folder could not be synced then.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
        renamed => renamed,
    }
}

/// Removes the file step by step: the kernel frees what a file held without a pause in which anything else could run
/// on that processor, 17 ms for 64 MiB.
fn shrink(path: &Path, tidying: &Bell) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut bytes = file.metadata()?.len();
    while bytes > STEP_BYTES && !tidying.is_over() {
        bytes -= STEP_BYTES;
        file.set_len(bytes)?;
        thread::sleep(STEP_REST);
    }
    fs::remove_file(path)
}

/// Removes what a crash left of segments that were being removed.
pub(super) fn remove_rests(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == REMOVED)
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Extension of a segment that is no part of the log any more.
const REMOVED: &str = "removed";
const STEP_BYTES: u64 = 2 << 20;
const STEP_REST: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_taken_out_when_the_folder_could_not_be_synced_is_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("1.log"), folder.path().join("1.removed"));
        assert!(rename(&from, &to).is_err(), "there is neither");
        fs::write(&from, "x").unwrap();
        for _ in 0..2 {
            rename(&from, &to).unwrap();
            assert!(!from.exists() && to.exists());
        }
    }

    #[test]
    fn a_stop_does_not_wait_for_a_large_file_to_go_step_by_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.removed");
        let file = fs::File::create(&path).unwrap();
        file.set_len(10_000 * STEP_BYTES).unwrap();
        let tidying = Bell::default();
        tidying.end();
        shrink(&path, &tidying).unwrap();
        assert!(!path.exists());
    }
}
