//! Rules of the house that the compiler does not know.

use libtest_mimic::{Failed, Trial};

use crate::support::root;

/// What each crate may use of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("agent", &["swegym-core"]),
    ("data", &["swegym-core"]),
    ("grade", &["swegym-core"]),
    ("store", &["swegym-core"]),
    ("sandbox", &["swegym-core"]),
    ("forge", &["swegym-core"]),
    ("learn", &["swegym-core"]),
];

/// Where `unsafe` may stand: system calls, and the processor's vectors.
const UNSAFE: &[&str] = &["crates/sandbox/", "crates/learn/src/kernel/"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("tidy: middle crates know only core", middle_crates),
        Trial::test(
            "tidy: no library prints, or is unsafe where it may not",
            sources,
        ),
    ]
}

fn middle_crates() -> Result<(), Failed> {
    for (name, allowed) in ALLOWED {
        let path = root().join("crates").join(name).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let ours = manifest
            .get("dependencies")
            .and_then(toml::Value::as_table)
            .into_iter()
            .flat_map(|table| table.keys())
            .filter(|key| key.starts_with("swegym"));
        for dependency in ours {
            if !allowed.contains(&dependency.as_str()) {
                return Err(format!("{} uses {dependency}", path.display()).into());
            }
        }
    }
    Ok(())
}

fn sources() -> Result<(), Failed> {
    let mut bad = Vec::new();
    for entry in walkdir::WalkDir::new(root().join("crates")) {
        let entry = entry?;
        let path = entry.path().strip_prefix(root())?.to_owned();
        let name = path.to_string_lossy().into_owned();
        let library = name.contains("/src/") && !name.starts_with("crates/cli/");
        if !library || !name.ends_with(".rs") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())?;
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let prints = ["println!(", "eprintln!(", "print!("]
                .iter()
                .any(|p| code.starts_with(p));
            let bare_unsafe =
                code.contains("unsafe {") && !UNSAFE.iter().any(|home| name.starts_with(home));
            if prints || bare_unsafe {
                bad.push(format!("{name}:{}: {code}", number + 1));
            }
        }
    }
    if bad.is_empty() {
        Ok(())
    } else {
        Err(bad.join("\n").into())
    }
}
