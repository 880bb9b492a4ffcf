//! Nearly identical texts, found by MinHash in memory that does not grow with
//! their length.

use std::collections::HashMap;

use crate::patch::{Hunk, Patch, Side};

/// Texts count as nearly identical from this share of common token runs on.
pub const DEFAULT_THRESHOLD: f64 = 0.8;

/// Tokens of a run.
const RUN: usize = 4;

/// Hashes of a signature, in bands of [`ROWS`].
const HASHES: usize = 64;
const ROWS: usize = 4;
const BANDS: usize = HASHES / ROWS;

/// With fewer runs, only equality is looked at: similarity of short texts
/// means nothing.
const FEWEST: usize = 12;

type Signature = [u32; HASHES];

/// What is remembered of a text.
#[derive(Debug, Clone)]
pub struct Sketch {
    exact: u64,
    tokens: usize,
    signature: Option<Box<Signature>>,
}

impl Sketch {
    /// Of tokens, in order.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let hashes: Vec<u64> = tokens.into_iter().map(|t| hash(t.as_bytes())).collect();
        let fold = |run: &[u64]| run.iter().fold(1, |all, h| mix(all ^ h));
        let mut runs: Vec<u64> = hashes.windows(RUN).map(fold).collect();
        runs.sort_unstable();
        runs.dedup();
        Self {
            exact: fold(&hashes),
            tokens: hashes.len(),
            signature: (runs.len() >= FEWEST).then(|| Box::new(signature(&runs))),
        }
    }

    /// Of a program: its words and signs without white space, comments (`#`)
    /// and blank lines.
    pub fn of_code(code: &str) -> Self {
        Self::new(code.lines().flat_map(tokens))
    }

    /// Of the lines that a patch adds and removes, whatever their files.
    pub fn of_patch(patch: &Patch) -> Self {
        let lines: Vec<(Side, String)> = patch
            .files
            .iter()
            .flat_map(|f| f.hunks())
            .flat_map(|h| &h.lines)
            .filter(|l| l.side != Side::Context)
            .map(|l| (l.side, String::from_utf8_lossy(&l.text).into_owned()))
            .collect();
        let marked = lines.iter().flat_map(|(side, text)| {
            let mark = if *side == Side::New { "+" } else { "-" };
            let mut line = tokens(text);
            if !line.is_empty() {
                line.insert(0, mark);
            }
            line
        });
        Self::new(marked)
    }

    /// Whether there is anything to compare.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Hash of all tokens.
    pub(super) fn exact(&self) -> u64 {
        self.exact
    }

    /// Number of tokens.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }
}

/// The functions that a patch shows before the change and after it, each with
/// the lines that the patch has of it.
pub(super) fn functions(patch: &Patch) -> Vec<Sketch> {
    let mut out = Vec::new();
    for hunk in patch.files.iter().flat_map(|f| f.hunks()) {
        for side in [Side::Old, Side::New] {
            out.extend(functions_of(hunk, side));
        }
    }
    out
}

fn functions_of(hunk: &Hunk, side: Side) -> Vec<Sketch> {
    let lines = hunk.lines.iter();
    let texts = lines
        .filter(|l| l.side == Side::Context || l.side == side)
        .map(|l| String::from_utf8_lossy(&l.text).into_owned());
    let mut all: Vec<Vec<String>> = Vec::new();
    for text in texts {
        let start = text.trim_start();
        if ["def ", "async def ", "class "]
            .iter()
            .any(|k| start.starts_with(k))
        {
            all.push(Vec::new());
        }
        if let Some(last) = all.last_mut() {
            last.push(text);
        }
    }
    let long = all.iter().filter(|f| f.len() > 4);
    long.map(|f| Sketch::of_code(&f.concat())).collect()
}

/// Words and signs of a line of code.
fn tokens(line: &str) -> Vec<&str> {
    let line = line.trim();
    if line.starts_with('#') {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut start = None;
    for (at, c) in line.char_indices() {
        let word = c.is_alphanumeric() || c == '_';
        match (word, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                out.push(&line[from..at]);
                start = None;
            }
            _ => {}
        }
        if !word && !c.is_whitespace() {
            out.push(&line[at..at + c.len_utf8()]);
        }
    }
    out.extend(start.map(|from| &line[from..]));
    out
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A bijection that spreads every bit (the finaliser of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn signature(runs: &[u64]) -> Signature {
    let mut out = [u32::MAX; HASHES];
    for (at, least) in out.iter_mut().enumerate() {
        let salt = mix(at as u64);
        // The upper half of a mixed word is as good as the whole.
        let hashes = runs.iter().map(|run| (mix(run ^ salt) >> 32) as u32);
        *least = hashes.min().unwrap_or(u32::MAX);
    }
    out
}

/// Sketches with their owners, searchable.
#[derive(Debug)]
pub(super) struct NearIndex {
    threshold: f64,
    exact: HashMap<u64, u32>,
    owners: Vec<u32>,
    signatures: Vec<Signature>,
    /// Hash of a band -> the newest signature that has it; `next` chains the
    /// older ones.
    heads: HashMap<u64, u32>,
    next: Vec<[u32; BANDS]>,
}

/// End of a chain.
const NONE: u32 = u32::MAX;

impl NearIndex {
    pub fn new(threshold: f64) -> Self {
        Self {
            threshold,
            exact: HashMap::new(),
            owners: Vec::new(),
            signatures: Vec::new(),
            heads: HashMap::new(),
            next: Vec::new(),
        }
    }

    /// The first owner of an equal text, else an owner of a nearly identical
    /// one, and how similar it is.
    pub fn find(&self, sketch: &Sketch) -> Option<(u32, f64)> {
        if sketch.is_empty() {
            return None;
        }
        if let Some(owner) = self.exact.get(&sketch.exact) {
            return Some((*owner, 1.0));
        }
        let signature = sketch.signature.as_deref()?;
        for band in 0..BANDS {
            let head = self.heads.get(&band_key(signature, band));
            let mut at = head.copied().unwrap_or(NONE);
            while at != NONE {
                let index = at as usize;
                let similarity = similarity(signature, &self.signatures[index]);
                if similarity >= self.threshold {
                    return Some((self.owners[index], similarity));
                }
                at = self.next[index][band];
            }
        }
        None
    }

    pub fn insert(&mut self, owner: u32, sketch: Sketch) {
        if sketch.is_empty() {
            return;
        }
        if self.exact.contains_key(&sketch.exact) {
            return;
        }
        self.exact.insert(sketch.exact, owner);
        let Some(signature) = sketch.signature else {
            return;
        };
        let Ok(at) = u32::try_from(self.owners.len()) else {
            return;
        };
        let mut chain = [NONE; BANDS];
        for (band, link) in chain.iter_mut().enumerate() {
            let key = band_key(&signature, band);
            *link = self.heads.insert(key, at).unwrap_or(NONE);
        }
        self.owners.push(owner);
        self.signatures.push(*signature);
        self.next.push(chain);
    }
}

fn band_key(signature: &Signature, band: usize) -> u64 {
    let rows = &signature[band * ROWS..(band + 1) * ROWS];
    let start = mix(band as u64);
    rows.iter()
        .fold(start, |key, row| mix(key ^ u64::from(*row)))
}

/// Estimate of the share of common runs.
fn similarity(a: &Signature, b: &Signature) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    same as f64 / HASHES as f64
}
