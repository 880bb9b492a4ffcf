//! The paper's specialised agent: a small state machine that asks one narrow
//! question at a time, so that a weak model has a short horizon (SWE-GYM
//! section 6). The history is linear all the same.
//!
//! ```text
//! Search ──pick──► Plan ──plan──► Edit ──replace──► Review ──accept──► end
//!   ▲                │  ▲                             │
//!   └────search──────┘  └──────change, revert─────────┘
//! ```

mod code;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use serde_json::{Value, json};
use swegym_core::{ChatMessage, ChatToolCall, Command, SandboxError, Tool};

pub(super) use self::code::indented_like;
pub use self::code::last_block;
use self::tools::{Pick, Plan, Replace, Review, SearchFor, Verdict, tools};
use super::editor::numbered;
use super::localise::localise;
use super::search::{self, Index, Outline, Span};
use super::{Act, Dialect, Next, Prompts, Scaffold, StepError, Task, Turn, arguments, wrong};
use crate::workspace::Workspace;

/// Spans of one search that the model sees.
const MOST_SPANS: usize = 10;
/// Lines of a span that are shown where many are.
const BRIEF: usize = 12;
/// Lines of a span that may be edited at once.
const MOST_LINES: usize = 120;
/// Answers out of form in one state before the episode ends (SWE-GYM: 2
/// retries).
const RETRIES: u32 = 2;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Search,
    Plan,
    Edit { span: usize },
    Review { undo: Undo },
}

#[derive(Debug, Clone, PartialEq)]
struct Undo {
    path: PathBuf,
    /// `None` where the file was made.
    before: Option<String>,
    /// Lines that came with the edit, after line `at` of its file.
    grown: isize,
    at: usize,
}

/// The `workflow` scaffold.
pub struct Workflow {
    prompts: Prompts,
    dialect: Dialect,
    outline: Arc<dyn Outline>,
    tools: Vec<Tool>,
    state: State,
    workdir: String,
    index: Index,
    /// All that was found; `S1` is the first.
    spans: Vec<Span>,
    picked: Vec<usize>,
    failures: u32,
    edits: u32,
}

/// What the model hears; `Err` is an answer out of form.
type Said = Result<String, String>;

impl Workflow {
    /// With these prompts and this parser.
    pub fn new(prompts: Prompts, dialect: Dialect, outline: Arc<dyn Outline>) -> Self {
        Self {
            prompts,
            dialect,
            outline,
            tools: tools(),
            state: State::Search,
            workdir: String::new(),
            index: Index::default(),
            spans: Vec::new(),
            picked: Vec::new(),
            failures: 0,
            edits: 0,
        }
    }

    fn call(
        &mut self,
        call: &ChatToolCall,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, StepError> {
        let map = match arguments(call) {
            Ok(map) => Value::Object(map),
            Err(problem) => return Ok(Err(problem)),
        };
        macro_rules! read {
            ($kind:ty) => {
                match serde_json::from_value::<$kind>(map) {
                    Ok(read) => read,
                    Err(e) => return Ok(Err(format!("`{}`: {e}", call.function.name))),
                }
            };
        }
        match (call.function.name.as_str(), &self.state) {
            ("search", State::Search | State::Plan) => self.search(read!(SearchFor), workspace),
            ("pick", State::Search | State::Plan) => self.pick(&read!(Pick).spans, workspace),
            ("plan", State::Plan) => self.plan(&read!(Plan), workspace),
            ("replace", State::Edit { .. }) => self.replace(&read!(Replace).code, workspace),
            ("review", State::Review { .. }) => self.review(read!(Review).verdict, workspace),
            (name, _) => Ok(Err(format!(
                "`{name}` does not fit here; {}",
                self.what_fits()
            ))),
        }
    }

    fn what_fits(&self) -> &'static str {
        match self.state {
            State::Search => "call `search`, or `pick` spans",
            State::Plan => "call `plan`, `search` or `pick`",
            State::Edit { .. } => "call `replace` with the new code",
            State::Review { .. } => "call `review`",
        }
    }

    fn search(
        &mut self,
        wanted: SearchFor,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, StepError> {
        let files = match wanted.files.as_deref().map(search::files).transpose() {
            Ok(files) => files,
            Err(problem) => return Ok(Err(problem)),
        };
        let files = files.as_ref();
        let outline = self.outline.clone();
        let mut found = Vec::new();
        let name = match (&wanted.class, &wanted.function) {
            (Some(class), Some(function)) => Some(format!("{class}.{function}")),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.extend(self.index.named(&name, files, &*outline, workspace)?);
        }
        if let Some(text) = wanted.text.as_deref().filter(|text| !text.is_empty()) {
            found.extend(self.index.text(text, files, &*outline, workspace)?);
        } else if wanted.function.is_none() && wanted.class.is_none() {
            match wanted.files.as_deref().filter(|path| !path.contains('*')) {
                Some(path) => found.push(self.whole(path, workspace)?),
                None => {
                    let problem = "`search` needs one of `function`, `class` and `text`, or the \
                                   path of one file as `files`";
                    return Ok(Err(problem.into()));
                }
            }
        }
        let all = found.len();
        found.truncate(MOST_SPANS);
        let ids: Vec<usize> = found.into_iter().map(|span| self.keep(span)).collect();
        let shown = self.show(&ids, Some(BRIEF), workspace)?;
        self.state = State::Search;
        let values = json!({"spans": shown, "found": all, "shown": ids.len()});
        Ok(Ok(self.prompts.render("workflow/search.j2", values)?))
    }

    /// All of a file, or one that is yet to be made.
    fn whole(&self, path: &str, workspace: &mut Workspace<'_>) -> Result<Span, StepError> {
        let file = path.trim_start_matches("./").to_owned();
        let read = workspace.read(&Path::new(&self.workdir).join(&file));
        let (title, end) = match read {
            Ok(text) => ("whole file", text.lines().count().max(1)),
            Err(SandboxError::File { .. }) => ("new file", 0),
            Err(e) => return Err(e.into()),
        };
        Ok(Span {
            file,
            title: title.to_owned(),
            start: 1,
            end,
        })
    }

    /// The text of a file; empty where there is none yet.
    fn text_of(&self, span: &Span, workspace: &mut Workspace<'_>) -> Result<String, StepError> {
        match workspace.read(&Path::new(&self.workdir).join(&span.file)) {
            Err(SandboxError::File { .. }) if span.end == 0 => Ok(String::new()),
            other => Ok(other?),
        }
    }

    fn pick(&mut self, ids: &[String], workspace: &mut Workspace<'_>) -> Result<Said, StepError> {
        let mut picked = Vec::new();
        for id in ids {
            match self.find(id) {
                Ok(index) => picked.push(index),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        if picked.is_empty() {
            return Ok(Err("`pick` needs at least one span, such as S1".into()));
        }
        self.picked = picked;
        self.go_plan(workspace)
    }

    fn go_plan(&mut self, workspace: &mut Workspace<'_>) -> Result<Said, StepError> {
        self.state = State::Plan;
        let shown = self.show(&self.picked.clone(), None, workspace)?;
        let values = json!({"spans": shown, "edits": self.edits});
        Ok(Ok(self.prompts.render("workflow/plan.j2", values)?))
    }

    fn plan(&mut self, plan: &Plan, workspace: &mut Workspace<'_>) -> Result<Said, StepError> {
        let mut index = match self.find(&plan.span) {
            Ok(index) => index,
            Err(problem) => return Ok(Err(problem)),
        };
        let span = self.spans[index].clone();
        let start = plan.start_line.unwrap_or(span.start);
        let end = plan.end_line.unwrap_or(span.end);
        let new = span.end == 0;
        if !new && (start < span.start || end > span.end || start > end) {
            return Ok(Err(format!(
                "lines {start} to {end} are not within {}, which is lines {} to {}",
                plan.span, span.start, span.end
            )));
        }
        if end.saturating_sub(start) >= MOST_LINES {
            return Ok(Err(format!(
                "{} lines are too many for one edit; narrow them to at most {MOST_LINES} with \
                 `start_line` and `end_line`",
                end - start + 1
            )));
        }
        if !new && (start, end) != (span.start, span.end) {
            index = self.keep(Span { start, end, ..span });
        }
        let code = self.code(index, workspace)?;
        self.state = State::Edit { span: index };
        let span = &self.spans[index];
        let values = json!({
            "code": code, "file": span.file, "start": span.start, "end": span.end,
            "instructions": plan.instructions, "dialect": self.dialect,
        });
        Ok(Ok(self.prompts.render("workflow/edit.j2", values)?))
    }

    fn replace(&mut self, code: &str, workspace: &mut Workspace<'_>) -> Result<Said, StepError> {
        let State::Edit { span: index } = self.state else {
            unreachable!("only called in this state")
        };
        let span = self.spans[index].clone();
        let path = Path::new(&self.workdir).join(&span.file);
        let before = self.text_of(&span, workspace)?;
        let lines: Vec<&str> = before.split_inclusive('\n').collect();
        let (head, rest) = lines.split_at((span.start - 1).min(lines.len()));
        let (old, tail) = rest.split_at((span.end + 1 - span.start).min(rest.len()));
        let code = indented_like(code, &old.concat());
        let after = format!("{}{code}{}", head.concat(), tail.concat());
        if after == before {
            return Ok(Err("the new code is the same as the old".into()));
        }
        // What did not parse before need not now.
        let parsed = span.file.ends_with(".py") && self.outline.syntax_error(&before).is_none();
        if let Some(error) = self.outline.syntax_error(&after).filter(|_| parsed) {
            return Ok(Err(format!(
                "the file would no longer be valid Python ({error}); nothing was changed"
            )));
        }
        workspace.write(&path, after.as_bytes())?;
        let grown = code.lines().count() as isize - old.len() as isize;
        self.shift(&span.file, span.end, grown);
        let shown = &mut self.spans[index];
        shown.end = shown.end.saturating_add_signed(grown).max(shown.start);
        let values = json!({
            "file": span.file,
            "before": numbered(&before, span.start - 1, span.end),
            "after": numbered(&after, span.start - 1, span.start - 1 + code.lines().count()),
        });
        self.edits += 1;
        self.state = State::Review {
            undo: Undo {
                path,
                before: (span.end > 0).then_some(before),
                grown,
                at: span.end,
            },
        };
        Ok(Ok(self.prompts.render("workflow/review.j2", values)?))
    }

    fn review(
        &mut self,
        verdict: Verdict,
        workspace: &mut Workspace<'_>,
    ) -> Result<Said, StepError> {
        let State::Review { undo } = self.state.clone() else {
            unreachable!("only called in this state")
        };
        match verdict {
            Verdict::Accept => Ok(Ok(String::new())),
            Verdict::Change => self.go_plan(workspace),
            Verdict::Revert => {
                match &undo.before {
                    Some(before) => workspace.write(&undo.path, before.as_bytes())?,
                    None => {
                        let path = undo.path.to_string_lossy().into_owned();
                        workspace.exec(&Command::new(["rm".to_owned(), "--".into(), path]))?;
                    }
                }
                self.edits -= 1;
                let file = self.relative(&undo.path);
                self.shift(
                    &file,
                    undo.at.saturating_add_signed(undo.grown),
                    -undo.grown,
                );
                self.go_plan(workspace)
            }
        }
    }

    /// Spans of a file that lie after a line, or end there with a larger
    /// beginning, move with it.
    fn shift(&mut self, file: &str, after: usize, by: isize) {
        for span in self.spans.iter_mut().filter(|s| s.file == file) {
            if span.start > after {
                span.start = span.start.saturating_add_signed(by).max(1);
            }
            if span.end > after {
                span.end = span.end.saturating_add_signed(by).max(span.start);
            }
        }
    }

    fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.workdir).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    fn keep(&mut self, span: Span) -> usize {
        match self.spans.iter().position(|s| *s == span) {
            Some(index) => index,
            None => {
                self.spans.push(span);
                self.spans.len() - 1
            }
        }
    }

    fn find(&self, id: &str) -> Result<usize, String> {
        let number = id.trim().trim_start_matches(['S', 's']).parse::<usize>();
        match number {
            Ok(n) if (1..=self.spans.len()).contains(&n) => Ok(n - 1),
            _ => Err(format!(
                "there is no span {id}; there are S1 to S{}",
                self.spans.len()
            )),
        }
    }

    fn code(&self, index: usize, workspace: &mut Workspace<'_>) -> Result<String, StepError> {
        let span = &self.spans[index];
        let text = self.text_of(span, workspace)?;
        let lines = text.lines().skip(span.start - 1);
        let count = span.end + 1 - span.start;
        Ok(lines.take(count).collect::<Vec<_>>().join("\n"))
    }

    fn show(
        &self,
        ids: &[usize],
        most: Option<usize>,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<Value>, StepError> {
        ids.iter()
            .map(|&index| {
                let span = &self.spans[index];
                let text = self.text_of(span, workspace)?;
                let lines = span.end + 1 - span.start;
                let shown = lines.min(most.unwrap_or(MOST_LINES));
                Ok(json!({
                    "id": format!("S{}", index + 1),
                    "file": span.file, "title": span.title,
                    "start": span.start, "end": span.end,
                    "code": numbered(&text, span.start - 1, span.start - 1 + shown),
                    "left_out": lines - shown,
                }))
            })
            .collect()
    }

    /// What an answer without a call means, where that is plain: a weak model
    /// often names a span or writes the code, and forgets the form.
    fn read_plain(&self, text: &str) -> Option<ChatToolCall> {
        let spans = Regex::new(r"\bS(\d+)\b").expect("valid");
        let named: Vec<String> = spans
            .find_iter(text)
            .map(|m| m.as_str().to_owned())
            .filter(|id| self.find(id).is_ok())
            .collect();
        let (name, arguments) = match &self.state {
            State::Search => ("pick", json!({"spans": non_empty(named)?})),
            State::Plan => {
                let span = named.into_iter().next()?;
                ("plan", json!({"span": span, "instructions": text.trim()}))
            }
            State::Edit { .. } => ("replace", json!({"code": last_block(text)?})),
            State::Review { .. } => {
                let lower = text.to_lowercase();
                let verdict = ["accept", "change", "revert"];
                let verdict = verdict.iter().find(|word| lower.contains(**word))?;
                ("review", json!({"verdict": verdict}))
            }
        };
        Some(ChatToolCall::new("plain", name, &arguments))
    }
}

fn non_empty(ids: Vec<String>) -> Option<Vec<String>> {
    (!ids.is_empty()).then_some(ids)
}

impl Scaffold for Workflow {
    fn name(&self) -> &'static str {
        "workflow"
    }

    fn tools(&self) -> &[Tool] {
        &self.tools
    }

    fn begin(
        &mut self,
        task: &Task,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<ChatMessage>, StepError> {
        self.workdir.clone_from(&task.workdir);
        self.index = Index::build(&task.workdir, workspace)?;
        let outline = self.outline.clone();
        let guesses = localise(task, &self.index, &*outline, workspace, MOST_SPANS)?;
        let ids: Vec<usize> = guesses.into_iter().map(|span| self.keep(span)).collect();
        let shown = self.show(&ids, Some(BRIEF), workspace)?;
        let values = json!({"task": task, "spans": shown, "dialect": self.dialect});
        Ok(vec![
            ChatMessage::system(self.prompts.render("workflow/system.j2", &values)?),
            ChatMessage::user(self.prompts.render("workflow/task.j2", &values)?),
        ])
    }

    fn step(
        &mut self,
        answer: &ChatMessage,
        workspace: &mut Workspace<'_>,
    ) -> Result<Turn, StepError> {
        let calls = answer.tool_calls.as_slice();
        let plain = match calls {
            [] => self.read_plain(&answer.text()),
            _ => None,
        };
        let Some(call) = calls.first().or(plain.as_ref()) else {
            let said = self.out_of_form(self.what_fits())?;
            return Ok(Turn {
                acts: Vec::new(),
                ..said
            });
        };
        let said = self.call(call, workspace)?;
        let accepted = matches!(&said, Ok(text) if text.is_empty());
        let mut turn = match said {
            Ok(_) if accepted => Turn {
                next: Next::Submitted,
                ..Turn::said("")
            },
            Ok(text) => {
                self.failures = 0;
                Turn::said(text)
            }
            Err(problem) => self.out_of_form(&problem)?,
        };
        let error = turn.next == Next::Continue && self.failures > 0;
        let said = turn.say.take().unwrap_or_default();
        if plain.is_some() {
            // There was no call that the result could be of.
            turn.say = (!accepted).then_some(said);
            return Ok(turn);
        }
        turn.acts.push(Act {
            call: call.clone(),
            observation: if accepted { "Accepted.".into() } else { said },
            error,
            same_as: None,
        });
        for extra in &calls[1..] {
            turn.acts
                .push(wrong(extra, "one call at a time; this one was not made"));
        }
        Ok(turn)
    }
}

impl Workflow {
    /// Says what is wrong, or ends the episode if that does not help.
    fn out_of_form(&mut self, problem: &str) -> Result<Turn, StepError> {
        self.failures += 1;
        if self.failures > RETRIES {
            // An edit that stands is worth handing in.
            let next = match (&self.state, self.edits) {
                (State::Review { .. } | State::Plan, 1..) => Next::Submitted,
                _ => Next::GaveUp(format!("{} answers out of form", self.failures)),
            };
            return Ok(Turn {
                next,
                ..Turn::said(problem)
            });
        }
        let values = json!({"problem": problem});
        Ok(Turn::said(
            self.prompts.render("workflow/retry.j2", values)?,
        ))
    }
}
