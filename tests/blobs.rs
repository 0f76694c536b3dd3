//! What every place for files keeps: whole files or none, under safe names. And what a folder, and a bucket, keep
//! besides. The bucket is on the S3 server that TEST_S3_URL and the AWS_ variables name.

#![allow(clippy::unwrap_used, clippy::panic)] // a scenario may fail wherever it stands

use std::fs;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chat_svc::blobs::{BlobError, Blobs, BlobsConfig, Stored, Upload};
use chat_svc::chat::attachment::BlobName;
use chat_svc::drain::{Drain, Tasks};
use futures_util::{FutureExt, TryStreamExt};
use tempfile::TempDir;

#[path = "blobs/s3.rs"]
mod s3;

use s3::a_bucket;

/// A place for files with what a scenario needs beside it.
struct Place {
    blobs: Blobs,
    tasks: Tasks,
    holds: Holds,
}

enum Holds {
    Folder(TempDir),
    Bucket(s3::Inside),
}

impl Place {
    /// Names of all files, also unfinished ones, once all clearing up is done.
    async fn settled(&self) -> Vec<String> {
        let unfinished = self.tasks.join(Duration::from_secs(60)).await;
        assert_eq!(unfinished, 0, "clearing up ends");
        self.names().await
    }

    async fn names(&self) -> Vec<String> {
        match &self.holds {
            Holds::Folder(folder) => names(folder.path()),
            Holds::Bucket(inside) => inside.names().await,
        }
    }

    fn folder(&self) -> &Path {
        match &self.holds {
            Holds::Folder(folder) => folder.path(),
            Holds::Bucket(_) => panic!("a bucket is no folder"),
        }
    }
}

/// One module a place: each scenario below as a test of its own.
macro_rules! contract {
    ($($scenario:ident),+ $(,)?) => {
        mod folder {
            $(#[test]
            fn $scenario() {
                super::run(async { super::$scenario(super::a_folder()).await });
            })+
        }

        mod bucket {
            $(#[test]
            fn $scenario() {
                super::run(async {
                    let Some(place) = super::a_bucket().await else {
                        return;
                    };
                    super::$scenario(place).await;
                });
            })+
        }
    };
}

contract!(
    what_was_put_is_what_is_got,
    ranges_are_exact_at_the_edges,
    nothing_is_seen_before_it_is_finished,
    an_aborted_upload_leaves_nothing,
    a_dropped_upload_leaves_nothing,
    an_upload_cancelled_while_beginning_leaves_nothing,
    an_upload_cancelled_while_writing_leaves_nothing,
    an_upload_cancelled_while_finishing_leaves_nothing,
    a_file_that_is_not_kept_goes_away,
    tags_are_stable_and_differ_between_files,
    a_deleted_file_is_gone_and_may_be_deleted_again,
    unknown_names_are_not_found,
    a_place_answers,
);

fn a_folder() -> Place {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let blobs = open(folder.path(), &tasks).unwrap();
    Place {
        blobs,
        tasks,
        holds: Holds::Folder(folder),
    }
}

// === scenarios ===

async fn what_was_put_is_what_is_got(place: Place) {
    for (size, step) in [
        (0, 1),
        (1, 1),
        (65_536, 1_000),
        (1_000_003, 70_001),
        (600_000, 600_000),
    ] {
        let (name, content) = (fresh("image/png"), content(size));
        let mut upload = place.blobs.put(name.clone()).await.unwrap();
        for part in content.chunks(step) {
            upload.write(Bytes::copy_from_slice(part)).await.unwrap();
        }
        assert_eq!(upload.size(), size as u64);
        let stored = upload.finish().await.unwrap();
        assert_eq!((stored.name(), stored.size()), (&name, size as u64));
        stored.keep();

        let blob = place.blobs.get(&name, None).await.unwrap();
        assert_eq!(blob.info.size, size as u64);
        assert_eq!(blob.range, 0..size as u64);
        assert!(read(blob.stream).await == content, "{size} bytes");
    }
}

async fn ranges_are_exact_at_the_edges(place: Place) {
    let content = content(200_000);
    let name = kept(&place, &content).await;
    let ranges: [Range<usize>; 6] = [
        0..1,
        0..200_000,
        199_999..200_000,
        65_535..65_537,
        1..131_073,
        777..100_000,
    ];
    for range in ranges {
        let asked = range.start as u64..range.end as u64;
        let blob = place.blobs.get(&name, Some(asked.clone())).await.unwrap();
        assert_eq!((blob.range, blob.info.size), (asked, 200_000));
        assert!(
            read(blob.stream).await == content[range.clone()],
            "{range:?}"
        );
    }
}

async fn nothing_is_seen_before_it_is_finished(place: Place) {
    let name = fresh("image/png");
    let upload = written(&place, &name).await;
    assert_eq!(place.blobs.head(&name).await, Err(BlobError::NotFound));
    upload.finish().await.unwrap().keep();
    assert!(place.blobs.head(&name).await.is_ok());
    assert_eq!(place.settled().await, [name.as_str()]);
}

async fn an_aborted_upload_leaves_nothing(place: Place) {
    written(&place, &fresh("image/png")).await.abort().await;
    assert_eq!(place.names().await, [""; 0]);
}

async fn a_dropped_upload_leaves_nothing(place: Place) {
    drop(written(&place, &fresh("image/png")).await);
    assert_eq!(place.settled().await, [""; 0]);
}

async fn an_upload_cancelled_while_beginning_leaves_nothing(place: Place) {
    // As below, further each time.
    for steps in 1..8 {
        let mut begin = Box::pin(place.blobs.put(fresh("image/png")));
        for _ in 0..steps {
            if (&mut begin).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begin);
    }
    assert_eq!(place.settled().await, [""; 0]);
}

async fn an_upload_cancelled_while_writing_leaves_nothing(place: Place) {
    let mut upload = written(&place, &fresh("image/png")).await;
    // The one thread for disk work is kept busy, so that the write has to wait.
    let (release, held) = sync_channel::<()>(0);
    let busy = tokio::task::spawn_blocking(move || held.recv());
    let cancelled = upload.write(Bytes::from(content(6 << 20))).now_or_never();
    assert!(cancelled.is_none());
    drop(release);
    assert!(busy.await.unwrap().is_err());
    let rest = upload.write(Bytes::from_static(b"x")).await;
    let finished = upload.finish().await;
    assert!(rest.is_err() || finished.is_err(), "a part may be missing");
    assert_eq!(place.settled().await, [""; 0]);
}

async fn an_upload_cancelled_while_finishing_leaves_nothing(place: Place) {
    // Cancelled at each place where it can wait: every round lets it go one step further.
    for steps in 0..8 {
        let name = fresh("image/png");
        let mut finish = Box::pin(written(&place, &name).await.finish());
        for _ in 0..steps {
            match (&mut finish).now_or_never() {
                Some(stored) => drop(stored),
                None => {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            break;
        }
        drop(finish);
        assert_eq!(place.settled().await, [""; 0], "after {steps} steps");
        assert_eq!(place.blobs.head(&name).await, Err(BlobError::NotFound));
    }
}

async fn a_file_that_is_not_kept_goes_away(place: Place) {
    let name = fresh("image/png");
    let stored: Stored = written(&place, &name).await.finish().await.unwrap();
    assert!(place.blobs.head(&name).await.is_ok());
    drop(stored);
    assert_eq!(place.settled().await, [""; 0]);
}

async fn tags_are_stable_and_differ_between_files(place: Place) {
    let name = kept(&place, b"one").await;
    let other = kept(&place, b"other").await;
    let head = place.blobs.head(&name).await.unwrap();
    let tag = head.etag.clone().unwrap();

    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'));
    assert_eq!(place.blobs.head(&name).await.unwrap(), head);
    assert_eq!(place.blobs.get(&name, Some(1..2)).await.unwrap().info, head);
    assert_ne!(place.blobs.head(&other).await.unwrap().etag, Some(tag));
}

async fn a_deleted_file_is_gone_and_may_be_deleted_again(place: Place) {
    let name = kept(&place, b"content").await;
    for _ in 0..2 {
        place.blobs.delete(&name).await.unwrap();
        assert_eq!(place.blobs.head(&name).await, Err(BlobError::NotFound));
    }
    assert_eq!(place.settled().await, [""; 0]);
}

async fn unknown_names_are_not_found(place: Place) {
    let name = fresh("image/png");
    assert_eq!(place.blobs.head(&name).await, Err(BlobError::NotFound));
    let got = place.blobs.get(&name, None).await;
    assert_eq!(got.err(), Some(BlobError::NotFound));
}

async fn a_place_answers(place: Place) {
    place.blobs.ping().await.unwrap();
}

// === a folder's own ===

#[test]
fn a_missing_folder_is_made() {
    run(async {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("made/when missing/ü");
        let blobs = open(&path, &Tasks::default()).unwrap();
        assert!(path.is_dir());
        fs::remove_dir(path).unwrap();
        assert!(matches!(blobs.ping().await, Err(BlobError::Unavailable(_))));
    });
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("uploads");
    let error = open(&path, &Tasks::default()).err().unwrap().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[test]
fn a_file_url_chooses_a_folder_and_no_other_url_is_taken_or_shown() {
    let folder = |path: &str| BlobsConfig::Folder(PathBuf::from(path));
    let choose = |url| BlobsConfig::choose(Path::new("uploads/"), url);
    assert_eq!(choose(None).unwrap(), folder("uploads/"));
    assert_eq!(
        choose(Some("file:///srv/a%20b")).unwrap(),
        folder("/srv/a b")
    );
    for url in ["ftp://user:secret@host/x", "uploads", "", "file://host:1/x"] {
        let error = choose(Some(url)).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn what_interrupted_uploads_left_goes_at_the_start_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let ours = fresh("image/png").as_str().to_owned();
    let staged = [format!("{ours}#1"), format!("{ours}#12")];
    let mut others = vec![
        ours.clone(),
        format!("{ours}#"),
        format!("{ours}#1a"),
        format!("{ours}#1#1"),
        "holiday.png#1".to_owned(),
        format!("x{ours}#1"),
        ".gitkeep".to_owned(),
    ];
    let past = SystemTime::now() - Duration::from_secs(1);
    for name in staged.iter().chain(&others) {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(past).unwrap();
    }
    let young = format!("{}#1", fresh("image/png").as_str());
    let file = fs::File::create(folder.path().join(&young)).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600))
        .unwrap();
    others.push(young);

    open(folder.path(), &Tasks::default()).unwrap();
    others.sort();
    assert_eq!(names(folder.path()), others);
}

#[test]
fn files_of_an_earlier_service_are_served_and_nothing_outside() {
    run(async {
        let place = a_folder();
        for name in [
            "1690000000000-Grüße (1).png",
            "100%25 *?\"<>|.txt",
            "attachment-1",
            "~a&b=c+d",
        ] {
            fs::write(place.folder().join(name), name).unwrap();
            let blob = place.blobs.get(&parsed(name), None).await.unwrap();
            assert_eq!(read(blob.stream).await, name.as_bytes(), "{name}");
        }
        fs::create_dir(place.folder().join("folder")).unwrap();
        for name in ["folder", "%2e%2e", "%2fetc%2fpasswd", "x%2f.."] {
            let got = place.blobs.get(&parsed(name), None).await;
            assert_eq!(got.err(), Some(BlobError::NotFound), "{name}");
        }
    });
}

#[test]
fn a_file_cut_short_under_its_reader_ends_with_an_error() {
    run(async {
        let place = a_folder();
        let name = kept(&place, &content(300_000)).await;
        let blob = place.blobs.get(&name, None).await.unwrap();
        let file = fs::File::options()
            .write(true)
            .open(place.folder().join(name.as_str()))
            .unwrap();
        file.set_len(100_000).unwrap();
        let read: Result<Vec<Bytes>, _> = blob.stream.try_collect().await;
        assert!(matches!(read, Err(BlobError::Unavailable(_))));
    });
}

#[test]
fn an_upload_that_cannot_be_published_leaves_nothing() {
    run(async {
        let place = a_folder();
        let name = fresh("image/png");
        let upload = written(&place, &name).await;
        // A folder of that name is in the way.
        fs::create_dir(place.folder().join(name.as_str())).unwrap();
        assert!(upload.finish().await.is_err());
        assert_eq!(place.settled().await, [name.as_str()]);
    });
}

// === what scenarios are written in ===

fn run(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(scenario);
}

fn open(folder: &Path, tasks: &Tasks) -> Result<Blobs, chat_svc::blobs::OpenError> {
    let place = BlobsConfig::Folder(folder.to_owned());
    Blobs::open(&place, tasks.clone(), Drain::default())
}

fn fresh(media_type: &str) -> BlobName {
    let mut random = [0; 16];
    getrandom::fill(&mut random).unwrap();
    BlobName::new(random, media_type)
}

fn parsed(name: &str) -> BlobName {
    BlobName::parse(name).unwrap()
}

/// Bytes that tell every place from its neighbours.
fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// An upload with more than a part written, not finished.
async fn written(place: &Place, name: &BlobName) -> Upload {
    let mut upload = place.blobs.put(name.clone()).await.unwrap();
    upload.write(Bytes::from(content(700_000))).await.unwrap();
    upload
}

async fn kept(place: &Place, content: &[u8]) -> BlobName {
    let mut upload = place.blobs.put(fresh("image/png")).await.unwrap();
    upload.write(Bytes::copy_from_slice(content)).await.unwrap();
    upload.finish().await.unwrap().keep()
}

async fn read(stream: impl TryStreamExt<Ok = Bytes, Error = BlobError>) -> Vec<u8> {
    let read = stream.try_fold(Vec::new(), |mut all, chunk| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    });
    read.await.unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
