//! Sessions in a folder, so that they can be recovered after the process was restarted or killed.
//!
//! Every change is handed to the kernel before the client hears of it, and never synced: it outlives the process, not
//! the machine. So nothing is believed that was written before the machine was started, nor what is not whole.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::chat::id::UserId;
use crate::protocol::engineio::Sid;
use crate::protocol::recovery::Offset;

/// Changes of fewer bytes are not worth a new base.
const CHANGES_BYTES_MIN: u64 = 1 << 20;

/// Written to disk at once when a base is.
const CHUNK_BYTES: usize = 64 << 10;

// === Line ===

/// A change to one session: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<'a> {
    /// The first line of each file: when the machine was started.
    Boot(Cow<'a, str>),
    /// The session is on a connection: it has begun, or goes on with the rooms it has.
    Here {
        pid: Text<Sid>,
        id: Text<Sid>,
        since: Text<Offset>,
    },
    Join {
        pid: Text<Sid>,
        room: Cow<'a, str>,
    },
    /// Not everything that the client is owed has been told to it.
    Owed(Text<Sid>),
    /// Everything has.
    Told(Text<Sid>),
    /// The connection has ended; see [`Saved::told_at`].
    Left {
        pid: Text<Sid>,
        told_at: Option<u64>,
        unix_ms: u64,
    },
    Gone(Text<Sid>),
}

/// A value that is written as its text.
#[derive(Clone, Debug)]
pub struct Text<T>(pub T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

macro_rules! text_of {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for Text<$type> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                let value = <$type>::parse(&text);
                value
                    .map(Text)
                    .ok_or_else(|| serde::de::Error::custom("unreadable"))
            }
        }
    };
}

text_of!(Sid);
text_of!(Offset);

// === Saved ===

/// A session as the folder has it.
#[derive(Debug)]
pub struct Saved {
    /// The socket's public id.
    pub id: Sid,
    /// What had been shown when it began.
    pub since: Offset,
    pub rooms: Vec<UserId>,
    /// Its client was perhaps not told everything when the process ended.
    is_owed: bool,
    /// If its connection ended before: the progress that the client must have read beyond, if any, and when.
    left: Option<(Option<u64>, u64)>,
}

impl Saved {
    /// How long ago its connection ended; with the process, if not before.
    pub fn since_left(&self) -> Duration {
        self.left.map_or(Duration::ZERO, |(_, unix_ms)| {
            Duration::from_millis(unix_ms_now().saturating_sub(unix_ms))
        })
    }

    /// The client has been told everything if it has read a message beyond this progress; `None`: in any case.
    pub fn told_at(&self) -> Option<u64> {
        self.left.and_then(|(told_at, _)| told_at)
    }
}

/// Sessions by pid, as lines leave them.
type Sessions = HashMap<Sid, Saved>;

fn apply(sessions: &mut Sessions, line: Line<'_>) -> Option<()> {
    match line {
        Line::Boot(_) => {}
        Line::Here { pid, id, since } => {
            let saved = sessions.entry(pid.0).or_insert(Saved {
                id: id.0,
                since: since.0,
                rooms: Vec::new(),
                is_owed: false,
                left: None,
            });
            (saved.is_owed, saved.left) = (false, None);
        }
        Line::Join { pid, room } => {
            let room = UserId::new(room.into_owned())?;
            if let Some(saved) = sessions.get_mut(&pid.0)
                && !saved.rooms.contains(&room)
            {
                saved.rooms.push(room);
            }
        }
        Line::Owed(pid) => {
            if let Some(saved) = sessions.get_mut(&pid.0) {
                saved.is_owed = true;
            }
        }
        Line::Told(pid) => {
            if let Some(saved) = sessions.get_mut(&pid.0) {
                saved.is_owed = false;
            }
        }
        Line::Left {
            pid,
            told_at,
            unix_ms,
        } => {
            if let Some(saved) = sessions.get_mut(&pid.0) {
                (saved.is_owed, saved.left) = (false, Some((told_at, unix_ms)));
            }
        }
        Line::Gone(pid) => drop(sessions.remove(&pid.0)),
    }
    Some(())
}

// === Ledger ===

/// The folder, for one process: a base with the sessions as they once were, and files of the changes since.
pub struct Ledger {
    folder: PathBuf,
    boot: String,
    /// How long a session is kept whose connection has ended.
    window: Duration,
    /// None once a write has failed: what the folder has is then worth nothing.
    writer: Mutex<Option<Writer>>,
    _lock: File,
}

struct Writer {
    file: File,
    number: u64,
    bytes: u64,
    base_bytes: u64,
}

impl Ledger {
    /// Opens the folder, or creates it; with the sessions that are in it, which may all be recovered. Blocks.
    pub fn open(folder: &Path, window: Duration) -> io::Result<(Self, Sessions)> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock()?;
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        let numbers = numbers(folder)?;
        let mut sessions = load(folder, &numbers, &boot)?.unwrap_or_default();
        sessions.retain(|_, saved| !saved.is_owed && saved.since_left() <= window);
        let ledger = Self {
            folder: folder.to_owned(),
            boot,
            window,
            writer: Mutex::new(None),
            _lock: lock,
        };
        let number = numbers.last().map_or(1, |last| last + 1);
        let base_bytes = ledger.write_base(&sessions)?;
        fs::rename(ledger.path(NEW_BASE), ledger.path(BASE))?;
        let writer = ledger.begin(number, base_bytes)?;
        *ledger.writer.lock() = Some(writer);
        remove(folder, &numbers)?;
        Ok((ledger, sessions))
    }

    /// Notes a change. It is safe from the end of this process when this returns.
    pub fn note(&self, line: &Line<'_>) {
        let text = text(line);
        let mut slot = self.writer.lock();
        let Some(writer) = &mut *slot else { return };
        match writer.file.write_all(text.as_bytes()) {
            Ok(()) => writer.bytes += text.len() as u64,
            Err(error) => {
                tracing::warn!(%error, "sessions will not be recovered after a restart");
                *slot = None;
                self.clear();
            }
        }
    }

    /// Notes that a connection has ended.
    pub fn left(&self, pid: Sid, told_at: Option<u64>) {
        self.note(&Line::Left {
            pid: Text(pid),
            told_at,
            unix_ms: unix_ms_now(),
        });
    }

    /// Writes a new base when there are many changes. Blocks; changes are noted meanwhile.
    pub fn tidy(&self) -> io::Result<()> {
        let number = match &*self.writer.lock() {
            Some(writer) if writer.bytes > CHANGES_BYTES_MIN.max(writer.base_bytes) => {
                writer.number
            }
            _ => return Ok(()),
        };
        self.compact(number)
    }

    /// `number`: of the file that changes go to now.
    fn compact(&self, number: u64) -> io::Result<()> {
        let next = self.begin(number + 1, 0)?;
        match &mut *self.writer.lock() {
            Some(writer) => *writer = next,
            None => return Ok(()),
        }
        let mut old = numbers(&self.folder)?;
        old.retain(|old| *old <= number);
        let sessions = load(&self.folder, &old, &self.boot)?;
        let mut sessions = sessions.ok_or(io::ErrorKind::InvalidData)?;
        sessions.retain(|_, saved| saved.since_left() <= self.window);
        let base_bytes = self.write_base(&sessions)?;
        let mut writer = self.writer.lock();
        let Some(writer) = &mut *writer else {
            return Ok(());
        };
        writer.base_bytes = base_bytes;
        // Read again on top of the new base, the old changes would do nothing.
        fs::rename(self.path(NEW_BASE), self.path(BASE))?;
        remove(&self.folder, &old)
    }

    /// A file for changes.
    fn begin(&self, number: u64, base_bytes: u64) -> io::Result<Writer> {
        let path = self.path(&number.to_string());
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).open(path)?;
        file.write_all(text(&Line::Boot(self.boot.as_str().into())).as_bytes())?;
        Ok(Writer {
            file,
            number,
            bytes: 0,
            base_bytes,
        })
    }

    fn write_base(&self, sessions: &Sessions) -> io::Result<u64> {
        let file = File::create(self.path(NEW_BASE))?;
        let mut out = io::BufWriter::with_capacity(CHUNK_BYTES, file);
        let mut bytes = 0;
        let mut write = |line: &Line<'_>| {
            let text = text(line);
            bytes += text.len() as u64;
            out.write_all(text.as_bytes())
        };
        write(&Line::Boot(self.boot.as_str().into()))?;
        for (pid, saved) in sessions {
            let pid = Text(*pid);
            write(&Line::Here {
                pid: pid.clone(),
                id: Text(saved.id),
                since: Text(saved.since.clone()),
            })?;
            for room in &saved.rooms {
                write(&Line::Join {
                    pid: pid.clone(),
                    room: room.as_str().into(),
                })?;
            }
            if let Some((told_at, unix_ms)) = saved.left {
                write(&Line::Left {
                    pid: pid.clone(),
                    told_at,
                    unix_ms,
                })?;
            }
            if saved.is_owed {
                write(&Line::Owed(pid))?;
            }
        }
        out.flush()?;
        Ok(bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn clear(&self) {
        let removed = fs::remove_file(self.path(BASE))
            .and_then(|()| numbers(&self.folder))
            .and_then(|numbers| remove(&self.folder, &numbers));
        if let Err(error) = removed {
            tracing::error!(%error, "remove the folder {} before the next start", self.folder.display());
        }
    }
}

/// The sessions of a folder; `None` when it has none that can be believed.
fn load(folder: &Path, numbers: &[u64], boot: &str) -> io::Result<Option<Sessions>> {
    let mut sessions = Sessions::new();
    let mut files = vec![BASE.to_owned()];
    files.extend(numbers.iter().map(u64::to_string));
    for (n, name) in files.iter().enumerate() {
        let text = match fs::read_to_string(folder.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(error),
        };
        let (whole, torn) = text.rsplit_once('\n').unwrap_or(("", &text));
        // The last write of a process that was killed: nobody has heard of what it says.
        if !torn.is_empty() && n + 1 < files.len() {
            return Ok(None);
        }
        let mut lines = whole.split('\n').filter(|line| !line.is_empty());
        match lines.next().map(serde_json::from_str) {
            Some(Ok(Line::Boot(of_file))) if of_file == boot => {}
            None if n > 0 && n + 1 == files.len() => {}
            _ => return Ok(None),
        }
        for line in lines {
            let applied = serde_json::from_str(line).ok();
            if applied
                .and_then(|line| apply(&mut sessions, line))
                .is_none()
            {
                return Ok(None);
            }
        }
    }
    Ok(Some(sessions))
}

/// The files of changes, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove(folder: &Path, numbers: &[u64]) -> io::Result<()> {
    let mut numbers = numbers.iter();
    numbers.try_for_each(|number| fs::remove_file(folder.join(number.to_string())))
}

fn text(line: &Line<'_>) -> String {
    let mut text = serde_json::to_string(line).expect("a line is plain values");
    text.push('\n');
    text
}

fn unix_ms_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Another one after each start of the machine. Where there is none, nothing is kept.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const LOCK: &str = "lock";
const BASE: &str = "base";
const NEW_BASE: &str = "base.new";

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    fn pid(n: u8) -> Text<Sid> {
        Text(Sid::new([n; 15]))
    }

    fn here(n: u8) -> Line<'static> {
        Line::Here {
            pid: pid(n),
            id: pid(n + 100),
            since: Text(Offset::parse("1-1-7").unwrap()),
        }
    }

    fn join(n: u8, room: &str) -> Line<'_> {
        Line::Join {
            pid: pid(n),
            room: room.into(),
        }
    }

    /// What is there after a restart: pid and rooms.
    fn found(folder: &Path) -> Vec<(u8, Vec<String>)> {
        let (_ledger, sessions) = Ledger::open(folder, WINDOW).unwrap();
        let mut found: Vec<_> = (1..100)
            .filter_map(|n| {
                let saved = sessions.get(&pid(n).0)?;
                assert_eq!((saved.id, saved.since.next[0]), (pid(n + 100).0, 7));
                let rooms = saved.rooms.iter().map(|room| room.as_str().to_owned());
                Some((n, rooms.collect()))
            })
            .collect();
        found.sort();
        found
    }

    fn rooms(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn sessions_come_back_as_they_were_but_for_those_that_are_owed_something() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, sessions) = Ledger::open(folder.path(), WINDOW).unwrap();
        assert!(sessions.is_empty());
        for line in [
            here(1),
            join(1, "a \"quoted\"\n line"),
            join(1, "b"),
            join(1, "b"),
            here(2),
            Line::Owed(pid(2)),
            here(3),
            Line::Owed(pid(3)),
            Line::Told(pid(3)),
            here(4),
            Line::Gone(pid(4)),
            join(4, "x"),
            here(5),
            join(5, "c"),
        ] {
            ledger.note(&line);
        }
        ledger.left(pid(5).0, Some(9));
        assert!(
            Ledger::open(folder.path(), WINDOW).is_err(),
            "one process at a time"
        );
        drop(ledger);
        let expected = vec![
            (1, rooms(&["a \"quoted\"\n line", "b"])),
            (3, vec![]),
            (5, rooms(&["c"])),
        ];
        assert_eq!(found(folder.path()), expected);
        assert_eq!(found(folder.path()), expected, "the new base says the same");
        let (_ledger, sessions) = Ledger::open(folder.path(), WINDOW).unwrap();
        assert_eq!(sessions[&pid(5).0].told_at(), Some(9));
        assert_eq!(sessions[&pid(1).0].told_at(), None);
    }

    #[test]
    fn changes_go_into_a_new_base_when_they_are_many() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(folder.path(), WINDOW).unwrap();
        ledger.note(&here(1));
        ledger.note(&join(1, "a"));
        let files = || numbers(folder.path()).unwrap();
        ledger.tidy().unwrap();
        assert_eq!(files(), [1], "few");
        while ledger.writer.lock().as_ref().unwrap().bytes <= CHANGES_BYTES_MIN {
            ledger.note(&here(2));
            ledger.note(&Line::Gone(pid(2)));
        }
        ledger.tidy().unwrap();
        assert_eq!(files(), [2]);
        ledger.note(&join(1, "b"));
        let base = fs::metadata(folder.path().join(BASE)).unwrap().len();
        assert!(base < 1000, "{base} bytes");
        drop(ledger);
        assert_eq!(found(folder.path()), [(1, rooms(&["a", "b"]))]);
    }

    #[test]
    fn what_cannot_be_read_whole_is_not_believed_at_all() {
        let boot = fs::read_to_string(BOOT_ID).unwrap();
        let head = text(&Line::Boot(boot.trim().into()));
        let one = text(&here(1));
        let whole = format!("{head}{one}");
        for (base, changes, expected) in [
            (&whole[..], &whole[..], 1),
            (&whole, "", 1),
            (&whole, &head[..9], 1),
            (&head, &format!("{whole}{}", &one[..20]), 1),
            (&whole[..whole.len() - 1], &head, 0),
            (&whole, &format!("{head}{}\n{one}", &one[..20]), 0),
            (&whole, &format!("{head}not a line\n"), 0),
            (&text(&Line::Boot("before".into())), &whole, 0),
            (
                &whole,
                &format!("{}{one}", text(&Line::Boot("before".into()))),
                0,
            ),
            ("", &whole, 0),
            (&one, &head, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(BASE), base).unwrap();
            fs::write(folder.path().join("7"), changes).unwrap();
            assert_eq!(found(folder.path()).len(), expected, "{base:?} {changes:?}");
        }
    }

    #[test]
    fn after_a_failed_write_nothing_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(folder.path(), WINDOW).unwrap();
        ledger.note(&here(1));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        ledger.writer.lock().as_mut().unwrap().file = full;
        ledger.note(&join(1, "a"));
        ledger.note(&here(2));
        ledger.tidy().unwrap();
        drop(ledger);
        assert_eq!(found(folder.path()), []);
    }

    #[test]
    fn a_session_is_forgotten_when_its_window_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(folder.path(), WINDOW).unwrap();
        for (n, ago) in [(1, 60_000), (2, 121_000)] {
            ledger.note(&here(n));
            ledger.note(&Line::Left {
                pid: pid(n),
                told_at: None,
                unix_ms: unix_ms_now() - ago,
            });
        }
        drop(ledger);
        assert_eq!(found(folder.path()), [(1, vec![])]);
    }
}
