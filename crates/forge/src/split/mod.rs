//! Splits what a release changed into independent tasks.
//!
//! [`Release`] cuts changed files into parts (functions, methods, statements,
//! items of imports) and knows which of them need each other by name; any
//! subset gives files. [`search`] finds, by running tests over such subsets,
//! the least that each failing test needs, and groups what belongs together.
//! Running is the caller's. See docs/design/mining.md.

mod names;
mod search;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

pub use search::{Found, Group, Limits, Outcome, Question, search};

use crate::on_deep_stack;
use crate::python::Source;
use names::{Known, Names};
use units::{List, Unit};

/// Numbers of parts.
pub type Parts = BTreeSet<usize>;

/// Line length of imports that are put together.
const WIDTH: usize = 79;

/// A file of a release; `None` where it is not there.
#[derive(Debug, Clone, Copy)]
pub struct FileChange<'a> {
    /// Path from the root.
    pub path: &'a str,
    /// Text in the old release.
    pub before: Option<&'a str>,
    /// Text in the new one.
    pub after: Option<&'a str>,
}

/// Whether new classes are parts as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Half a new class is none.
    Sources,
    /// Classes of tests only hold them together.
    Tests,
}

/// What can be taken or left of a release.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// The file.
    pub path: String,
    /// Qualified names of its functions and classes.
    pub names: Vec<String>,
    /// Changed lines, old and new.
    pub weight: usize,
    /// Whether the program does not see the change.
    pub cosmetic: bool,
    /// Whether it is a function or method, so that a trace tells who runs it.
    pub function: bool,
    brings: Names,
    takes_away: Names,
    uses: Names,
    used: Names,
    at_import: Names,
}

/// A stretch of a file, in the order of both versions.
#[derive(Debug, Clone)]
enum Slot {
    Same(String),
    Changed {
        part: usize,
        old: Option<String>,
        new: Option<String>,
    },
    /// An import or `__all__`, whose items come and go one by one.
    List {
        old: Option<Box<(String, List)>>,
        new: Option<Box<(String, List)>>,
        items: Vec<Item>,
        /// What else changes of it: order, comments.
        rest: usize,
    },
}

#[derive(Debug, Clone)]
struct Item {
    text: String,
    /// `None` if both versions have it.
    part: Option<usize>,
    /// Whether the new version has it.
    new: bool,
}

#[derive(Debug, Clone)]
struct File {
    path: String,
    before: Option<String>,
    after: Option<String>,
    slots: Vec<(Slot, Option<Head>)>,
    /// Lines of the new version and the part that they belong to.
    lines: Vec<(Range<usize>, usize)>,
}

/// A slot that is the head or a member of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    class: String,
    head: bool,
}

/// A release in parts.
#[derive(Debug, Clone, Default)]
pub struct Release {
    files: Vec<File>,
    /// The parts, in the order of the files.
    pub parts: Vec<Part>,
    needs: Vec<Parts>,
}

impl Release {
    /// Cuts changed files into parts. Files that are no Python, or of which
    /// one version is no Python 3, are a part each.
    pub fn new(changes: &[FileChange<'_>], side: Side) -> Self {
        on_deep_stack(|| {
            let mut release = Self::default();
            for change in changes {
                release.add(change, side);
            }
            release.needs = release.connect();
            release
        })
    }

    fn add(&mut self, change: &FileChange<'_>, side: Side) {
        let mut file = File {
            path: change.path.to_owned(),
            before: change.before.map(str::to_owned),
            after: change.after.map(str::to_owned),
            slots: Vec::new(),
            lines: Vec::new(),
        };
        let cut = |text: Option<&str>| match text {
            None => Some(Vec::new()),
            Some(text) => {
                let src = Source::parse(text).ok()?;
                Some(units::of_module(change.path, &src))
            }
        };
        let units = change.path.ends_with(".py");
        let units = units.then(|| Some((cut(change.before)?, cut(change.after)?)));
        match units.flatten() {
            Some((old, new)) => Cut::new(self, &mut file, side).run(&old, &new),
            None => {
                let part = self.parts.len();
                self.parts.push(Part {
                    path: change.path.to_owned(),
                    weight: changed_lines(change.before, change.after),
                    ..Part::default()
                });
                let lines = change.after.map_or(0, |text| text.lines().count());
                file.lines.push((1..lines + 1, part));
                file.slots.push((
                    Slot::Changed {
                        part,
                        old: file.before.clone(),
                        new: file.after.clone(),
                    },
                    None,
                ));
            }
        }
        self.files.push(file);
    }

    /// Which parts each part cannot do without.
    fn connect(&self) -> Vec<Parts> {
        let mut bringers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            for name in &part.brings {
                bringers.entry(name).or_default().push(at);
            }
            for name in &part.used {
                users.entry(name).or_default().push(at);
            }
        }
        let of = |names: &Names, index: &BTreeMap<&str, Vec<usize>>| -> Parts {
            let found = names.iter().filter_map(|name| index.get(name.as_str()));
            found.flatten().copied().collect()
        };
        self.parts
            .iter()
            .enumerate()
            .map(|(at, part)| {
                let mut needs = of(&part.uses, &bringers);
                needs.extend(of(&part.takes_away, &users));
                needs.remove(&at);
                needs
            })
            .collect()
    }

    /// Parts that the program sees.
    pub fn live(&self) -> Parts {
        let live = |at: &usize| !self.parts[*at].cosmetic;
        (0..self.parts.len()).filter(live).collect()
    }

    /// Parts together with all that they need.
    pub fn closure(&self, of: &Parts) -> Parts {
        let mut found = of.clone();
        let mut todo: Vec<usize> = of.iter().copied().collect();
        while let Some(part) = todo.pop() {
            for &next in &self.needs[part] {
                if found.insert(next) {
                    todo.push(next);
                }
            }
        }
        found
    }

    /// The most of `parts` that needs none of `without`.
    pub fn without(&self, parts: &Parts, without: &Parts) -> Parts {
        let stays = |part: &usize| {
            let mut needed = self.closure(&[*part].into());
            needed.insert(*part);
            needed.is_disjoint(without)
        };
        parts.iter().copied().filter(stays).collect()
    }

    /// Changed lines of parts.
    pub fn weight(&self, parts: &Parts) -> usize {
        parts.iter().map(|&part| self.parts[part].weight).sum()
    }

    /// The changed part at a line of the new version of a file.
    pub fn at(&self, path: &str, line: usize) -> Option<usize> {
        let file = self.files.iter().find(|file| file.path == path)?;
        let holds = |(lines, _): &&(Range<usize>, usize)| lines.contains(&line);
        file.lines.iter().find(holds).map(|(_, part)| *part)
    }

    /// Parts that are needed by what else changed: `of` belongs to `other`.
    fn wanted(&self, names: &Names) -> Parts {
        let brings = |at: &usize| !self.parts[*at].brings.is_disjoint(names);
        (0..self.parts.len()).filter(brings).collect()
    }

    /// Parts of the sources that parts of tests name.
    pub fn named_by(&self, tests: &Release, parts: &Parts) -> Parts {
        let mut names = Names::new();
        for &part in parts {
            names.extend(tests.parts[part].uses.iter().cloned());
        }
        self.wanted(&names)
    }

    /// Parts of tests that can be imported where only `chosen` of the sources
    /// is there.
    pub fn importable(&self, sources: &Release, chosen: &Parts) -> Parts {
        let mut missing = Names::new();
        for (at, part) in sources.parts.iter().enumerate() {
            if !chosen.contains(&at) {
                missing.extend(part.brings.iter().cloned());
            }
        }
        let mut left: Parts = (0..self.parts.len()).collect();
        loop {
            let fails = |at: &usize| !self.parts[*at].at_import.is_disjoint(&missing);
            let gone: Vec<usize> = left.iter().copied().filter(fails).collect();
            if gone.is_empty() {
                return left;
            }
            for part in gone {
                left.remove(&part);
                missing.extend(self.parts[part].brings.iter().cloned());
            }
        }
    }

    /// The changed files with some parts: path and text, `None` where there
    /// is no file. Files that stay as they were are left out.
    pub fn files(&self, chosen: &Parts) -> BTreeMap<String, Option<String>> {
        let mut out = BTreeMap::new();
        for file in &self.files {
            let text = file.text(chosen);
            if text != file.before {
                out.insert(file.path.clone(), text);
            }
        }
        out
    }

    /// Text of a file in the old release.
    pub fn before(&self, path: &str) -> Option<&str> {
        let file = self.files.iter().find(|file| file.path == path)?;
        file.before.as_deref()
    }

    /// Paths of the files that parts are in.
    pub fn paths(&self, parts: &Parts) -> BTreeSet<&str> {
        let path = |&part: &usize| self.parts[part].path.as_str();
        parts.iter().map(path).collect()
    }
}

impl File {
    fn text(&self, chosen: &Parts) -> Option<String> {
        let own: Parts = self
            .slots
            .iter()
            .flat_map(|(slot, _)| slot.parts())
            .collect();
        let taken = own.intersection(chosen).count();
        if taken == 0 {
            return self.before.clone();
        }
        if taken == own.len() {
            return self.after.clone();
        }
        let mut text = String::new();
        // The class whose head came last, if nothing has followed.
        let mut open: Option<&str> = None;
        for (slot, head) in &self.slots {
            let piece = slot.text(chosen);
            let Some(piece) = piece else { continue };
            let class = head.as_ref().map(|h| h.class.as_str());
            if open.is_some() && (open != class || head.as_ref().is_some_and(|h| h.head)) {
                text.push_str("    pass\n");
            }
            open = match head {
                Some(head) if head.head => Some(&head.class),
                _ => None,
            };
            // What comes first in one version may not in the mixture.
            let defines = ["def ", "async def ", "class ", "@"];
            if defines.iter().any(|word| piece.starts_with(word)) && !text.is_empty() {
                let blank = text.len() - text.trim_end_matches('\n').len();
                text.push_str(&"\n\n"[..2 - blank.saturating_sub(1).min(2)]);
            }
            text.push_str(&piece);
        }
        if open.is_some() {
            text.push_str("    pass\n");
        }
        if text.is_empty() && self.after.is_none() {
            return None;
        }
        Some(text)
    }
}

impl Slot {
    fn parts(&self) -> Vec<usize> {
        match self {
            Self::Same(_) => Vec::new(),
            Self::Changed { part, .. } => vec![*part],
            Self::List { items, rest, .. } => {
                let items = items.iter().filter_map(|item| item.part);
                items.chain([*rest]).collect()
            }
        }
    }

    fn text(&self, chosen: &Parts) -> Option<String> {
        match self {
            Self::Same(text) => Some(text.clone()),
            Self::Changed { part, old, new } => {
                if chosen.contains(part) { new } else { old }.clone()
            }
            Self::List {
                old,
                new,
                items,
                rest,
            } => {
                let mut parts: Vec<usize> = items.iter().filter_map(|item| item.part).collect();
                if parts.is_empty() {
                    parts.push(*rest);
                }
                let taken = parts.iter().filter(|part| chosen.contains(part)).count();
                if taken == 0 {
                    return old.as_ref().map(|old| old.0.clone());
                }
                if taken == parts.len() {
                    return new.as_ref().map(|new| new.0.clone());
                }
                let there = |item: &&Item| match item.part {
                    None => true,
                    Some(part) => chosen.contains(&part) == item.new,
                };
                let items: Vec<&str> = items
                    .iter()
                    .filter(there)
                    .map(|item| item.text.as_str())
                    .collect();
                let (_, list) = &**new.as_ref().or(old.as_ref())?;
                (!items.is_empty()).then(|| list.with(&items))
            }
        }
    }
}

impl List {
    fn with(&self, items: &[&str]) -> String {
        let joined = items.join(", ");
        let brackets = self.open == "[" || self.head.starts_with("__all__");
        let line = if brackets {
            // A tuple of one needs its comma.
            let comma = if self.open == "(" { "," } else { "" };
            format!("{}{}{joined}{comma}{}", self.head, self.open, self.close)
        } else {
            format!("{}{joined}", self.head)
        };
        let line = if line.len() <= WIDTH {
            line
        } else {
            let items: String = items.iter().map(|item| format!("    {item},\n")).collect();
            format!("{}{}\n{items}{}", self.head, self.open, self.close)
        };
        format!("{}{line}\n", self.lead)
    }
}

/// Cuts one file.
struct Cut<'r> {
    release: &'r mut Release,
    file: &'r mut File,
    side: Side,
    first: usize,
    /// Pieces of the new parts, before they are joined.
    pieces: Vec<(Option<Unit>, Option<Unit>)>,
    /// Pieces that go together: the lowest of them.
    joined: Vec<usize>,
}

impl<'r> Cut<'r> {
    fn new(release: &'r mut Release, file: &'r mut File, side: Side) -> Self {
        Self {
            first: release.parts.len(),
            release,
            file,
            side,
            pieces: Vec::new(),
            joined: Vec::new(),
        }
    }

    fn run(mut self, old: &[Unit], new: &[Unit]) {
        let keys =
            |units: &[Unit]| -> Vec<String> { units.iter().map(|u| u.key.clone()).collect() };
        let (old_keys, new_keys) = (keys(old), keys(new));
        for op in capture_diff_slices(Algorithm::Patience, &old_keys, &new_keys) {
            match op {
                DiffOp::Equal {
                    old_index,
                    new_index,
                    len,
                } => {
                    for n in 0..len {
                        self.pair(&old[old_index + n], &new[new_index + n]);
                    }
                }
                op => {
                    let anonymous = self.pieces.len();
                    for unit in &old[op.old_range()] {
                        self.one(Some(unit), None);
                    }
                    for unit in &new[op.new_range()] {
                        self.one(None, Some(unit));
                    }
                    self.join_anonymous(anonymous, &op);
                }
            }
        }
        self.join_moved();
        self.join_classes(old, new);
        self.finish(old, new);
    }

    fn pair(&mut self, old: &Unit, new: &Unit) {
        if old.text == new.text {
            let head = head_of(new);
            self.file.slots.push((Slot::Same(new.text.clone()), head));
            return;
        }
        match (&old.list, &new.list) {
            (Some(a), Some(b)) if b.plain && a.items.len() + b.items.len() > 2 => {
                self.list(Some((old, a)), Some((new, b)));
            }
            _ => self.changed(Some(old), Some(new)),
        }
    }

    fn one(&mut self, old: Option<&Unit>, new: Option<&Unit>) {
        match new.and_then(|unit| unit.list.as_ref().map(|list| (unit, list))) {
            Some((unit, list)) if list.plain && list.items.len() > 1 => {
                self.list(None, Some((unit, list)));
            }
            _ => self.changed(old, new),
        }
    }

    fn piece(&mut self, old: Option<&Unit>, new: Option<&Unit>) -> usize {
        let at = self.pieces.len();
        self.pieces.push((old.cloned(), new.cloned()));
        self.joined.push(at);
        at
    }

    fn changed(&mut self, old: Option<&Unit>, new: Option<&Unit>) {
        let part = self.piece(old, new);
        let text = |unit: Option<&Unit>| unit.map(|u| u.text.clone());
        let head = new.or(old).and_then(head_of);
        let (old, new) = (text(old), text(new));
        self.file
            .slots
            .push((Slot::Changed { part, old, new }, head));
    }

    fn list(&mut self, old: Option<(&Unit, &List)>, new: Option<(&Unit, &List)>) {
        let none = Vec::new();
        let olds = old.map_or(&none, |(_, list)| &list.items);
        let news = new.map_or(&none, |(_, list)| &list.items);
        let mut items = Vec::new();
        let has = |items: &[(String, Known)], text: &str| items.iter().any(|(t, _)| t == text);
        let item = |this: &mut Self, text: &str, known: &Known, is_new: bool| {
            let unit = Unit {
                key: String::new(),
                named: true,
                class: None,
                head: false,
                qualname: None,
                function: false,
                text: format!("{text}\n"),
                lines: (0, 0),
                known: known.clone(),
                shape: text.to_owned(),
                list: None,
            };
            let part = if is_new {
                this.piece(None, Some(&unit))
            } else {
                this.piece(Some(&unit), None)
            };
            Item {
                text: text.to_owned(),
                part: Some(part),
                new: is_new,
            }
        };
        for (text, known) in news {
            items.push(if has(olds, text) {
                Item {
                    text: text.clone(),
                    part: None,
                    new: true,
                }
            } else {
                item(self, text, known, true)
            });
        }
        for (text, known) in olds {
            if !has(news, text) {
                items.push(item(self, text, known, false));
            }
        }
        // No names: whatever is left is order or comments.
        let quiet = |unit: &Unit| Unit {
            known: Known::default(),
            shape: String::new(),
            ..unit.clone()
        };
        let (old_rest, new_rest) = (old.map(|(u, _)| quiet(u)), new.map(|(u, _)| quiet(u)));
        let rest = self.piece(old_rest.as_ref(), new_rest.as_ref());
        let with = |side: Option<(&Unit, &List)>| {
            side.map(|(unit, list)| Box::new((unit.text.clone(), list.clone())))
        };
        let slot = Slot::List {
            old: with(old),
            new: with(new),
            items,
            rest,
        };
        self.file.slots.push((slot, None));
    }

    fn root(&self, mut piece: usize) -> usize {
        while self.joined[piece] != piece {
            piece = self.joined[piece];
        }
        piece
    }

    fn join(&mut self, one: usize, two: usize) {
        let (one, two) = (self.root(one), self.root(two));
        self.joined[one.max(two)] = one.min(two);
    }

    /// Statements without a name that took each other's place.
    fn join_anonymous(&mut self, from: usize, op: &DiffOp) {
        if !matches!(op, DiffOp::Replace { .. }) {
            return;
        }
        let nameless: Vec<usize> = (from..self.pieces.len())
            .filter(|&at| {
                let (old, new) = &self.pieces[at];
                [old, new].into_iter().flatten().any(|unit| !unit.named)
            })
            .collect();
        for pair in nameless.windows(2) {
            self.join(pair[0], pair[1]);
        }
    }

    /// What goes in one place and comes in another.
    fn join_moved(&mut self) {
        let mut gone: BTreeMap<String, usize> = BTreeMap::new();
        let mut come: BTreeMap<String, usize> = BTreeMap::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            match piece {
                (Some(unit), None) if !unit.key.is_empty() => gone.insert(unit.key.clone(), at),
                (None, Some(unit)) if !unit.key.is_empty() => come.insert(unit.key.clone(), at),
                _ => None,
            };
        }
        for (key, at) in gone {
            if let Some(&other) = come.get(&key) {
                self.join(at, other);
            }
        }
    }

    /// Classes that are new, gone or moved are one part; new ones of tests
    /// are not.
    fn join_classes(&mut self, old: &[Unit], new: &[Unit]) {
        let heads = |units: &[Unit]| -> BTreeSet<String> {
            let heads = units.iter().filter(|u| u.head);
            heads.filter_map(|u| u.class.clone()).collect()
        };
        let (old, new) = (heads(old), heads(new));
        let mut by_class: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut loose = BTreeSet::new();
        for (at, (a, b)) in self.pieces.iter().enumerate() {
            let Some(unit) = b.as_ref().or(a.as_ref()) else {
                continue;
            };
            let Some(class) = &unit.class else { continue };
            by_class.entry(class.clone()).or_default().push(at);
            if unit.head && (a.is_none() || b.is_none()) {
                loose.insert(class.clone());
            }
        }
        for class in loose {
            let added = new.contains(&class) && !old.contains(&class);
            if added && self.side == Side::Tests {
                continue;
            }
            for pair in by_class[&class].windows(2) {
                self.join(pair[0], pair[1]);
            }
        }
    }

    /// Turns pieces into parts.
    fn finish(self, old: &[Unit], new: &[Unit]) {
        let brings = |units: &[Unit]| -> Names {
            units
                .iter()
                .flat_map(|u| u.known.brings.iter().cloned())
                .collect()
        };
        let (brought_before, brought_after) = (brings(old), brings(new));
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        for at in 0..self.pieces.len() {
            let next = self.first + numbers.len();
            numbers.entry(self.root(at)).or_insert(next);
        }
        let number: Vec<usize> = (0..self.pieces.len())
            .map(|at| numbers[&self.root(at)])
            .collect();
        let mut parts = vec![Part::default(); numbers.len()];
        let mut shapes = vec![(Vec::new(), Vec::new()); numbers.len()];
        for (at, (a, b)) in self.pieces.iter().enumerate() {
            let index = number[at] - self.first;
            let part = &mut parts[index];
            part.path.clone_from(&self.file.path);
            let text = |unit: &Option<Unit>| unit.as_ref().map(|u| u.text.clone());
            part.weight += changed_lines(text(a).as_deref(), text(b).as_deref());
            if let Some(unit) = a {
                part.used.extend(unit.known.uses.iter().cloned());
                part.takes_away.extend(unit.known.brings.iter().cloned());
                shapes[index].0.push(unit.shape.clone());
            }
            if let Some(unit) = b {
                part.uses.extend(unit.known.uses.iter().cloned());
                part.brings.extend(unit.known.brings.iter().cloned());
                part.at_import.extend(unit.known.at_import.iter().cloned());
                shapes[index].1.push(unit.shape.clone());
                part.function |= unit.function;
                if unit.lines.0 > 0 {
                    self.file
                        .lines
                        .push((unit.lines.0..unit.lines.1 + 1, number[at]));
                }
            }
            for unit in [a, b].into_iter().flatten() {
                if let Some(name) = &unit.qualname
                    && !part.names.contains(name)
                {
                    part.names.push(name.clone());
                }
                // A member is nothing without the head of its new class.
                if let Some(class) = &unit.class
                    && !unit.head
                {
                    part.uses.insert(names::local(&self.file.path, class));
                }
            }
        }
        for (part, (mut a, mut b)) in parts.iter_mut().zip(shapes) {
            for shapes in [&mut a, &mut b] {
                shapes.retain(|shape| !shape.is_empty());
                shapes.sort();
            }
            part.cosmetic = a == b;
            let uses = std::mem::take(&mut part.uses);
            part.uses = uses.difference(&part.used).cloned().collect();
            part.used.retain(|name| !uses.contains(name));
            part.brings.retain(|name| !brought_before.contains(name));
            part.takes_away.retain(|name| !brought_after.contains(name));
        }
        for (slot, _) in &mut self.file.slots {
            match slot {
                Slot::Same(_) => {}
                Slot::Changed { part, .. } => *part = number[*part],
                Slot::List { items, rest, .. } => {
                    *rest = number[*rest];
                    for item in items {
                        item.part = item.part.map(|part| number[part]);
                    }
                }
            }
        }
        self.release.parts.extend(parts);
    }
}

fn head_of(unit: &Unit) -> Option<Head> {
    Some(Head {
        class: unit.class.clone()?,
        head: unit.head,
    })
}

/// Lines that only one of two texts has.
fn changed_lines(old: Option<&str>, new: Option<&str>) -> usize {
    let mut counts: BTreeMap<&str, isize> = BTreeMap::new();
    for (text, sign) in [(old, 1), (new, -1)] {
        let lines = text.unwrap_or_default().lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty()) {
            *counts.entry(line).or_default() += sign;
        }
    }
    counts.values().map(|n| n.unsigned_abs()).sum()
}

#[cfg(test)]
mod tests;
