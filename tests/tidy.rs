//! The laws of the house, checked on the source as text: who may import whom, what is pure, which crate is known where,
//! how long things may grow, what must not be left behind.
//!
//! Each test prints every breach with its place. A rule that must bend does so in [`EXCEPTIONS`], with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "tidy/knobs.rs"]
mod knobs;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Mention, Source, read_all};

// === The tables ===

/// What stands on which floor. A file imports only from lower floors or its own folder.
const FLOORS: &[(usize, &[&str])] = &[
    (0, &["json"]),
    (
        1,
        &[
            "chat", "metrics", "config", "throttle", "drain", "disk", "backoff",
        ],
    ),
    (2, &["protocol", "topic", "store", "auth", "blobs"]),
    (3, &["hub", "http", "history"]),
    (4, &["pipeline"]),
    (5, &["api", "socket"]),
    (6, &["router"]),
    (7, &["app"]),
    (8, &["main"]),
];

/// Folders that hold no clock, no task and no I/O: bytes and time come in as arguments.
const PURE: &[&str] = &["src/chat/", "src/json", "src/protocol/", "src/throttle"];

/// Which crate is known where: paths that begin so.
const CRATES: &[(&str, &[&str])] = &[
    ("clap", &["src/config"]),
    ("dashmap", &["src/hub/", "src/throttle"]),
    ("fjall", &["src/store/embedded"]),
    ("mongodb", &["src/store/mongo"]),
    ("object_store", &["src/blobs"]),
    ("rdkafka", &["src/topic/kafka"]),
    ("reqwest", &["src/topic/kafka/oauth"]),
    ("rmp", &["src/protocol/msgpack/"]),
];

/// Pairs of folders of which neither imports the other, beside what the floors forbid; a folder paired with itself
/// holds parts, files or folders, that do not import one another.
const STRANGERS: &[(&str, &str)] = &[
    ("src/pipeline/", "src/pipeline/"),
    ("src/api/", "src/socket/"),
];

/// Words that have no place in code that is done, outside tests.
const BANNED_CODE: &[&str] = &["todo!", "unimplemented!", "dbg!", ".unwrap()"];

/// Notes to oneself.
const BANNED_COMMENTS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/Users/", "/work/"];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "types", "misc", "manager", "base",
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Code is held to 100 by rustfmt, which leaves comments alone.
const COMMENT_COLUMNS_MAX: usize = 120;

/// What is let through: the rule, the subject as the rule prints it, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "length",
    "new in src/metrics.rs",
    "a table: one line a metric, nothing else",
)];

// === The rules ===

#[test]
fn a_file_imports_only_from_lower_floors_or_its_own_folder() {
    let sources = read_all("src");
    let mut breaches = Breaches::new("floors");
    for (source, target, line) in imports(&sources) {
        let (from, to) = (top(source), top(target));
        let allowed = from == to || matches!((floor(from), floor(to)), (Some(a), Some(b)) if b < a);
        if !allowed {
            let subject = format!("{} -> {}", source.path, target.path);
            breaches.add(
                &subject,
                source,
                line,
                "imports from its own floor or a higher one",
            );
        }
    }
    breaches.assert_none();
}

#[test]
fn every_file_stands_on_a_floor_and_is_declared() {
    let sources = read_all("src");
    let mut breaches = Breaches::new("place");
    for source in sources.values() {
        let module = source.module();
        if source.path == "src/lib.rs" || source.path == "src/main.rs" {
            continue;
        }
        if floor(top(source)).is_none() {
            breaches.add(
                &source.path,
                source,
                1,
                "stands on no floor: name it in FLOORS",
            );
        }
        let (name, parent) = module.split_last().expect("no root");
        let parent = match parent {
            [] => sources.get("src/lib.rs"),
            parent => find_module(&sources, parent),
        };
        let declaration = format!("mod {name};");
        let declares = |line: &source::Line| line.code.trim().ends_with(&declaration);
        if !parent.is_some_and(|parent| parent.lines.iter().any(declares)) {
            breaches.add(
                &source.path,
                source,
                1,
                "no module declares it, so nobody compiles it",
            );
        }
        if EMPTY_NAMES.contains(&name.as_str()) {
            breaches.add(&source.path, source, 1, "its name says nothing");
        }
    }
    breaches.assert_none();
}

#[test]
fn the_library_root_only_declares_modules() {
    let sources = read_all("src");
    let root = &sources["src/lib.rs"];
    let mut breaches = Breaches::new("root");
    for (number, line) in root.own_lines() {
        let code = line.code.trim();
        let name = code
            .strip_prefix("pub mod ")
            .and_then(|rest| rest.strip_suffix(';'));
        let declares = name.is_some_and(|name| !name.contains(';'));
        if !code.is_empty() && !declares && !code.starts_with("#!") {
            breaches.add(
                &line.raw,
                root,
                number,
                "is more than the declaration of a module",
            );
        }
    }
    breaches.assert_none();
}

#[test]
fn no_files_import_each_other_in_a_ring() {
    let sources = read_all("src");
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (source, target, _) in imports(&sources) {
        graph.entry(&source.path).or_default().insert(&target.path);
    }
    let mut breaches = Breaches::new("rings");
    for start in graph.keys() {
        if let Some(ring) = ring_through(&graph, start) {
            breaches.add(&ring.join(" -> "), &sources[*start], 1, "a ring of imports");
        }
    }
    breaches.assert_none();
}

#[test]
fn pure_folders_know_no_clock_no_task_and_no_io() {
    let sources = read_all("src");
    let mut breaches = Breaches::new("purity");
    for source in sources.values() {
        if !PURE.iter().any(|prefix| source.path.starts_with(prefix)) {
            continue;
        }
        for mention in source.mentions() {
            if is_impure(&mention) {
                let path = mention.parts.join("::");
                breaches.add(&path, source, mention.line, "is a clock, a task or I/O");
            }
        }
    }
    breaches.assert_none();
}

#[test]
fn a_backend_crate_is_known_in_one_place() {
    let sources = read_all("src");
    let mut breaches = Breaches::new("crates");
    for source in sources.values() {
        for mention in source.mentions() {
            let known = CRATES.iter().find(|(name, _)| *name == mention.parts[0]);
            let Some((name, places)) = known else {
                continue;
            };
            if !places.iter().any(|place| source.path.starts_with(place)) {
                let subject = format!("{name} in {}", source.path);
                let why = format!("belongs to {places:?} only");
                breaches.add(&subject, source, mention.line, &why);
            }
        }
    }
    breaches.assert_none();
}

#[test]
fn strangers_do_not_import_one_another() {
    let sources = read_all("src");
    let mut breaches = Breaches::new("strangers");
    for (source, target, line) in imports(&sources) {
        let (from, to) = (source.path.as_str(), target.path.as_str());
        let meet = |(a, b): &(&str, &str)| {
            (from.starts_with(a) && to.starts_with(b)) || (from.starts_with(b) && to.starts_with(a))
        };
        // A part that needs more than one file has a folder of its own.
        let is_own = module(from) == module(to);
        if !is_own && STRANGERS.iter().any(meet) {
            breaches.add(
                &format!("{from} -> {to}"),
                source,
                line,
                "strangers by design",
            );
        }
    }
    breaches.assert_none();
}

/// The part of a folder that a file is of: the first two steps below `src/`, without endings.
fn module(path: &str) -> Vec<&str> {
    let steps = path.trim_end_matches(".rs").split('/');
    steps.skip(1).take(2).collect()
}

#[test]
fn files_and_functions_stay_short() {
    let mut breaches = Breaches::new("length");
    for source in everything().values() {
        let in_src = source.path.starts_with("src/");
        let (lines, what) = match in_src && !source.is_test() {
            true => (source.own_lines().count(), "lines without its tests"),
            false => (source.lines.len(), "lines"),
        };
        if lines > FILE_LINES_MAX {
            let why = format!("{lines} {what}, at most {FILE_LINES_MAX}");
            breaches.add(&source.path, source, 1, &why);
        }
        if !in_src {
            continue;
        }
        for function in source.functions() {
            if function.lines > FUNCTION_LINES_MAX {
                let subject = format!("{} in {}", function.name, source.path);
                let why = format!("{} lines, at most {FUNCTION_LINES_MAX}", function.lines);
                breaches.add(&subject, source, function.line, &why);
            }
        }
    }
    breaches.assert_none();
}

#[test]
fn comments_fit_a_screen() {
    let mut breaches = Breaches::new("columns");
    for source in everything().values() {
        for (number, line) in (1..).zip(&source.lines) {
            let columns = line.raw.chars().count();
            if !line.comment.is_empty() && columns > COMMENT_COLUMNS_MAX {
                let why = format!("{columns} columns, at most {COMMENT_COLUMNS_MAX}");
                breaches.add(&line.comment, source, number, &why);
            }
        }
    }
    breaches.assert_none();
}

#[test]
fn nothing_is_left_behind() {
    let mut breaches = Breaches::new("leftovers");
    for source in everything().values() {
        let in_src = source.path.starts_with("src/");
        for (number, line) in (1..).zip(&source.lines) {
            let code = BANNED_CODE.iter().filter(|word| {
                let done = in_src && !line.test;
                (done || **word == "dbg!" || **word == "todo!") && line.code.contains(**word)
            });
            let comments = BANNED_COMMENTS
                .iter()
                .filter(|word| has_word(&line.comment, word));
            let table = source.path == "tests/tidy.rs";
            let paths = MACHINE_PATHS
                .iter()
                .filter(|path| !table && line.raw.contains(**path));
            for word in code.chain(comments).chain(paths) {
                breaches.add(
                    line.raw.trim(),
                    source,
                    number,
                    &format!("{word} left behind"),
                );
            }
        }
    }
    breaches.assert_none();
}

// === How ===

/// Sources of every kind that this package holds.
fn everything() -> BTreeMap<String, Source> {
    let folders = [
        "src",
        "tests",
        "benches",
        "examples",
        "load-tests",
        "fuzz/fuzz_targets",
        "fuzz/src",
    ];
    folders.iter().flat_map(|folder| read_all(folder)).collect()
}

/// Every import of one file by another, outside tests: who, whom, in which line.
fn imports(sources: &BTreeMap<String, Source>) -> Vec<(&Source, &Source, usize)> {
    let mut found = Vec::new();
    for source in sources
        .values()
        .filter(|source| source.path != "src/lib.rs")
    {
        for mention in source.mentions() {
            let target = absolute(source, &mention).and_then(|path| find_file(sources, &path));
            if let Some(target) = target.filter(|target| target.path != source.path) {
                found.push((source, target, mention.line));
            }
        }
    }
    found
}

/// A path from the root of the library; `None` for what is not ours.
fn absolute(source: &Source, mention: &Mention) -> Option<Vec<String>> {
    let mut rest = mention.parts.as_slice();
    let mut module = source.module();
    match rest[0].as_str() {
        "crate" | "chat_svc" => return Some(rest[1..].to_vec()),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                module.pop();
                rest = &rest[1..];
            }
        }
        // A module of this file's own, or a crate.
        child => {
            let declares = |line: &source::Line| line.code.ends_with(&format!("mod {child};"));
            if !source.lines.iter().any(declares) {
                return None;
            }
        }
    }
    module.extend_from_slice(rest);
    Some(module)
}

/// The file that holds what the path names: the deepest module on the way.
fn find_file<'a>(sources: &'a BTreeMap<String, Source>, path: &[String]) -> Option<&'a Source> {
    let depths = (1..=path.len()).rev();
    depths
        .into_iter()
        .find_map(|depth| find_module(sources, &path[..depth]))
}

fn find_module<'a>(sources: &'a BTreeMap<String, Source>, path: &[String]) -> Option<&'a Source> {
    let path = format!("src/{}", path.join("/"));
    let file = sources.get(&format!("{path}.rs"));
    file.or_else(|| sources.get(&format!("{path}/mod.rs")))
}

/// The first folder or file name below `src/`.
fn top(source: &Source) -> &str {
    let name = source.path.trim_start_matches("src/");
    name.split('/')
        .next()
        .unwrap_or(name)
        .trim_end_matches(".rs")
}

fn floor(name: &str) -> Option<usize> {
    let found = FLOORS.iter().find(|(_, names)| names.contains(&name));
    found.map(|(floor, _)| *floor)
}

fn is_impure(mention: &Mention) -> bool {
    let parts: Vec<_> = mention.parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["tokio" | "tokio_util" | "getrandom", ..] => true,
        // Addresses are words, sockets are not.
        ["std", "net", name, ..] => !name.starts_with("Ip") && !name.starts_with("Socket"),
        ["std", "fs" | "process" | "thread" | "env", ..] => true,
        ["fs" | "thread", ..] => true,
        [.., "Instant" | "SystemTime", "now"] => true,
        _ => false,
    }
}

/// A shortest way from `start` back to it; reported once, by its first file.
fn ring_through<'a>(
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    start: &'a str,
) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(way) = (!ways.is_empty()).then(|| ways.remove(0)) {
        let last = way[way.len() - 1];
        for next in graph.get(last).into_iter().flatten().copied() {
            if next == start {
                let first = way.iter().min() == Some(&start);
                return first.then(|| [way, vec![start]].concat());
            }
            if seen.insert(next) {
                ways.push([way.clone(), vec![next]].concat());
            }
        }
    }
    None
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric())
        .any(|part| part == word)
}

/// What breaks one rule, but for the exceptions.
struct Breaches {
    rule: &'static str,
    found: Vec<String>,
    subjects: BTreeSet<String>,
}

impl Breaches {
    fn new(rule: &'static str) -> Breaches {
        Breaches {
            rule,
            found: Vec::new(),
            subjects: BTreeSet::new(),
        }
    }

    fn add(&mut self, subject: &str, source: &Source, line: usize, why: &str) {
        self.subjects.insert(subject.to_string());
        let excepted =
            |(rule, what, _): &(&str, &str, &str)| *rule == self.rule && *what == subject;
        if !EXCEPTIONS.iter().any(excepted) {
            self.found
                .push(format!("{}:{line}: {subject}: {why}", source.path));
        }
    }

    fn assert_none(mut self) {
        let stale = EXCEPTIONS
            .iter()
            .filter(|(rule, what, _)| *rule == self.rule && !self.subjects.contains(*what));
        self.found
            .extend(stale.map(|(_, what, _)| format!("no longer an exception: {what}")));
        assert!(
            self.found.is_empty(),
            "rule {:?}:\n{}",
            self.rule,
            self.found.join("\n")
        );
    }
}
