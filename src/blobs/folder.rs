//! A folder of this machine, made ready for files and cleared of what interrupted uploads left there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::chat::attachment::BlobName;

/// Makes the folder when it is missing, and shows that files can be written to it. Blocks.
pub(super) fn prepare(folder: &Path) -> io::Result<PathBuf> {
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
fn remove_left_overs(folder: &Path, now: SystemTime) -> io::Result<()> {
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
