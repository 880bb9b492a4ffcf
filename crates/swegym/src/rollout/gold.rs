//! A patch played through a scaffold: what a model would say that knows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use serde_json::{Value, json};
use similar::TextDiff;
use swegym_agent::model::{Line, Model, ModelError, Reply, Request, Script};
use swegym_agent::scaffold::{DIVIDER, EDIT_FENCE, SENTINEL};
use swegym_data::patch::{FileEntry, FileMode, Matching, Patch, Tree};

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
            edits: walk(&parsed, tree)?,
            at: Mutex::new((0, Stage::Search)),
        }),
        "repair" => Box::new(Repairer {
            name: name.to_owned(),
            edits: changed_lines(&parsed, tree)?,
        }),
        other => {
            let what = format!("a patch cannot be played through {other:?}");
            return Err(Error::input(what, "use codeact, workflow, repair or bash"));
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

/// What a patch makes of a file.
enum Made {
    /// A new text.
    New(String),
    /// Other text: before, and its edits from the end to the beginning, so
    /// that none moves the next.
    Changed(String, Vec<Edit>),
    /// Anything that is not a matter of lines: gone, moved, not text.
    Other,
}

/// Some lines of a file that become others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    file: String,
    /// First and last line, from 1; a new file's last line is 0.
    start: usize,
    end: usize,
    code: String,
}

/// Lines around a change that an edit holds, as in a patch.
const AROUND: usize = 3;

/// The files of a patch, each as it becomes where the patch is applied; the
/// lines that a patch names need not be those of this codebase.
fn made(patch: &Patch, tree: &dyn Tree) -> Result<Vec<(String, Made)>, Error> {
    let applied = patch
        .apply(tree, Matching::Fuzz(5))
        .map_err(|e| Error::input(e.to_string(), "is it a patch of this codebase?"))?;
    let files = applied.files.into_iter();
    files
        .map(|(path, after)| {
            let before = tree.read(&path).map_err(|e| Error::io(&path, e))?;
            let text = |entry: &FileEntry| String::from_utf8(entry.bytes.clone()).ok();
            let same_mode = match (&before, &after) {
                (Some(before), Some(after)) => before.mode == after.mode,
                (None, Some(after)) => after.mode == FileMode::Regular,
                _ => false,
            };
            let made = match (before.as_ref().map(text), after.as_ref().map(text)) {
                (None, Some(Some(after))) if same_mode => Made::New(after),
                (Some(Some(before)), Some(Some(after))) if same_mode => {
                    let edits = edits(&path, &before, &after);
                    Made::Changed(before, edits)
                }
                _ => Made::Other,
            };
            Ok((path, made))
        })
        .collect()
}

fn edits(path: &str, before: &str, after: &str) -> Vec<Edit> {
    let diff = TextDiff::from_lines(before, after);
    let (old, new): (Vec<&str>, Vec<&str>) = (
        before.split_inclusive('\n').collect(),
        after.split_inclusive('\n').collect(),
    );
    let groups = diff.grouped_ops(AROUND);
    let edits = groups.iter().rev().filter_map(|group| {
        let (first, last) = (group.first()?, group.last()?);
        let (mut start, end) = (first.old_range().start, last.old_range().end);
        let mut code = new[first.new_range().start..last.new_range().end].concat();
        if start == end {
            // Nothing to replace: the line before comes along.
            start = start.saturating_sub(1);
            code = format!("{}{code}", old.get(start).unwrap_or(&""));
        }
        Some(Edit {
            file: path.to_owned(),
            start: start + 1,
            end: end.max(start + 1),
            code,
        })
    });
    edits.collect()
}

fn codeact(patch: &Patch, text: &str, tree: &dyn Tree) -> Result<Vec<Line>, Error> {
    let editor = |arguments: Value| Line::call("str_replace_editor", &arguments);
    let files = made(patch, tree)?;
    let mut lines = Vec::new();
    if files.iter().any(|(_, made)| matches!(made, Made::Other)) {
        // What the editor cannot do.
        let command = format!("cd {TESTBED} && {}", heredoc(text));
        lines.push(Line::call("execute_bash", &json!({"command": command})));
    } else {
        for (path, made) in files {
            let path = format!("{TESTBED}/{path}");
            match made {
                Made::Other => {}
                Made::New(text) => lines.push(editor(
                    json!({"command": "create", "path": path, "file_text": text}),
                )),
                Made::Changed(mut now, edits) => {
                    for edit in edits {
                        let (old, new, after) = unique(&now, &edit);
                        lines.push(editor(json!({
                            "command": "str_replace", "path": path, "old_str": old, "new_str": new,
                        })));
                        now = after;
                    }
                }
            }
        }
    }
    lines.push(Line::call("finish", &json!({})));
    Ok(lines)
}

/// An edit as a replacement of text that occurs once, with as many more lines
/// as that takes. Also the text after it.
fn unique(text: &str, edit: &Edit) -> (String, String, String) {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (first, end) = (edit.start - 1, edit.end.min(lines.len()));
    let (mut from, mut to) = (first, end);
    loop {
        let old = lines[from..to].concat();
        let once = !old.is_empty() && text.matches(&old).count() == 1;
        if once || (from == 0 && to == lines.len()) {
            let (head, tail) = (lines[from..first].concat(), lines[end..to].concat());
            let new = format!("{head}{}{tail}", edit.code);
            let (before, behind) = (lines[..from].concat(), lines[to..].concat());
            return (old, new.clone(), format!("{before}{new}{behind}"));
        }
        from = from.saturating_sub(1);
        to = (to + 1).min(lines.len());
    }
}

/// The edits of a patch, as the workflow takes them.
fn walk(patch: &Patch, tree: &dyn Tree) -> Result<Vec<Edit>, Error> {
    let mut all = Vec::new();
    for (path, made) in made(patch, tree)? {
        match made {
            Made::Changed(_, edits) => all.extend(edits),
            Made::New(code) => all.push(Edit {
                file: path,
                start: 1,
                end: 0,
                code,
            }),
            Made::Other => {
                return Err(Error::input(
                    format!("{path}: the workflow only edits and makes text files"),
                    "play the patch through `codeact` or `bash`",
                ));
            }
        }
    }
    Ok(all)
}

/// The lines of a patch's one file from the first to the last that it changes:
/// the text before, and from each first line with as many lines around as
/// there may be, what was there and what comes.
fn changed_lines(patch: &Patch, tree: &dyn Tree) -> Result<Vec<(String, String)>, Error> {
    let files = made(patch, tree)?;
    let [(_, Made::Changed(before, _))] = files.as_slice() else {
        return Err(Error::input(
            "`repair` edits one text file that is there, and the patch is of others",
            "play the patch through `codeact` or `bash`",
        ));
    };
    let applied = patch
        .apply(tree, Matching::Fuzz(5))
        .map_err(|e| Error::input(e.to_string(), "is it a patch of this codebase?"))?;
    let after = applied.files.into_values().flatten().next();
    let after = after.map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned());
    let after = after.unwrap_or_default();
    let (old, new): (Vec<&str>, Vec<&str>) = (
        before.split_inclusive('\n').collect(),
        after.split_inclusive('\n').collect(),
    );
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(&new).take_while(same).count();
    let most = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev());
    let tail = tail.take_while(same).count().min(most);
    // Lines alone first, which a model has least to copy of; each needs at
    // least one old line to be found by.
    let around = (0..=AROUND).filter_map(|around| {
        let (from, to) = (head.saturating_sub(around), tail.saturating_sub(around));
        let (was, comes) = (&old[from..old.len() - to], &new[from..new.len() - to]);
        (!was.concat().trim().is_empty()).then(|| (was.concat(), comes.concat()))
    });
    Ok(around.collect())
}

/// Answers with the edit of a patch, by the fewest lines that are found once
/// in what it is shown.
struct Repairer {
    name: String,
    edits: Vec<(String, String)>,
}

impl Model for Repairer {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let told = request.messages.last().map(|m| m.text());
        let told = told.unwrap_or_default();
        let once = |(old, _): &&(String, String)| told.matches(old.as_str()).count() == 1;
        let Some((old, new)) = self.edits.iter().find(once) else {
            let said = Line {
                content: "The code that has to change is not shown.".into(),
                ..Line::default()
            };
            return Script::new(&self.name, vec![said]).complete(request);
        };
        let line = |text: &str| match text.ends_with('\n') || text.is_empty() {
            true => text.to_owned(),
            false => format!("{text}\n"),
        };
        let command = format!("{}{DIVIDER}\n{}", line(old), line(new));
        let said = if request.tools.is_empty() {
            Line {
                content: format!("```{EDIT_FENCE}\n{command}```"),
                ..Line::default()
            }
        } else {
            Line::call("edit", &json!({"command": command}))
        };
        Script::new(&self.name, vec![said]).complete(request)
    }
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
    use swegym_data::patch::MemoryTree;

    fn tree() -> MemoryTree {
        let text = "x\n0\n1\n2\n3\n4\n5\n6\n7\nx\n0\n1\n2\nend\n";
        [("f.py".to_owned(), FileEntry::regular(text))].into()
    }

    /// Its line numbers are those of another version of the file.
    const PATCH: &str = "diff --git a/f.py b/f.py\n--- a/f.py\n+++ b/f.py\n\
        @@ -11,3 +11,3 @@\n 6\n 7\n-x\n+z\n 0\n\
        diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n\
        @@ -0,0 +1 @@\n+pass\n";

    #[test]
    fn an_edit_is_unique_and_fits_the_codebase() {
        let patch = PATCH.replace("-11,3 +11,3", "-11,4 +11,4");
        let parsed = Patch::parse(patch.as_bytes()).unwrap();
        let lines = codeact(&parsed, &patch, &tree()).unwrap();
        let edit = &lines[0].tool_calls[0].arguments;
        assert_eq!(edit["old_str"], "5\n6\n7\nx\n0\n1\n2\n");
        assert_eq!(edit["new_str"], "5\n6\n7\nz\n0\n1\n2\n");
        assert_eq!(lines[1].tool_calls[0].arguments["command"], "create");
        assert_eq!(lines[2].tool_calls[0].name, "finish");
        let steps = walk(&parsed, &tree()).unwrap();
        let places: Vec<(usize, usize)> = steps.iter().map(|e| (e.start, e.end)).collect();
        assert_eq!(places, [(7, 13), (1, 0)]);
    }

    #[test]
    fn what_is_no_matter_of_lines_goes_through_the_shell() {
        let patch = "diff --git a/f.py b/f.py\ndeleted file mode 100644\n--- a/f.py\n\
            +++ /dev/null\n@@ -1,14 +0,0 @@\n-x\n-0\n-1\n-2\n-3\n-4\n-5\n-6\n-7\n-x\n-0\n-1\n\
            -2\n-end\n";
        let parsed = Patch::parse(patch.as_bytes()).unwrap();
        let lines = codeact(&parsed, patch, &tree()).unwrap();
        assert_eq!(lines[0].tool_calls[0].name, "execute_bash");
        assert!(walk(&parsed, &tree()).is_err());
    }

    #[test]
    fn a_heredoc_ends_where_the_patch_does() {
        let text = heredoc("PATCH_END\nx");
        assert!(text.ends_with("PATCH_END\nx\nPATCH_END_"), "{text}");
    }
}
