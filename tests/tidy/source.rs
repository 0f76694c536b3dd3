//! Rust source read as text: comments and literals set apart, test code marked, paths and functions found.
//!
//! A reader of tokens, not a compiler: it knows nothing of macros' insides or of names brought in by `*`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One file.
pub struct Source {
    /// From the package's root, for example `src/chat/id.rs`.
    pub path: String,
    pub lines: Vec<Line>,
    /// The lines' code, joined by line feeds.
    code: Vec<char>,
}

pub struct Line {
    pub raw: String,
    /// With comments and the insides of literals blanked.
    pub code: String,
    /// What stands in comments.
    pub comment: String,
    /// Part of an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A path as written, groups of a `use` taken apart: `crate::chat::id::UserId`.
pub struct Mention {
    /// Counted from 1.
    pub line: usize,
    pub parts: Vec<String>,
}

/// A function with a body.
pub struct Function {
    pub line: usize,
    pub name: String,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

/// All `.rs` files below `folder`, by path. Those that are modules of tests only are marked as such.
pub fn read_all(folder: &str) -> BTreeMap<String, Source> {
    let mut sources = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    collect(root, &root.join(folder), &mut sources);
    // Such a file may declare further ones.
    loop {
        let mut more = false;
        for path in test_files(&sources) {
            if let Some(source) = sources.get_mut(&path).filter(|file| !file.is_test()) {
                source.lines.iter_mut().for_each(|line| line.test = true);
                more = true;
            }
        }
        if !more {
            return sources;
        }
    }
}

fn collect(root: &Path, folder: &Path, sources: &mut BTreeMap<String, Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root");
            let name = name.to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a readable source file");
            sources.insert(name.clone(), Source::new(name, &text));
        }
    }
}

/// Files declared by `#[cfg(test)] mod name;`.
fn test_files(sources: &BTreeMap<String, Source>) -> Vec<String> {
    let mut files = Vec::new();
    for source in sources.values() {
        let tests = source.lines.iter().filter(|line| line.test);
        for line in tests {
            let declared = line.code.trim().strip_suffix(';');
            if let Some(name) = declared.and_then(|text| text.split("mod ").nth(1)) {
                let folder = source.folder();
                files.push(format!("{folder}/{name}.rs"));
                files.push(format!("{folder}/{name}/mod.rs"));
            }
        }
    }
    files
}

impl Source {
    pub fn new(path: String, text: &str) -> Source {
        let (code, comments) = blank(text);
        let lines = text.lines().zip(code.split('\n')).zip(comments.split('\n'));
        let lines = lines.map(|((raw, code), comment)| Line {
            raw: raw.to_string(),
            code: code.to_string(),
            comment: comment.trim().to_string(),
            test: false,
        });
        let mut source = Source {
            path,
            lines: lines.collect(),
            code: code.chars().collect(),
        };
        source.mark_tests();
        source
    }

    /// Whether it holds nothing but tests.
    pub fn is_test(&self) -> bool {
        self.lines.iter().all(|line| line.test)
    }

    /// Lines outside tests, with their numbers.
    pub fn own_lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        (1..).zip(&self.lines).filter(|(_, line)| !line.test)
    }

    /// The folder that holds this file's child modules.
    pub fn folder(&self) -> String {
        let stem = self.path.trim_end_matches(".rs");
        let stem = stem
            .strip_suffix("/mod")
            .or(stem.strip_suffix("/lib"))
            .unwrap_or(stem);
        stem.strip_suffix("/main").unwrap_or(stem).to_string()
    }

    /// This file as a module: `["chat", "id"]`; empty for the root.
    pub fn module(&self) -> Vec<String> {
        let folder = self.folder();
        let names = folder.split('/').skip(1);
        names.map(str::to_string).collect()
    }

    /// Every path outside tests, in order.
    pub fn mentions(&self) -> Vec<Mention> {
        let mut found = Vec::new();
        let mut at = 0;
        let mut line = 1;
        while at < self.code.len() {
            let start = at;
            if starts_ident(&self.code, at) {
                let mut paths = Vec::new();
                at = read_path(&self.code, at, &mut Vec::new(), &mut paths);
                let own = !self.lines[line - 1].test;
                let many = paths.into_iter().filter(|parts| own && parts.len() > 1);
                found.extend(many.map(|parts| Mention { line, parts }));
            } else {
                at += 1;
            }
            line += self.code[start..at].iter().filter(|c| **c == '\n').count();
        }
        found
    }

    /// Every function outside tests that has a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        let mut line = 1;
        for at in 0..self.code.len() {
            line += usize::from(self.code[at] == '\n');
            let is_fn = starts_ident(&self.code, at) && word(&self.code, at) == "fn";
            if !is_fn || self.lines[line - 1].test {
                continue;
            }
            let name = word(&self.code, at + 3);
            if let Some(end) = self.body_end(at).filter(|_| !name.is_empty()) {
                let lines = self.code[at..end].iter().filter(|c| **c == '\n').count() + 1;
                found.push(Function { line, name, lines });
            }
        }
        found
    }

    /// Where the body of the item at `at` closes; `None` when it ends in `;`.
    fn body_end(&self, at: usize) -> Option<usize> {
        let mut round = 0i32;
        let mut curly = 0i32;
        for (offset, c) in self.code[at..].iter().enumerate() {
            match c {
                '(' | '[' => round += 1,
                ')' | ']' => round -= 1,
                '{' => curly += 1,
                '}' => {
                    curly -= 1;
                    if curly == 0 {
                        return Some(at + offset);
                    }
                }
                ';' if round == 0 && curly == 0 => return None,
                _ => {}
            }
        }
        None
    }

    fn mark_tests(&mut self) {
        let code: String = self.code.iter().collect();
        for (start, attribute) in code.match_indices("#[cfg(test)]") {
            let first = code[..start].matches('\n').count();
            let chars = code[..start + attribute.len()].chars().count();
            let end = self.body_end(chars).unwrap_or_else(|| {
                let rest = self.code[chars..].iter().position(|c| *c == ';');
                chars + rest.unwrap_or(0)
            });
            let last = self.code[..end].iter().filter(|c| **c == '\n').count();
            self.lines[first..=last]
                .iter_mut()
                .for_each(|line| line.test = true);
        }
    }
}

// === Paths ===

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a word starts here that is not the tail of another one, of a path, or of a field or method access.
fn starts_ident(code: &[char], at: usize) -> bool {
    if !is_ident(code[at]) || code[at].is_ascii_digit() {
        return false;
    }
    let before = |back: usize| at.checked_sub(back).map(|place| code[place]);
    match before(1) {
        Some(c) if is_ident(c) => false,
        Some(':') => before(2) != Some(':'),
        Some('.') => before(2) == Some('.'),
        Some('$' | '\'') => false,
        _ => true,
    }
}

fn word(code: &[char], at: usize) -> String {
    let rest = code.get(at..).unwrap_or_default();
    rest.iter().take_while(|c| is_ident(**c)).collect()
}

/// Reads a path, or a tree of them, at `at`; where it ends.
fn read_path(
    code: &[char],
    mut at: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    let depth = prefix.len();
    loop {
        let name = word(code, at);
        at += name.chars().count();
        let group_itself = name == "self" && depth > 0;
        if !name.is_empty() && !group_itself {
            prefix.push(name);
        }
        if !code[at..].starts_with(&[':', ':']) {
            break;
        }
        at = skip_blank(code, at + 2);
        if code.get(at) == Some(&'{') {
            at = read_group(code, at, prefix, found);
            prefix.truncate(depth);
            return at;
        }
        if !code.get(at).is_some_and(|c| is_ident(*c)) {
            break;
        }
    }
    found.push(prefix.clone());
    prefix.truncate(depth);
    at
}

fn read_group(
    code: &[char],
    mut at: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    at += 1;
    while at < code.len() && code[at] != '}' {
        if is_ident(code[at]) {
            at = read_path(code, at, prefix, found);
            // `as Name` is a name of ours, not a path.
            let next = skip_blank(code, at);
            if word(code, next) == "as" {
                let name = skip_blank(code, next + 2);
                at = name + word(code, name).chars().count();
            }
        } else {
            at += 1;
        }
    }
    (at + 1).min(code.len())
}

fn skip_blank(code: &[char], at: usize) -> usize {
    let blanks = code[at..].iter().take_while(|c| c.is_whitespace()).count();
    at + blanks
}

// === Blanking ===

/// The text twice, each with its line feeds in place: once with comments and insides of literals blanked, once with
/// only the comments.
fn blank(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < chars.len() {
        let (kind, length) = piece(&chars, at);
        for c in &chars[at..at + length] {
            let blank = if *c == '\n' { '\n' } else { ' ' };
            code.push(if kind == Piece::Code { *c } else { blank });
            comments.push(if kind == Piece::Comment { *c } else { blank });
        }
        at += length;
    }
    (code, comments)
}

#[derive(PartialEq)]
enum Piece {
    Code,
    Comment,
    Literal,
}

/// What stands at `at`, and how far it reaches.
fn piece(chars: &[char], at: usize) -> (Piece, usize) {
    let rest = &chars[at..];
    if rest.starts_with(&['/', '/']) {
        let length = rest.iter().take_while(|c| **c != '\n').count();
        return (Piece::Comment, length);
    }
    if rest.starts_with(&['/', '*']) {
        let end = rest.windows(2).skip(2).position(|pair| pair == ['*', '/']);
        return (Piece::Comment, end.map_or(rest.len(), |end| end + 4));
    }
    let after_word = at > 0 && is_ident(chars[at - 1]) && !matches!(chars[at - 1], 'b' | 'c');
    if rest[0] == 'r'
        && !after_word
        && let Some(length) = raw_string(rest)
    {
        return (Piece::Literal, length);
    }
    match rest[0] {
        '"' => (Piece::Literal, quoted(rest, '"')),
        // A lifetime has no closing quote two places on.
        '\'' if rest.get(1) == Some(&'\\') => (Piece::Literal, quoted(rest, '\'')),
        '\'' if rest.get(2) == Some(&'\'') => (Piece::Literal, 3),
        _ => (Piece::Code, 1),
    }
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let start = 2 + hashes;
    let length = rest[start..]
        .windows(end.len())
        .position(|window| window == end)?;
    Some(start + length + end.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}
