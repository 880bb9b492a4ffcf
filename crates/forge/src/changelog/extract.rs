//! From blocks to entries.

use std::collections::HashMap;

use jiff::civil::Date;
use pep440_rs::Version;

use super::block::Block;
use super::files::{self, Markup, Role};
use super::{Document, Entry, Kind, Noise, heading, markdown, noise, rst};
use crate::pattern::patterns;

/// Longest entry that is kept, bytes; the rest is cut.
const MAX_ENTRY: usize = 16 << 10;

/// Longest document that is read, bytes; newest versions stand first.
const MAX_DOCUMENT: usize = 4 << 20;

patterns! {
    REFERENCE = r"(?:^|[^\w&/#])(#\d+)\b|(?i:\bgh-?(\d+)\b)|(?i:\b(?:issue|pr|pull request|bug|ticket)s?[ -]?#?(\d+)\b)|\b(bpo-\d+)\b";
    DATE_LINE = r"(?i)^\W*(?:release date|released|date|yanked)?\W*(?:on|:)?.{0,12}$";
    NO_DATE = r"(?i)^\W*(?:to be released|tbd|not (?:yet )?released|unreleased|yanked|in development)\W*$";
    PREFIX = r"(?i)^\W*(bug ?fix|fix(?:ed)?|feature|feat|new|enhancement|security|docs?|documentation|perf(?:ormance)?|breaking|deprecat(?:ed|ion)|removed|internal|ci|chore|tests?|build|refactor|misc)\b(?: change)?(?:\([^)]*\))?[\]:]";
}

/// All entries of a document.
pub(super) fn entries(document: &Document<'_>) -> Vec<Entry> {
    let Some(role) = files::role(document.path) else {
        return Vec::new();
    };
    let text = cut(document.text, MAX_DOCUMENT).trim_start_matches('\u{feff}');
    let text = text.replace("\r\n", "\n");
    match role {
        Role::Fragment => fragment(document.path, &text),
        Role::Readme => {
            let (markup, text) = description(document.path, &text);
            let blocks = changelog_section(blocks(markup, &text));
            Collector::new(document.path, None).run(&blocks)
        }
        Role::Log => {
            let version = files::version_in_name(document.path);
            let markup = files::markup(document.path, &text);
            Collector::new(document.path, version).run(&blocks(markup, &text))
        }
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn blocks(markup: Markup, text: &str) -> Vec<Block> {
    match markup {
        Markup::Markdown => markdown::blocks(text),
        Markup::Rst => rst::blocks(text),
    }
}

/// The long description of a `PKG-INFO`; other texts as they are.
fn description(path: &str, text: &str) -> (Markup, String) {
    if !text.starts_with("Metadata-Version:") {
        return (files::markup(path, text), text.to_owned());
    }
    let (header, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let markdown = header
        .to_lowercase()
        .contains("description-content-type: text/markdown");
    let markup = if markdown {
        Markup::Markdown
    } else {
        Markup::Rst
    };
    if !body.trim().is_empty() {
        return (markup, body.to_owned());
    }
    // The older form: a folded header.
    let folded = header.split_once("\nDescription: ").map_or("", |d| d.1);
    let unfold = |l: &str| l.strip_prefix("        ").unwrap_or(l).to_owned();
    let lines: Vec<String> = folded.lines().map(unfold).collect();
    (markup, lines.join("\n"))
}

/// The part of a readme below a heading such as "Changelog".
fn changelog_section(blocks: Vec<Block>) -> Vec<Block> {
    let outer = |block: &Block| match block {
        Block::Heading { level, text } if files::is_log_name(&files::squash(text)) => Some(*level),
        _ => None,
    };
    let Some((start, outer)) = blocks
        .iter()
        .enumerate()
        .find_map(|(at, block)| Some((at, outer(block)?)))
    else {
        return Vec::new();
    };
    let inside = blocks.into_iter().skip(start + 1);
    inside
        .take_while(|b| match b {
            Block::Heading { level, text } => *level > outer || heading::loose(text).is_some(),
            _ => true,
        })
        .collect()
}

fn fragment(path: &str, text: &str) -> Vec<Entry> {
    let mut collector = Collector::new(path, None);
    collector.current = Some(Current::default());
    let blocks = blocks(files::markup(path, text), text);
    let mut entries = collector.run(&blocks).into_iter();
    let Some(mut first) = entries.next() else {
        return Vec::new();
    };
    for more in entries {
        first.text.push_str("\n\n");
        first.text.push_str(&more.text);
        first.references.extend(more.references);
    }
    if let Some(number) = files::fragment_number(path)
        && !first.references.contains(&number)
    {
        first.references.push(number);
    }
    first.prose = false;
    first.kind = files::fragment_kind(path);
    first.noise = noise::of(&first.text, first.kind);
    vec![first]
}

/// The version whose part of the document is being read.
#[derive(Debug, Clone, Default)]
struct Current {
    version: Option<Version>,
    /// Headings at this level or above end it.
    level: usize,
    /// Depth of the list items that are its entries.
    base: usize,
}

struct Section {
    level: usize,
    label: String,
    kind: Option<Kind>,
    /// Where an item is its heading: its depth.
    item: Option<usize>,
}

struct Collector<'a> {
    path: &'a str,
    current: Option<Current>,
    /// Level of the last heading by markup.
    level: usize,
    sections: Vec<Section>,
    out: Vec<Entry>,
    /// The last entry still takes text that belongs to it.
    open: bool,
    dates: HashMap<Version, Date>,
}

impl<'a> Collector<'a> {
    fn new(path: &'a str, version: Option<Version>) -> Self {
        let current = version.map(|version| Current {
            version: Some(version),
            ..Current::default()
        });
        Self {
            path,
            current,
            level: 0,
            sections: Vec::new(),
            out: Vec::new(),
            open: false,
            dates: HashMap::new(),
        }
    }

    fn run(mut self, blocks: &[Block]) -> Vec<Entry> {
        for (at, block) in blocks.iter().enumerate() {
            let next = blocks.get(at + 1);
            match block {
                Block::Heading { level, text } => self.heading(*level + 1, text),
                Block::Item { depth, text } => self.item(*depth, text, next),
                Block::Text { depth: 0, text } => self.paragraph(text, next),
                Block::Text { text, .. } => self.append(&format!("\n\n{text}")),
                Block::Code { text, .. } => self.append(&format!("\n\n```\n{text}\n```")),
            }
        }
        for entry in &mut self.out {
            finish(entry);
            let date = entry.version.as_ref().and_then(|v| self.dates.get(v));
            entry.date = date.copied();
        }
        self.out.retain(|e| !e.text.is_empty());
        mark_introductions(&mut self.out);
        self.out
    }

    fn start(&mut self, named: heading::Named, level: usize, base: usize) {
        if let (Some(version), Some(date)) = (&named.version, named.date) {
            self.dates.entry(version.clone()).or_insert(date);
        }
        self.sections.clear();
        self.open = false;
        self.current = Some(Current {
            version: named.version,
            level,
            base,
        });
    }

    fn heading(&mut self, level: usize, text: &str) {
        self.open = false;
        self.level = level;
        if let Some(named) = heading::loose(text) {
            self.start(named, level, 0);
            return;
        }
        let kind = heading::kind(text);
        match &self.current {
            // Some documents use one level for everything.
            Some(current) if level > current.level || kind.is_some() => {
                self.sections
                    .retain(|s| s.level < level && s.item.is_none());
                self.section(level, text, None);
            }
            _ => {
                self.current = None;
                self.sections.clear();
            }
        }
    }

    fn section(&mut self, level: usize, text: &str, item: Option<usize>) {
        let label = text.replace("**", "");
        let label = label.trim_end_matches(':').trim().to_owned();
        self.sections.push(Section {
            level,
            kind: heading::kind(&label),
            label,
            item,
        });
    }

    fn paragraph(&mut self, text: &str, next: Option<&Block>) {
        let was_open = std::mem::take(&mut self.open);
        self.sections.retain(|s| s.item.is_none());
        if let Some(named) = heading::strict(text) {
            // A line below a heading may repeat its version with the day.
            let current = self.current.as_ref();
            if current.is_some_and(|c| c.version == named.version) {
                self.date(named.date);
            } else {
                self.start(named, self.level + 1, 0);
            }
            return;
        }
        if self.current.is_none() {
            return;
        }
        let (date, rest) = heading::take_date(text);
        if NO_DATE.is_match(text) || (date.is_some() && DATE_LINE.is_match(&rest)) {
            self.date(date);
            return;
        }
        let heads_list = matches!(next, Some(Block::Item { depth: 0, .. }));
        if let Some(label) = heading::label(text).filter(|_| heads_list || text.starts_with("**")) {
            self.sections.retain(|s| s.level < usize::MAX);
            self.section(usize::MAX, &label, None);
            return;
        }
        // What a sentence with a colon announces belongs to it.
        if was_open && matches!(self.out.last(), Some(e) if e.text.ends_with(':')) {
            self.open = true;
            self.append(&format!("\n\n{text}"));
        } else {
            self.push(text, true);
        }
    }

    fn date(&mut self, date: Option<Date>) {
        let version = self.current.as_ref().and_then(|c| c.version.clone());
        if let (Some(version), Some(date)) = (version, date) {
            self.dates.entry(version).or_insert(date);
        }
    }

    fn item(&mut self, depth: usize, text: &str, next: Option<&Block>) {
        if self.current.as_ref().is_none_or(|c| depth < c.base) {
            if let Some((named, rest)) = heading::item(text) {
                self.start(named, self.level + 1, depth + 1);
                self.push(&rest, false);
                return;
            }
            if let Some(named) = heading::strict(text) {
                self.start(named, self.level + 1, depth + 1);
                return;
            }
        }
        let Some(current) = &self.current else { return };
        let base = current.base;
        self.sections.retain(|s| s.item.is_none_or(|d| depth > d));
        let headed = self.sections.iter().filter_map(|s| s.item).max();
        let base = headed.map_or(base, |d| d + 1);
        if depth > base && self.open {
            let indent = "  ".repeat(depth - base - 1);
            self.append(&format!("\n{indent}- {text}"));
            return;
        }
        let nested = matches!(next, Some(Block::Item { depth: d, .. }) if *d > depth);
        let one_word = !text.contains(char::is_whitespace) && !text.contains('`');
        let name = (one_word || super::is_path(text)).then(|| text.to_owned());
        if nested && let Some(label) = heading::item_label(text).or(name) {
            self.section(usize::MAX, &label, Some(depth));
            self.open = false;
            return;
        }
        self.push(text, false);
    }

    fn append(&mut self, text: &str) {
        if self.open
            && let Some(entry) = self.out.last_mut()
            && entry.text.len() + text.len() <= MAX_ENTRY
        {
            entry.text.push_str(text);
        }
    }

    fn push(&mut self, text: &str, prose: bool) {
        let Some(current) = &self.current else { return };
        self.out.push(Entry {
            text: cut(text, MAX_ENTRY).to_owned(),
            kind: self.sections.iter().rev().find_map(|s| s.kind),
            section: self.sections.last().map(|s| s.label.clone()),
            version: current.version.clone(),
            prose,
            path: self.path.to_owned(),
            ..Entry::default()
        });
        self.open = true;
    }
}

/// What is known once all of an entry's text is there.
fn finish(entry: &mut Entry) {
    entry.text = entry.text.replace("**", "").trim().to_owned();
    entry.references = references(&entry.text);
    if entry.kind.is_none() {
        let prefix = PREFIX.captures(&entry.text);
        entry.kind = prefix.and_then(|c| heading::kind(&c[1]));
    }
    entry.noise = noise::of(&entry.text, entry.kind);
}

/// Marks sentences that stand before the lists of a version without being
/// changes. Where a version has nothing but sentences, they are its changes.
fn mark_introductions(entries: &mut [Entry]) {
    for part in entries.chunk_by_mut(|a, b| a.version == b.version) {
        let lists = part.iter().any(|e| !e.prose);
        for entry in part.iter_mut().filter(|e| e.prose && e.section.is_none()) {
            if lists && entry.noise.is_none() {
                entry.noise = Some(Noise::Introduction);
            }
        }
    }
}

/// Issues and pull requests that a text names.
fn references(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for found in REFERENCE.captures_iter(text) {
        let group = |at| found.get(at).map(|m: regex::Match<'_>| m.as_str());
        let number = group(2).or(group(3)).map(|n| format!("#{n}"));
        let whole = group(1).or(group(4)).map(str::to_owned);
        if let Some(reference) = number.or(whole).filter(|r| !out.contains(r)) {
            out.push(reference);
        }
    }
    out
}
