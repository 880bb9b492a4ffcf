//! Which entries are about which change.

use std::collections::{BTreeMap, BTreeSet};

use super::Entry;

/// What a task changes and tests, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Focus {
    /// Paths of changed files.
    pub files: Vec<String>,
    /// Changed functions and classes, dotted or not.
    pub functions: Vec<String>,
    /// Ids of tests that change their result.
    pub tests: Vec<String>,
}

/// An entry and how well it fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Index of the entry.
    pub entry: usize,
    /// At least 0; see [`rank`].
    pub score: f64,
}

/// Below this, a shared word is chance: an entry must share a name that few
/// other entries have, or several words.
const ENOUGH: f64 = 1.0;

/// Weight of a whole name (`parse_date`) against a word of one (`date`).
const NAME: f64 = 3.0;

/// Words that say nothing about what changed.
const EMPTY: &[&str] = &[
    "test", "tests", "testing", "fix", "fixed", "fixes", "add", "added", "adds", "py", "src",
    "lib", "init", "main", "the", "and", "for", "with", "when", "that", "this", "not", "are",
    "was", "now", "from", "into", "can", "has", "have", "which", "where", "than", "then", "also",
    "all", "any", "new", "use", "used", "uses", "using", "bug", "issue", "support", "python",
    "class", "function", "method", "module", "self", "none", "true", "false", "value", "values",
    "should", "would", "does", "more", "some", "been", "will", "its", "non", "get", "set", "def",
    "error", "case", "return", "returns", "instead", "some", "without", "change", "changed", "if",
    "in", "is", "it", "of", "on", "or", "to", "an", "as", "at", "be", "by", "no",
];

/// All entries with how well they fit, best first; equal ones in their order.
///
/// The score sums what entry and change have in common: a whole identifier
/// counts three times as much as a word of one, and either counts the more the
/// fewer entries have it. Below 1, nothing but chance connects them.
pub fn rank(entries: &[Entry], focus: &Focus) -> Vec<Scored> {
    let known: Vec<Tokens> = entries.iter().map(of_entry).collect();
    let wanted = of_focus(focus);
    let rarity = Rarity::new(&known);
    let score = |(entry, tokens)| Scored {
        entry,
        score: rarity.shared(tokens, &wanted),
    };
    let mut out: Vec<Scored> = known.iter().enumerate().map(score).collect();
    out.sort_by(|a, b| b.score.total_cmp(&a.score));
    out
}

/// For each task the entries that are about it, by index and in order. An
/// entry goes to the task that it fits best, or to none; noise goes to none.
pub fn assign(entries: &[Entry], tasks: &[Focus]) -> Vec<Vec<usize>> {
    let known: Vec<Tokens> = entries.iter().map(of_entry).collect();
    let wanted: Vec<Tokens> = tasks.iter().map(of_focus).collect();
    let rarity = Rarity::new(&known);
    let mut out = vec![Vec::new(); tasks.len()];
    for (at, tokens) in known.iter().enumerate() {
        if entries[at].noise.is_some() {
            continue;
        }
        let scores = wanted.iter().map(|w| rarity.shared(tokens, w));
        // The first of equals.
        let best =
            scores.enumerate().fold(
                (0, 0.0),
                |best, (task, score)| {
                    if score > best.1 { (task, score) } else { best }
                },
            );
        if best.1 >= ENOUGH {
            out[best.0].push(at);
        }
    }
    out
}

#[derive(Debug, Default)]
struct Tokens {
    names: BTreeSet<String>,
    words: BTreeSet<String>,
}

/// How many entries have a token.
struct Rarity {
    entries: f64,
    names: BTreeMap<String, f64>,
    words: BTreeMap<String, f64>,
}

impl Rarity {
    fn new(all: &[Tokens]) -> Self {
        let mut rarity = Self {
            // A number of entries is far below 2^52.
            entries: all.len() as f64,
            names: BTreeMap::new(),
            words: BTreeMap::new(),
        };
        for tokens in all {
            for name in &tokens.names {
                *rarity.names.entry(name.clone()).or_default() += 1.0;
            }
            for word in &tokens.words {
                *rarity.words.entry(word.clone()).or_default() += 1.0;
            }
        }
        rarity
    }

    fn shared(&self, entry: &Tokens, wanted: &Tokens) -> f64 {
        let weight = |count: Option<&f64>| {
            let count = count.copied().unwrap_or(1.0);
            (1.0 + self.entries / count).ln() / (1.0 + self.entries).ln()
        };
        let names = entry.names.intersection(&wanted.names);
        let names: f64 = names.map(|n| NAME * weight(self.names.get(n))).sum();
        let words = entry.words.intersection(&wanted.words);
        let words: f64 = words.map(|w| 0.5 * weight(self.words.get(w))).sum();
        names + words
    }
}

fn of_focus(focus: &Focus) -> Tokens {
    let mut out = Tokens::default();
    for file in &focus.files {
        let stem = file.rsplit('/').next().unwrap_or(file);
        let stem = stem.split('.').next().unwrap_or(stem);
        // The folder of a package's `__init__` says more than its name.
        let stem = match stem {
            "__init__" => file.rsplit('/').nth(1).unwrap_or_default(),
            stem => stem,
        };
        add(&mut out, stem);
    }
    for function in &focus.functions {
        add(&mut out, function);
    }
    for test in &focus.tests {
        let id = test.split('[').next().unwrap_or(test);
        for part in id.split("::").flat_map(|p| p.rsplit('/').next()) {
            let part = part.trim_end_matches(".py");
            let bare = part.strip_prefix("test_").unwrap_or(part);
            add(&mut out, bare.strip_prefix("Test").unwrap_or(bare));
        }
    }
    out
}

fn of_entry(entry: &Entry) -> Tokens {
    let section = entry.section.as_deref().filter(|s| super::is_path(s));
    tokens(&format!("{} {}", section.unwrap_or_default(), entry.text))
}

fn tokens(text: &str) -> Tokens {
    let mut out = Tokens::default();
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')) {
        add(&mut out, word.trim_matches('.'));
    }
    out
}

/// Adds a name: the parts between its dots, and their words.
fn add(out: &mut Tokens, name: &str) {
    for part in name.split('.') {
        let bare = part.trim_matches('_');
        let words = words(bare);
        let compound = words.len() > 1;
        let useful = |w: &&String| {
            w.len() > 2 && !EMPTY.contains(&w.as_str()) && !w.bytes().all(|b| b.is_ascii_digit())
        };
        let kept: Vec<&String> = words.iter().filter(useful).collect();
        if !kept.is_empty() && (compound || kept[0].len() > 3) {
            out.names.insert(words.concat());
        }
        out.words.extend(kept.into_iter().map(|w| singular(w)));
    }
}

/// `parseDate_of` -> `parse`, `date`, `of`.
fn words(name: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && lower) {
            out.push(String::new());
        }
        if c.is_alphanumeric() {
            let last = out.last_mut().expect("never empty");
            last.extend(c.to_lowercase());
        }
        lower = c.is_lowercase();
    }
    out.retain(|w| !w.is_empty());
    out
}

fn singular(word: &str) -> String {
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 3 && !stem.ends_with('s') => stem.to_owned(),
        _ => word.to_owned(),
    }
}
