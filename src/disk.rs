//! Free space where the data is: below a minimum, messages and uploads are refused.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Watches the file system of one folder.
pub struct FreeSpace {
    folder: PathBuf,
    bytes_min: u64,
    bytes: AtomicU64,
}

impl FreeSpace {
    /// Looks once; the folder must exist. `bytes_min` 0 never refuses.
    pub fn watch(folder: PathBuf, bytes_min: u64) -> io::Result<Self> {
        let space = Self {
            folder,
            bytes_min,
            bytes: AtomicU64::new(0),
        };
        space.refresh()?;
        Ok(space)
    }

    /// Looks again; the bytes free. One quick system call.
    pub fn refresh(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Whether less than the minimum was free at the last look.
    pub fn is_low(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.bytes_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_below_the_minimum() {
        let folder = tempfile::tempdir().unwrap();
        let watch = |bytes_min| FreeSpace::watch(folder.path().to_owned(), bytes_min).unwrap();
        assert!(!watch(0).is_low());
        assert!(!watch(1).is_low());
        assert!(watch(u64::MAX).is_low());
        assert!(FreeSpace::watch(folder.path().join("none"), 0).is_err());
    }
}
