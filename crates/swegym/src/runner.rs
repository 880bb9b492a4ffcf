//! The trusted test runner's files (docs/design/runner.md), as a layer.

use std::fs;
use std::io;
use std::path::Path;

/// Where the runner lives in a sandbox.
pub const DIR: &str = "/opt/swegym/runner";

/// Where the claim (channel and key) waits for the interpreter that runs the
/// tests. The `.pth` line names it.
pub const CLAIM: &str = "/tmp/.swegym-claim";

const FILES: &[(&str, &str)] = &[
    ("launch.sh", include_str!("../runner/launch.sh")),
    ("swegym_hook.py", include_str!("../runner/swegym_hook.py")),
    (
        "swegym_pytest.py",
        include_str!("../runner/swegym_pytest.py"),
    ),
    ("swegym_sympy.py", include_str!("../runner/swegym_sympy.py")),
    (
        "swegym_sympy_test.py",
        include_str!("../runner/swegym_sympy_test.py"),
    ),
    ("swegym_trace.py", include_str!("../runner/swegym_trace.py")),
    (
        "swegym_unittest.py",
        include_str!("../runner/swegym_unittest.py"),
    ),
];

/// The start-up hook; sorts behind every other `.pth` file.
const PTH: (&str, &str) = ("zzz_swegym.pth", include_str!("../runner/zzz_swegym.pth"));

/// Digest of all files: part of every result's key.
pub fn digest() -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in FILES.iter().chain([&PTH]) {
        hasher.update(name.as_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Writes the runner into a layer that is mounted above an environment.
///
/// # Errors
/// If a file cannot be written.
pub fn write_layer(layer: &Path, site_packages: &str) -> io::Result<()> {
    let below = |path: &str| layer.join(path.trim_start_matches('/'));
    let dir = below(DIR);
    fs::create_dir_all(&dir)?;
    for (name, text) in FILES {
        fs::write(dir.join(name), text)?;
    }
    let site = below(site_packages);
    fs::create_dir_all(&site)?;
    fs::write(site.join(PTH.0), PTH.1)
}
