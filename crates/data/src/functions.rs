//! Which functions a patch edits, as far as its text tells.

use std::collections::BTreeSet;

use crate::patch::{Hunk, Patch, Side};

/// Keywords that open a function or class in the languages of the datasets.
const OPENERS: [&str; 10] = [
    "def",
    "class",
    "func",
    "fn",
    "function",
    "interface",
    "struct",
    "impl",
    "trait",
    "module",
];

/// Number of distinct functions (or classes, outside of functions) with
/// changed lines. A changed line belongs to the nearest header above it in its
/// hunk, else to the one git names behind the `@@`.
pub(crate) fn edited(patch: &Patch) -> usize {
    edits(patch).len()
}

/// The same functions, each as `path:name`, sorted; a file without any is
/// there by its path.
pub(crate) fn names(patch: &Patch) -> Vec<String> {
    let edits = edits(patch);
    let without = patch.files.iter().map(|f| f.new_path.as_str());
    let without = without.filter(|path| edits.iter().all(|(p, _)| p != path));
    let mut names: Vec<String> = edits
        .iter()
        .map(|(p, name)| format!("{p}:{name}"))
        .collect();
    names.extend(without.map(str::to_owned));
    names.sort();
    names
}

fn edits(patch: &Patch) -> BTreeSet<(&str, String)> {
    let mut seen = BTreeSet::new();
    for file in &patch.files {
        for hunk in file.hunks() {
            for header in headers(hunk) {
                seen.insert((file.new_path.as_str(), header));
            }
        }
    }
    seen
}

fn headers(hunk: &Hunk) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut current = header(&hunk.section);
    for line in &hunk.lines {
        if let Some(name) = header(&line.text) {
            current = Some(name);
        }
        if line.side != Side::Context
            && !line.text.trim_ascii().is_empty()
            && let Some(name) = &current
        {
            found.insert(name.clone());
        }
    }
    found
}

/// Name of the function that a line opens.
fn header(line: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace().peekable();
    let modifiers = [
        "async",
        "pub",
        "static",
        "export",
        "default",
        "public",
        "private",
        "protected",
        "abstract",
        "const",
        "unsafe",
    ];
    while words.next_if(|word| modifiers.contains(word)).is_some() {}
    let opener = words.next()?;
    if !OPENERS.contains(&opener) {
        return None;
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    let name: String = rest
        .trim_start_matches('*')
        .chars()
        .take_while(|c| c.is_alphanumeric() || "_.:".contains(*c))
        .collect();
    let name = name.trim_end_matches(':').to_owned();
    (!name.is_empty()).then_some(name)
}
