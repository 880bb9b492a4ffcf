//! Recipes of the codebases in `fixtures/recipes`, and of the specs.

mod build;
mod changelogs;
mod fixtures;
mod mutate;
mod pulls;
mod specs;
mod symptom;
mod twin;

use std::path::{Path, PathBuf};

/// A folder of the repository's fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

/// An interpreter as `discover` would report it.
fn interpreter(version: &str) -> swegym_forge::host::Interpreter {
    let prefix = PathBuf::from("/opt/python").join(version);
    swegym_forge::host::Interpreter {
        version: version.parse().expect("a version"),
        executable: prefix.join("bin/python3"),
        prefix,
        implementation: swegym_forge::host::Implementation::CPython,
        managed: false,
    }
}

/// A machine with the usual versions.
fn machine() -> Vec<swegym_forge::host::Interpreter> {
    [
        "3.13.0", "3.12.1", "3.11.7", "3.10.13", "3.9.18", "3.8.18", "3.7.16", "3.6.15", "2.7.18",
    ]
    .map(interpreter)
    .into()
}
