//! Formats against real and made files, patches against git and patch, the
//! hub against a server on loopback.

mod curate;
mod datasets;
mod hub;
mod patches;
mod predictions;
mod run_dir;
mod trajectories;

use std::path::{Path, PathBuf};

/// A folder of fixtures.
fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

/// The folder of real data, if there is one; says so if not.
fn shared(test: &str) -> Option<PathBuf> {
    let dir = match std::env::var_os("SWEGYM_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let data = dir.join("data");
    if data.is_dir() {
        return Some(data);
    }
    skip(test, "no real data (SWEGYM_SHARED)");
    None
}

/// Says that a test has not tested.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}
