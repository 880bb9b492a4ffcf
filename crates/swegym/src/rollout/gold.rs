//! A patch played through a scaffold: what a model would say that knows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use serde_json::{Value, json};
use swegym_agent::model::{Line, Model, ModelError, Reply, Request, Script};
use swegym_agent::scaffold::SENTINEL;
use swegym_data::patch::{Change, Content, FilePatch, Hunk, Patch, Side, Tree};

use crate::Error;
use crate::environment::TESTBED;

/// A model that plays a patch through the scaffold of this name.
///
/// # Errors
/// If the patch does not parse or is not one for this codebase.
pub fn player(
    name: &str,
    scaffold: &str,
    patch: &str,
    tree: &dyn Tree,
) -> Result<Box<dyn Model>, Error> {
    let parsed = Patch::parse(patch.as_bytes())
        .map_err(|e| Error::input(format!("patch of {name}: {e}"), ""))?;
    Ok(match scaffold {
        "bash" => Box::new(Script::new(name, bash(patch))),
        "codeact" => Box::new(Script::new(name, codeact(&parsed, patch, tree)?)),
        "workflow" => Box::new(Walker {
            name: name.to_owned(),
            edits: edits(&parsed, tree)?,
            at: Mutex::new((0, Stage::Search)),
        }),
        other => {
            let what = format!("a patch cannot be played through {other:?}");
            return Err(Error::input(what, "use codeact, workflow or bash"));
        }
    })
}

/// A word that no line of a text is.
fn delimiter(text: &str) -> String {
    let mut word = "PATCH_END".to_owned();
    while text.lines().any(|line| line == word) {
        word.push('_');
    }
    word
}

fn heredoc(patch: &str) -> String {
    let end = delimiter(patch);
    let newline = if patch.ends_with('\n') { "" } else { "\n" };
    format!("git apply --whitespace=nowarn - <<'{end}'\n{patch}{newline}{end}")
}

fn bash(patch: &str) -> Vec<Line> {
    let call = |say: &str, command: String| Line {
        content: say.to_owned(),
        ..Line::call("bash", &json!({"command": command}))
    };
    let mut lines = Vec::new();
    if !patch.trim().is_empty() {
        lines.push(call("The change is known.", heredoc(patch)));
    }
    lines.push(call("Done.", format!("echo {SENTINEL}")));
    lines
}

fn codeact(patch: &Patch, text: &str, tree: &dyn Tree) -> Result<Vec<Line>, Error> {
    let editor = |arguments: Value| Line::call("str_replace_editor", &arguments);
    let mut lines = Vec::new();
    let plain = patch.files.iter().all(|file| {
        matches!(file.change, Change::Modify | Change::Create)
            && matches!(file.content, Content::Text(_))
    });
    if plain {
        for file in &patch.files {
            let path = format!("{TESTBED}/{}", file.new_path);
            if file.change == Change::Create {
                let content = side(hunks(file), Side::New)?;
                lines.push(editor(
                    json!({"command": "create", "path": path, "file_text": content}),
                ));
                continue;
            }
            let mut now = content(tree, &file.old_path)?;
            for hunk in hunks(file).iter().rev() {
                let (old, new, after) = unique_edit(&now, hunk, &file.old_path)?;
                lines.push(editor(json!({
                    "command": "str_replace", "path": path, "old_str": old, "new_str": new,
                })));
                now = after;
            }
        }
    } else if !text.trim().is_empty() {
        // What the editor cannot do: deletions, renames, binaries.
        let command = format!("cd {TESTBED} && {}", heredoc(text));
        lines.push(Line::call("execute_bash", &json!({"command": command})));
    }
    lines.push(Line::call("finish", &json!({})));
    Ok(lines)
}

fn hunks(file: &FilePatch) -> &[Hunk] {
    match &file.content {
        Content::Text(hunks) => hunks,
        _ => &[],
    }
}

fn content(tree: &dyn Tree, path: &str) -> Result<String, Error> {
    let entry = tree.read(path).map_err(|e| Error::io(path, e))?;
    let entry = entry
        .ok_or_else(|| Error::input(format!("{path}: not in the codebase"), "is it its patch?"))?;
    String::from_utf8(entry.bytes)
        .map_err(|_| Error::input(format!("{path}: not UTF-8"), "play it through `bash`"))
}

/// The lines of one side of some hunks.
fn side(hunks: &[Hunk], side: Side) -> Result<String, Error> {
    let lines = hunks.iter().flat_map(|hunk| &hunk.lines);
    let lines = lines.filter(|line| line.side == side || line.side == Side::Context);
    let bytes: Vec<u8> = lines.flat_map(|line| line.text.clone()).collect();
    String::from_utf8(bytes).map_err(|_| Error::input("patch: not UTF-8", ""))
}

/// A replacement of text that occurs once: a hunk, with as many lines around
/// it as that takes. Also the text after it.
fn unique_edit(text: &str, hunk: &Hunk, path: &str) -> Result<(String, String, String), Error> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (old, new) = (
        side(std::slice::from_ref(hunk), Side::Old)?,
        side(std::slice::from_ref(hunk), Side::New)?,
    );
    let count = old.split_inclusive('\n').count();
    let first = if count == 0 {
        hunk.old_start
    } else {
        hunk.old_start - 1
    };
    let fits = lines
        .get(first..first + count)
        .is_some_and(|part| part.concat() == old);
    if !fits {
        return Err(Error::input(
            format!("{path}: hunk at line {} does not fit", hunk.old_start),
            "is it a patch of this codebase?",
        ));
    }
    let (mut from, mut to) = (first, first + count);
    loop {
        let before = lines[from..to].concat();
        let once = !before.is_empty() && text.matches(&before).count() == 1;
        if once || (from == 0 && to == lines.len()) {
            let head = lines[from..first].concat();
            let tail = lines[first + count..to].concat();
            let replaced = format!("{head}{new}{tail}");
            let after = format!(
                "{}{replaced}{}",
                lines[..from].concat(),
                lines[to..].concat()
            );
            return Ok((before, replaced, after));
        }
        from = from.saturating_sub(1);
        to = (to + 1).min(lines.len());
    }
}

/// One step of a patch, as the workflow takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    file: String,
    /// First and last line, from 1.
    start: usize,
    end: usize,
    code: String,
}

/// The hunks of a patch, those of a file from its end to its beginning, so
/// that none moves the next.
fn edits(patch: &Patch, tree: &dyn Tree) -> Result<Vec<Edit>, Error> {
    let mut edits = Vec::new();
    for file in &patch.files {
        if file.change == Change::Create {
            edits.push(Edit {
                file: file.new_path.clone(),
                start: 1,
                end: 0,
                code: side(hunks(file), Side::New)?,
            });
            continue;
        }
        if file.change != Change::Modify {
            return Err(Error::input(
                format!("{}: the workflow only edits and makes files", file.old_path),
                "play the patch through `codeact` or `bash`",
            ));
        }
        let text = content(tree, &file.old_path)?;
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for hunk in hunks(file).iter().rev() {
            let one = std::slice::from_ref(hunk);
            let (old, mut code) = (side(one, Side::Old)?, side(one, Side::New)?);
            let count = old.split_inclusive('\n').count();
            let (mut start, end) = (hunk.old_start, hunk.old_start + count - 1);
            if count == 0 {
                // Nothing to replace: the line before comes along.
                start = hunk.old_start.max(1);
                code = format!("{}{code}", lines.get(start - 1).unwrap_or(&""));
            }
            edits.push(Edit {
                file: file.old_path.clone(),
                start,
                end: end.max(start),
                code,
            });
        }
    }
    Ok(edits)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Search,
    Pick,
    Plan,
    Replace,
    Review,
}

/// Walks a patch through the workflow's states. It reads what it is told, for
/// the names of spans are the scaffold's.
struct Walker {
    name: String,
    edits: Vec<Edit>,
    at: Mutex<(usize, Stage)>,
}

impl Model for Walker {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, stage) = *at;
        let edit = self.edits.get(index).ok_or(ModelError::ScriptEnded)?;
        let told = request.messages.last().map(|m| m.text());
        let told = told.unwrap_or_default();
        let new = edit.end < edit.start;
        let span = || span_of(&told, &edit.file).ok_or(ModelError::ScriptEnded);
        let (line, next) = match stage {
            Stage::Search => (
                Line::call("search", &json!({"files": edit.file})),
                Stage::Pick,
            ),
            Stage::Pick => (
                Line::call("pick", &json!({"spans": [span()?]})),
                Stage::Plan,
            ),
            Stage::Plan if new => (
                Line::call(
                    "plan",
                    &json!({"span": span()?, "instructions": "A new file."}),
                ),
                Stage::Replace,
            ),
            Stage::Plan => (
                Line::call(
                    "plan",
                    &json!({
                        "span": span()?, "instructions": "As the fix does.",
                        "start_line": edit.start, "end_line": edit.end,
                    }),
                ),
                Stage::Replace,
            ),
            Stage::Replace => (
                Line::call("replace", &json!({"code": edit.code})),
                Stage::Review,
            ),
            Stage::Review => {
                let last = index + 1 == self.edits.len();
                let verdict = if last { "accept" } else { "change" };
                (
                    Line::call("review", &json!({"verdict": verdict})),
                    Stage::Search,
                )
            }
        };
        *at = match stage {
            Stage::Review => (index + 1, next),
            _ => (index, next),
        };
        Script::new(&self.name, vec![line]).complete(request)
    }
}

/// The id of the span that is all of a file.
fn span_of(told: &str, file: &str) -> Option<String> {
    let spans = Regex::new(r"(?m)^(S\d+): (.+?), (?:whole file|new file)\b").ok()?;
    let found: BTreeMap<&str, &str> = spans
        .captures_iter(told)
        .map(|c| {
            let (_, [id, path]) = c.extract();
            (path, id)
        })
        .collect();
    found.get(file).map(|id| (*id).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use swegym_data::patch::{FileEntry, MemoryTree};

    fn tree() -> MemoryTree {
        let text = "a\nx\nb\na\nx\nc\n";
        [("f.py".to_owned(), FileEntry::regular(text))].into()
    }

    const PATCH: &str = "diff --git a/f.py b/f.py\n--- a/f.py\n+++ b/f.py\n\
        @@ -2 +2 @@\n-x\n+y\n@@ -5 +5 @@\n-x\n+z\n";

    #[test]
    fn an_edit_takes_as_many_lines_as_make_it_unique() {
        let patch = Patch::parse(PATCH.as_bytes()).unwrap();
        let lines = codeact(&patch, PATCH, &tree()).unwrap();
        let pairs: Vec<(&str, &str)> = lines[..2]
            .iter()
            .map(|line| {
                let a = &line.tool_calls[0].arguments;
                (
                    a["old_str"].as_str().unwrap(),
                    a["new_str"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(pairs, [("a\nx\nc\n", "a\nz\nc\n"), ("x\n", "y\n")]);
        assert_eq!(lines[2].tool_calls[0].name, "finish");
    }

    #[test]
    fn the_workflow_edits_from_the_end() {
        let patch = Patch::parse(PATCH.as_bytes()).unwrap();
        let edits = edits(&patch, &tree()).unwrap();
        let places: Vec<(usize, usize, &str)> = edits
            .iter()
            .map(|e| (e.start, e.end, e.code.as_str()))
            .collect();
        assert_eq!(places, [(5, 5, "z\n"), (2, 2, "y\n")]);
    }

    #[test]
    fn a_heredoc_ends_where_the_patch_does() {
        let text = heredoc("PATCH_END\nx");
        assert!(text.ends_with("PATCH_END\nx\nPATCH_END_"), "{text}");
    }
}
