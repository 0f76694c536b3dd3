//! Dead letters in a file, one line of JSON each: for a service without Kafka.
//!
//! The file is opened for each write, so it may be moved away, read and deleted at any time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file of dead letters.
pub struct LetterFile {
    path: PathBuf,
    bytes_max: u64,
}

impl LetterFile {
    /// Nothing is opened or made yet. The file takes no line that would bring it over `bytes_max`.
    pub fn new(path: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self {
            path: path.into(),
            bytes_max,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds as many of these lines as there is room for, from the first one; how many. They are on disk then, and so
    /// is the file's name. After an error the lines may be there, whole or not. Blocks.
    pub fn append(&self, lines: &[Vec<u8>]) -> io::Result<usize> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        let end = file.metadata()?.len();
        let mut out = Vec::new();
        if !ends_a_line(&mut file, end)? {
            // A write that a crash cut short is ended here, so that the next line can be read.
            out.push(b'\n');
        }
        let mut count = 0;
        for line in lines {
            if end + (out.len() + line.len()) as u64 > self.bytes_max {
                break;
            }
            out.extend_from_slice(line);
            count += 1;
        }
        if count == 0 && !lines.is_empty() {
            let full = format!("it has reached {} bytes", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, full));
        }
        file.write_all(&out)?;
        file.sync_all()?;
        if end == 0 {
            self.sync_folder()?;
        }
        Ok(count)
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

fn ends_a_line(file: &mut File, end: u64) -> io::Result<bool> {
    if end == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(end - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(text: &str) -> Vec<u8> {
        format!("{text}\n").into_bytes()
    }

    #[test]
    fn lines_are_taken_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = LetterFile::new(folder.path().join("letters"), 6);
        let lines = [line("1"), line("2"), line("3"), line("4")];
        assert_eq!(file.append(&lines).unwrap(), 3, "at the limit");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "1\n2\n3\n");
        let full = file.append(&lines[3..]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::FileTooLarge, "one more");
        fs::remove_file(file.path()).unwrap();
        assert_eq!(file.append(&lines[3..]).unwrap(), 1, "moved away");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "4\n");
    }

    #[test]
    fn a_line_cut_short_by_a_crash_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = LetterFile::new(folder.path().join("letters"), 100);
        fs::write(file.path(), "{\"cut").unwrap();
        assert_eq!(file.append(&[line("{}")]).unwrap(), 1);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "{\"cut\n{}\n");
    }
}
