//! reStructuredText, and plain text that looks like it, to blocks.
//!
//! Only what changelogs are made of: sections, lists, paragraphs, literal
//! blocks, and the directives that change what the text around them means.

use super::block::Block;
use super::heading;
use super::inline;

/// The blocks of a document.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let lines = text
        .lines()
        .map(|line| line.replace('\t', "        ").trim_end().to_owned());
    let mut reader = Reader {
        lines: lines.collect(),
        at: 0,
        styles: Vec::new(),
        items: Vec::new(),
        out: Vec::new(),
    };
    while reader.at < reader.lines.len() {
        reader.step();
    }
    reader.out
}

/// An item that is open: everything indented more belongs to it.
struct OpenItem {
    indent: usize,
    /// Its first paragraph has not been seen.
    empty: bool,
}

struct Reader {
    lines: Vec<String>,
    at: usize,
    /// Adornments in the order of their first use: the level of a heading.
    styles: Vec<(char, bool)>,
    items: Vec<OpenItem>,
    out: Vec<Block>,
}

/// Directives whose body is ordinary text.
const TRANSPARENT: [&str; 14] = [
    "note",
    "warning",
    "important",
    "caution",
    "attention",
    "tip",
    "hint",
    "danger",
    "admonition",
    "container",
    "versionadded",
    "versionchanged",
    "deprecated",
    "rubric",
];

impl Reader {
    fn line(&self, at: usize) -> &str {
        self.lines.get(at).map_or("", String::as_str)
    }

    fn step(&mut self) {
        let line = self.line(self.at).to_owned();
        let text = line.trim_start();
        if text.is_empty() || is_table_rule(text) {
            self.at += 1;
        } else if let Some((heading, lines)) = self.heading_at(self.at) {
            self.items.clear();
            self.out.push(heading);
            self.at += lines;
        } else if adornment(text).is_some() && text.len() >= 4 {
            // A transition.
            self.at += 1;
        } else if text.starts_with("__ ") {
            // The target of an anonymous link.
            self.at += 1;
        } else if text == ".." || text.starts_with(".. ") {
            self.explicit(indent(&line), text.trim_start_matches('.').trim_start());
        } else if let Some(marker) = bullet(text) {
            let indent = indent(&line);
            self.close_to(indent);
            self.items.push(OpenItem {
                indent,
                empty: true,
            });
            let start = self.at;
            self.lines[start] = format!("{}{}", " ".repeat(indent + marker), &text[marker..]);
            if self.line(start).trim().is_empty() {
                self.at += 1;
            } else {
                self.paragraph(indent + marker, Some(indent));
            }
        } else {
            let indent = indent(&line);
            self.close_to(indent);
            self.paragraph(indent, None);
        }
    }

    /// Closes the items that text at this indent is no part of.
    fn close_to(&mut self, indent: usize) {
        while self.items.last().is_some_and(|item| indent <= item.indent) {
            self.items.pop();
        }
    }

    /// A heading that starts in a line, and how many lines it has.
    fn heading_at(&mut self, at: usize) -> Option<(Block, usize)> {
        let first = self.line(at);
        let (mark, over, title, lines) = match adornment(first) {
            Some(mark) => {
                let (title, under) = (self.line(at + 1), self.line(at + 2));
                let framed = !title.trim().is_empty() && adornment(under) == Some(mark);
                if !framed || adornment(title).is_some() {
                    return None;
                }
                (mark, true, title, 3)
            }
            None => {
                let under = self.line(at + 1);
                let mark = adornment(under)?;
                let wide = under.chars().count() + 3 >= first.chars().count();
                if indent(first) > 0 || !(wide || under.len() >= 4) {
                    return None;
                }
                (mark, false, first, 2)
            }
        };
        let text = inline::rst(title.trim());
        let style = (mark, over);
        let level = match self.styles.iter().position(|s| *s == style) {
            Some(level) => level,
            None => {
                self.styles.push(style);
                self.styles.len() - 1
            }
        };
        Some((Block::Heading { level, text }, lines))
    }

    /// A paragraph from the current line on. `marker` is the indent of the
    /// bullet in front of it.
    fn paragraph(&mut self, start: usize, marker: Option<usize>) {
        let mut text = self.line(self.at).trim().to_owned();
        let alone = heading::strict(&inline::rst(&text)).is_some();
        self.at += 1;
        while !alone && self.continues(marker) {
            text.push(' ');
            text.push_str(self.line(self.at).trim());
            self.at += 1;
        }
        let literal = text.ends_with("::");
        if literal {
            text.pop();
        }
        self.emit(&text);
        if literal {
            self.literal(marker.unwrap_or(start));
        }
    }

    /// Whether the current line continues a paragraph.
    fn continues(&mut self, marker: Option<usize>) -> bool {
        let line = self.line(self.at);
        let text = line.trim_start();
        let ends = text.is_empty()
            || bullet(text).is_some()
            || text.starts_with(".. ")
            || text.starts_with("__ ")
            || adornment(text).is_some_and(|_| text.len() >= 4)
            || is_table_rule(text);
        if ends {
            return false;
        }
        let outside = marker.is_none_or(|marker| indent(line) <= marker);
        if outside && heading::strict(&inline::rst(text)).is_some() {
            return false;
        }
        self.heading_at(self.at).is_none()
    }

    fn emit(&mut self, text: &str) {
        let text = inline::rst(text.trim_start_matches("| "));
        if text.is_empty() || text == ":" {
            return;
        }
        let depth = self.items.len();
        self.out.push(match self.items.last_mut() {
            Some(item) if item.empty => {
                item.empty = false;
                Block::Item {
                    depth: depth - 1,
                    text,
                }
            }
            _ => Block::Text { depth, text },
        });
    }

    /// The lines below that are indented more, as they are.
    fn body(&mut self, outer: usize) -> Vec<String> {
        let start = self.at;
        while self.at < self.lines.len() {
            let line = self.line(self.at);
            if !line.is_empty() && indent(line) <= outer {
                break;
            }
            self.at += 1;
        }
        let lines = &self.lines[start..self.at];
        let shared = lines
            .iter()
            .filter(|l| !l.is_empty())
            .map(|l| indent(l))
            .min()
            .unwrap_or(0);
        let cut = |line: &String| line.get(shared..).unwrap_or("").to_owned();
        lines.iter().map(cut).collect()
    }

    fn literal(&mut self, outer: usize) {
        let text = self.body(outer).join("\n");
        let text = text.trim_matches('\n');
        if !text.is_empty() {
            let depth = self.items.len();
            let text = text.to_owned();
            self.out.push(Block::Code { depth, text });
        }
    }

    /// `.. ` at this indent: a comment, a target, or a directive.
    fn explicit(&mut self, indent: usize, text: &str) {
        self.close_to(indent);
        self.at += 1;
        let Some((name, argument)) = text.split_once("::") else {
            if !text.starts_with('_') && !text.starts_with('[') {
                self.body(indent);
            }
            return;
        };
        match name.trim() {
            "changelog" => {
                let options = self.options();
                let version = option(&options, "version").unwrap_or_default();
                let date = option(&options, "released").unwrap_or_default();
                let text = format!("Version {version} ({date})");
                self.out.push(Block::Heading { level: 100, text });
            }
            "change" => {
                let options = self.options();
                let text = option(&options, "tags").unwrap_or_default().to_owned();
                self.out.push(Block::Heading { level: 101, text });
                self.items.push(OpenItem {
                    indent,
                    empty: true,
                });
                self.change(indent, option(&options, "tickets").unwrap_or_default());
            }
            "code-block" | "code" | "sourcecode" => {
                self.options();
                self.literal(indent);
            }
            name if TRANSPARENT.contains(&name) => {
                if !argument.trim().is_empty() && !name.starts_with("version") {
                    self.emit(argument.trim());
                }
            }
            _ => {
                self.body(indent);
            }
        }
    }

    /// Puts the tickets of a `.. change::` behind its first line.
    fn change(&mut self, outer: usize, tickets: &str) {
        while self.at < self.lines.len() && self.line(self.at).is_empty() {
            self.at += 1;
        }
        if self.at >= self.lines.len() || indent(self.line(self.at)) <= outer {
            return;
        }
        let start = indent(self.line(self.at));
        let numbers: Vec<String> = tickets
            .split([',', ' '])
            .filter(|t| !t.is_empty())
            .map(|t| format!("#{}", t.trim_start_matches('#')))
            .collect();
        if bullet(self.line(self.at).trim_start()).is_none() {
            self.paragraph(start, None);
            if let (Some(Block::Item { text, .. }), false) =
                (self.out.last_mut(), numbers.is_empty())
            {
                text.push_str(&format!(" ({})", numbers.join(", ")));
            }
        }
    }

    /// The `:name: value` lines below a directive.
    fn options(&mut self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        while let Some((name, value)) = self
            .line(self.at)
            .trim_start()
            .strip_prefix(':')
            .and_then(|rest| rest.split_once(':'))
        {
            out.push((name.to_lowercase(), value.trim().to_owned()));
            self.at += 1;
        }
        out
    }
}

fn option<'a>(options: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = options.iter().find(|(n, _)| n == name);
    found.map(|(_, value)| value.as_str())
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The character of a line that is nothing but it.
fn adornment(line: &str) -> Option<char> {
    let first = line.chars().next()?;
    let same = line.chars().all(|c| c == first);
    (first.is_ascii_punctuation() && same && line.len() >= 3).then_some(first)
}

/// A border of a table: `=== ===` or `+---+`.
fn is_table_rule(text: &str) -> bool {
    let all = |set: &str| text.chars().all(|c| set.contains(c));
    (text.contains(' ') && text.starts_with("==") && all("= "))
        || (text.starts_with("+-") && all("+-"))
        || (text.starts_with("+=") && all("+="))
}

/// Length of a list marker with its blanks.
fn bullet(text: &str) -> Option<usize> {
    let marker = text.split(' ').next().unwrap_or_default();
    let inner = marker.trim_matches(['(', ')', '.']);
    let numbered = marker.ends_with(['.', ')'])
        && (inner == "#"
            || (!inner.is_empty()
                && inner.len() <= 2
                && inner.bytes().all(|b| b.is_ascii_digit())));
    if !numbered && !matches!(marker, "-" | "*" | "+" | "•" | "‣" | "–") {
        return None;
    }
    let rest = &text[marker.len()..];
    Some(text.len() - rest.trim_start().len())
}
