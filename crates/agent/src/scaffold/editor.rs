//! The `str_replace_editor` tool: edits are made on the trusted side and
//! written to the sandbox whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use swegym_core::{Command, SandboxError};

use crate::workspace::Workspace;

/// Lines around an edit that the model sees.
const AROUND: usize = 4;

/// The editor with its history.
#[derive(Default)]
pub(crate) struct Editor {
    /// Content before each edit, `None` where the file was made.
    undo: HashMap<PathBuf, Vec<Option<Vec<u8>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    command: String,
    path: String,
    #[serde(default)]
    file_text: Option<String>,
    #[serde(default)]
    old_str: Option<String>,
    #[serde(default)]
    new_str: Option<String>,
    #[serde(default)]
    insert_line: Option<usize>,
    #[serde(default)]
    view_range: Option<Vec<i64>>,
}

/// What the model hears: a result, or what was wrong with its call.
type Said = Result<String, String>;

impl Editor {
    /// Runs a call.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn run(
        &mut self,
        arguments: Map<String, Value>,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, SandboxError> {
        let a: Arguments = match serde_json::from_value(arguments.into()) {
            Ok(a) => a,
            Err(e) => return Ok(Err(format!("`str_replace_editor`: {e}"))),
        };
        let path = PathBuf::from(&a.path);
        if !path.is_absolute() {
            let problem = format!(
                "{}: the path is not absolute; did you mean /{}?",
                a.path, a.path
            );
            return Ok(Err(problem));
        }
        let need = |name: &str| Err(format!("`{}` needs `{name}`", a.command));
        match a.command.as_str() {
            "view" => view(&path, a.view_range.as_deref(), workspace),
            "create" => match a.file_text {
                Some(text) => self.create(&path, &text, workspace),
                None => Ok(need("file_text")),
            },
            "str_replace" => match &a.old_str {
                Some(old) => self.replace(&path, old, a.new_str.as_deref(), workspace),
                None => Ok(need("old_str")),
            },
            "insert" => match (a.insert_line, &a.new_str) {
                (Some(line), Some(text)) => self.insert(&path, line, text, workspace),
                (None, _) => Ok(need("insert_line")),
                (_, None) => Ok(need("new_str")),
            },
            "undo_edit" => self.undo(&path, workspace),
            other => Ok(Err(format!(
                "there is no command `{other}`; there are view, create, str_replace, insert and \
                 undo_edit"
            ))),
        }
    }

    fn create(
        &mut self,
        path: &Path,
        text: &str,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, SandboxError> {
        if exists(path, workspace)? {
            let path = path.display();
            return Ok(Err(format!("{path} exists already; edit it instead")));
        }
        Ok(save(path, text, workspace)?.map(|()| {
            self.undo.entry(path.to_owned()).or_default().push(None);
            format!("Created {}.", path.display())
        }))
    }

    fn replace(
        &mut self,
        path: &Path,
        old: &str,
        new: Option<&str>,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, SandboxError> {
        let before = match load(path, workspace)? {
            Ok(before) => before,
            Err(problem) => return Ok(Err(problem)),
        };
        let name = path.display();
        if old.is_empty() {
            return Ok(Err("`old_str` is empty".into()));
        }
        let at: Vec<usize> = before.match_indices(old).map(|(i, _)| i).collect();
        let at = match at[..] {
            [at] => at,
            [] => {
                return Ok(Err(format!(
                    "nothing was replaced: `old_str` does not occur in {name} as it is written"
                )));
            }
            _ => {
                let lines: Vec<String> = at
                    .iter()
                    .map(|&i| (before[..i].matches('\n').count() + 1).to_string())
                    .collect();
                return Ok(Err(format!(
                    "nothing was replaced: `old_str` occurs more than once in {name}, in lines {}",
                    lines.join(", ")
                )));
            }
        };
        let new = new.unwrap_or_default();
        let after = format!("{}{new}{}", &before[..at], &before[at + old.len()..]);
        let first = before[..at].matches('\n').count();
        let last = first + new.matches('\n').count();
        self.changed(path, before, &after, first, last, workspace)
    }

    fn insert(
        &mut self,
        path: &Path,
        line: usize,
        text: &str,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, SandboxError> {
        let before = match load(path, workspace)? {
            Ok(before) => before,
            Err(problem) => return Ok(Err(problem)),
        };
        let lines: Vec<&str> = before.split_inclusive('\n').collect();
        if line > lines.len() {
            return Ok(Err(format!(
                "`insert_line` is {line}, and {} has {} lines",
                path.display(),
                lines.len()
            )));
        }
        let mut after: String = lines[..line].concat();
        if !after.is_empty() && !after.ends_with('\n') {
            after.push('\n');
        }
        after.push_str(text);
        if !text.ends_with('\n') {
            after.push('\n');
        }
        after.push_str(&lines[line..].concat());
        let last = line + text.trim_end_matches('\n').matches('\n').count();
        self.changed(path, before, &after, line, last, workspace)
    }

    fn changed(
        &mut self,
        path: &Path,
        before: String,
        after: &str,
        first: usize,
        last: usize,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, SandboxError> {
        Ok(save(path, after, workspace)?.map(|()| {
            let history = self.undo.entry(path.to_owned()).or_default();
            history.push(Some(before.into_bytes()));
            let from = first.saturating_sub(AROUND);
            format!(
                "Edited {}. It now reads:\n{}",
                path.display(),
                numbered(after, from, last + AROUND + 1)
            )
        }))
    }

    fn undo(&mut self, path: &Path, workspace: &mut Workspace<'_>) -> Result<Said, SandboxError> {
        let name = path.display();
        let Some(before) = self.undo.get_mut(path).and_then(Vec::pop) else {
            return Ok(Err(format!("{name}: there is no edit to take back")));
        };
        match before {
            Some(bytes) => match workspace.write(path, &bytes) {
                Err(SandboxError::File { source, .. }) => Ok(Err(format!("{name}: {source}"))),
                other => other.map(|()| Ok(format!("Took back the last edit of {name}."))),
            },
            None => {
                let path = path.to_string_lossy().into_owned();
                workspace.exec(&Command::new(["rm".to_owned(), "--".to_owned(), path]))?;
                Ok(Ok(format!("Took back the making of {name}.")))
            }
        }
    }
}

fn view(
    path: &Path,
    range: Option<&[i64]>,
    workspace: &mut Workspace<'_>,
) -> Result<Said, SandboxError> {
    if is_directory(path, workspace)? {
        if range.is_some() {
            return Ok(Err("`view_range` is for files, not for directories".into()));
        }
        return list(path, workspace);
    }
    let text = match load(path, workspace)? {
        Ok(text) => text,
        Err(problem) => return Ok(Err(problem)),
    };
    let lines = text.lines().count();
    let (from, to) = match range {
        None => (0, lines),
        Some(&[first, last]) if first >= 1 && (last == -1 || last >= first) => {
            let first = usize::try_from(first).unwrap_or(1);
            if first > lines.max(1) {
                let name = path.display();
                return Ok(Err(format!(
                    "`view_range` starts at {first}, and {name} has {lines} lines"
                )));
            }
            (first - 1, usize::try_from(last).unwrap_or(lines).min(lines))
        }
        Some(_) => {
            let problem = "`view_range` is two numbers, first and last line; lines count from 1";
            return Ok(Err(problem.into()));
        }
    };
    Ok(Ok(numbered(&text, from, to)))
}

fn list(path: &Path, workspace: &mut Workspace<'_>) -> Result<Said, SandboxError> {
    let path = path.to_string_lossy().into_owned();
    let mut argv = vec!["find".to_owned(), path.clone()];
    let rest = ["-maxdepth", "2", "-not", "-path", "*/.*"];
    argv.extend(rest.map(str::to_owned));
    let ran = workspace.exec(&Command::new(argv))?;
    let mut names: Vec<&str> = ran.text.lines().collect();
    names.sort_unstable();
    Ok(Ok(format!(
        "{path}, two levels deep, without hidden files:\n{}",
        names.join("\n")
    )))
}

/// Lines `from..to` with their numbers, as `cat -n` writes them.
pub(crate) fn numbered(text: &str, from: usize, to: usize) -> String {
    let lines = text.lines().enumerate().skip(from);
    lines
        .take(to.saturating_sub(from))
        .map(|(n, line)| format!("{:>6}\t{line}", n + 1))
        .collect::<Vec<_>>()
        .join("\n")
}

fn load(
    path: &Path,
    workspace: &mut Workspace<'_>,
) -> Result<Result<String, String>, SandboxError> {
    match workspace.read_bytes(path) {
        Ok(bytes) => Ok(String::from_utf8(bytes)
            .map_err(|_| format!("{} is not text in UTF-8; use the shell", path.display()))),
        Err(SandboxError::File { source, .. }) => Ok(Err(format!("{}: {source}", path.display()))),
        Err(e) => Err(e),
    }
}

fn save(
    path: &Path,
    text: &str,
    workspace: &mut Workspace<'_>,
) -> Result<Result<(), String>, SandboxError> {
    // Writing through the sandbox would lose the executable bit.
    let executable = test("-x", path, workspace)? && !is_directory(path, workspace)?;
    let written = workspace.write(path, text.as_bytes()).and_then(|()| {
        if executable {
            let path = path.to_string_lossy().into_owned();
            workspace.exec(&Command::new([
                "chmod".to_owned(),
                "+x".into(),
                "--".into(),
                path,
            ]))?;
        }
        Ok(())
    });
    match written {
        Err(SandboxError::File { source, .. }) => Ok(Err(format!("{}: {source}", path.display()))),
        other => other.map(Ok),
    }
}

fn exists(path: &Path, workspace: &mut Workspace<'_>) -> Result<bool, SandboxError> {
    test("-e", path, workspace)
}

fn is_directory(path: &Path, workspace: &mut Workspace<'_>) -> Result<bool, SandboxError> {
    test("-d", path, workspace)
}

fn test(what: &str, path: &Path, workspace: &mut Workspace<'_>) -> Result<bool, SandboxError> {
    let path = path.to_string_lossy().into_owned();
    let command = Command::new(["test".to_owned(), what.to_owned(), path]);
    Ok(workspace.exec(&command)?.exit.success())
}
