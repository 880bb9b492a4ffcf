//! Search over the code of a sandbox: functions, classes, text.

use std::collections::BTreeMap;
use std::path::Path;

use globset::{Glob, GlobMatcher};
use regex::Regex;
use swegym_core::{Command, SandboxError};

use crate::workspace::Workspace;

/// A function or class of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Name with those it lies in, `Class.method`.
    pub name: String,
    /// First line, decorators included, from 1.
    pub start: usize,
    /// Last line.
    pub end: usize,
}

/// Reads the outline of source code. The parser is the caller's.
pub trait Outline: Send + Sync {
    /// Functions and classes in the order of their first lines; none if the
    /// source does not parse.
    fn definitions(&self, source: &str) -> Vec<Definition>;

    /// What keeps the source from parsing, with its line.
    fn syntax_error(&self, source: &str) -> Option<String>;
}

/// A piece of a file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// Path below the workdir.
    pub file: String,
    /// `Class.method`, or what the text is around.
    pub title: String,
    /// First line, from 1.
    pub start: usize,
    /// Last line.
    pub end: usize,
}

/// Where names are defined, from one look at all files.
#[derive(Debug, Default)]
pub(crate) struct Index {
    workdir: String,
    /// Plain name -> file and line.
    places: BTreeMap<String, Vec<(String, usize)>>,
}

/// Lines shown around a hit that no definition holds.
const AROUND: usize = 8;
/// Hits looked at of one search.
const MOST_HITS: usize = 200;

impl Index {
    /// Looks at all Python files.
    pub fn build(workdir: &str, workspace: &mut Workspace<'_>) -> Result<Self, SandboxError> {
        let pattern = r"^[[:space:]]*(async[[:space:]]+def|def|class)[[:space:]]+[A-Za-z_]";
        let mut command = Command::new([
            "grep",
            "-rnIE",
            "--include=*.py",
            "--exclude-dir=.git",
            pattern,
            ".",
        ]);
        command.cwd = Some(workdir.into());
        let ran = workspace.exec(&command)?;
        let line = Regex::new(r"^\./(.+?):(\d+):\s*(?:async\s+def|def|class)\s+([A-Za-z_]\w*)")
            .expect("a valid pattern");
        let mut places: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
        for text in ran.text.lines() {
            let Some(found) = line.captures(text) else {
                continue;
            };
            let number = found[2].parse().unwrap_or(1);
            let slot = places.entry(found[3].to_owned()).or_default();
            slot.push((found[1].to_owned(), number));
        }
        Ok(Self {
            workdir: workdir.to_owned(),
            places,
        })
    }

    /// How many places define a name.
    pub fn count(&self, name: &str) -> usize {
        self.places.get(name).map_or(0, Vec::len)
    }

    /// Definitions of a name, `method` or `Class.method`.
    pub fn named(
        &self,
        name: &str,
        files: Option<&GlobMatcher>,
        outline: &dyn Outline,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<Span>, SandboxError> {
        let last = name.rsplit('.').next().unwrap_or(name);
        let mut spans = Vec::new();
        let places = self.places.get(last).map(Vec::as_slice).unwrap_or_default();
        let wanted = places
            .iter()
            .filter(|(file, _)| files.is_none_or(|glob| glob.is_match(file)));
        for (file, line) in wanted.take(MOST_HITS) {
            let Some(span) = self.around(file, *line, outline, workspace)? else {
                continue;
            };
            let fits = span.title == name || span.title.ends_with(&format!(".{name}"));
            if (fits || !name.contains('.')) && !spans.contains(&span) {
                spans.push(span);
            }
        }
        Ok(spans)
    }

    /// Places where a text occurs, each with the definition it lies in.
    pub fn text(
        &self,
        text: &str,
        files: Option<&GlobMatcher>,
        outline: &dyn Outline,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<Span>, SandboxError> {
        let mut command = Command::new([
            "grep",
            "-rnIF",
            "--include=*.py",
            "--exclude-dir=.git",
            "-e",
            text,
            ".",
        ]);
        command.cwd = Some((&self.workdir).into());
        command.output_limit = Some(1 << 20);
        let ran = workspace.exec(&command)?;
        let place = Regex::new(r"^\./(.+?):(\d+):").expect("a valid pattern");
        let mut spans: Vec<Span> = Vec::new();
        let hits = ran.text.lines().filter_map(|line| {
            let found = place.captures(line)?;
            Some((found[1].to_owned(), found[2].parse().ok()?))
        });
        let hits: Vec<(String, usize)> = hits.take(MOST_HITS).collect();
        for (file, line) in hits {
            if files.is_some_and(|glob| !glob.is_match(&file)) {
                continue;
            }
            if let Some(span) = self.around(&file, line, outline, workspace)?
                && !spans.contains(&span)
            {
                spans.push(span);
            }
        }
        Ok(spans)
    }

    /// The innermost definition that holds a line, or some lines around it.
    pub fn around(
        &self,
        file: &str,
        line: usize,
        outline: &dyn Outline,
        workspace: &mut Workspace<'_>,
    ) -> Result<Option<Span>, SandboxError> {
        let source = match workspace.read(&Path::new(&self.workdir).join(file)) {
            Ok(source) => source,
            Err(SandboxError::File { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let holds = |d: &&Definition| (d.start..=d.end).contains(&line);
        let definitions = outline.definitions(&source);
        let inner = definitions
            .iter()
            .filter(holds)
            .min_by_key(|d| d.end - d.start);
        Ok(Some(match inner {
            Some(d) => Span {
                file: file.to_owned(),
                title: d.name.clone(),
                start: d.start,
                end: d.end,
            },
            None => Span {
                file: file.to_owned(),
                title: format!("line {line}"),
                start: line.saturating_sub(AROUND).max(1),
                end: (line + AROUND).min(source.lines().count().max(1)),
            },
        }))
    }
}

/// A pattern of files, `*` matching within names and `**` across folders.
pub(crate) fn files(pattern: &str) -> Result<GlobMatcher, String> {
    let pattern = pattern.trim_start_matches("./");
    Glob::new(pattern)
        .map(|glob| glob.compile_matcher())
        .map_err(|e| format!("`files`: {e}"))
}
