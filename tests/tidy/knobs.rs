//! Every knob of the configuration is explained in the README.

use std::fs;
use std::path::Path;

#[test]
fn every_knob_stands_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = fs::read_to_string(root.join("src/config.rs")).expect("src/config.rs");
    for file in fs::read_dir(root.join("src/config")).expect("src/config") {
        config += &fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let readme = fs::read_to_string(root.join("README.md"))
        .expect("there is no README.md, so no knob of src/config.rs is explained to anybody");
    let knobs = knobs(&config);
    assert!(
        !knobs.is_empty(),
        "src/config.rs names no environment variable"
    );
    let rows: Vec<_> = readme
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    let stands = |knob: &String| rows.iter().any(|row| row.contains(&format!("`{knob}`")));
    let missing: Vec<_> = knobs.iter().filter(|knob| !stands(knob)).collect();
    assert!(
        missing.is_empty(),
        "knobs that no table row of README.md has: {missing:#?}"
    );
}

/// Environment variables that clap's attributes name: `env = "NAME"`, or `env` alone for the field's name.
fn knobs(config: &str) -> Vec<String> {
    let mut found = Vec::new();
    for attribute in config.split("#[arg(").skip(1) {
        let (inside, after) = attribute.split_once(")]").unwrap_or((attribute, ""));
        for option in inside.split(',') {
            match option.trim().split_once('=') {
                Some((key, name)) if key.trim() == "env" => {
                    found.push(name.trim().trim_matches('"').to_string());
                }
                None if option.trim() == "env" => found.push(field_name(after).to_uppercase()),
                _ => {}
            }
        }
    }
    found
}

/// The name of the field that follows an attribute, past further attributes and comments.
fn field_name(after: &str) -> &str {
    let fields = after
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '/']));
    let field = fields.filter_map(|line| line.split_once(':')).next();
    field.map_or("", |(name, _)| {
        name.trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ")
    })
}
