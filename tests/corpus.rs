//! Every file of `fuzz/corpus/` through what the fuzzers run: what they were given, and what they found, stays good.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Fewer files than this and the corpus was lost rather than replayed.
const FILES_MIN: usize = 20;

#[test]
fn every_input_of_the_corpora_holds() {
    let mut broken = Vec::new();
    for (name, run) in targets::TARGETS {
        let files = corpus(name);
        assert!(
            files.len() >= FILES_MIN,
            "{name}: only {} files",
            files.len()
        );
        for file in files {
            let input = fs::read(&file).unwrap();
            if catch_unwind(|| run(&input)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "what must hold does not: {broken:#?}");
}

#[test]
fn every_corpus_has_its_target_and_every_target_its_program() {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| stem(entry.unwrap().path())).collect();
        names.sort();
        names
    };
    let expected = targets::TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(names("corpus"), expected);
    assert_eq!(names("fuzz_targets"), expected);
}

fn corpus(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("corpus").join(name)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
