//! Every file of `fuzz/corpus/` through what the fuzzers run: what they were given, and what they found, stays good.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
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

/// A lock file of its own goes stale in silence: nothing that `cargo test` builds reads it.
#[test]
fn the_fuzzers_are_built_with_the_crates_that_the_service_is_built_with() {
    let served = locked(&root().join("../Cargo.lock"));
    let fuzzed = locked(&root().join("Cargo.lock"));
    let manifest = fs::read_to_string(root().join("../Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = dependencies.lines().take_while(|line| !line.is_empty());
    let missing: Vec<_> = lines
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| !fuzzed.iter().any(|(locked, _)| locked == name))
        .collect();
    assert_eq!(missing, [], "cargo update --workspace, in fuzz/");
    let fuzzers_own = ["arbitrary", "chat-svc-fuzz", "libfuzzer-sys"];
    let others: Vec<_> = fuzzed
        .difference(&served)
        .filter(|(name, _)| !fuzzers_own.contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "cargo update --precise: {others:?}");
}

/// Name and version of each package in a lock file.
fn locked(path: &Path) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let packages = text.split("[[package]]").skip(1);
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_matches([' ', '=', '"']).to_owned()
    };
    packages
        .map(|package| (field(package, "name"), field(package, "version")))
        .collect()
}

fn corpus(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("corpus").join(name)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
