//! The shortest horizon, for the smallest models: the scaffold finds the
//! likeliest functions, the model answers with one edit of lines, the visible
//! tests run, and the work is handed in.
//!
//! An edit is the lines as they are, `=======`, and the lines as they should
//! be; in the text dialect in a block fenced `edit`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use serde::Deserialize;
use serde_json::json;
use swegym_core::{ChatMessage, Command, Tool};

use super::localise::{is_test, localise, names};
use super::search::{Definition, Index, Outline, Span};
use super::workflow::indented_like;
use super::{Act, Dialect, Next, Prompts, Scaffold, StepError, Task, Turn, arguments, wrong};
use crate::workspace::{Workspace, shorten};

/// Fence of an edit in the text dialect.
pub const FENCE: &str = "edit";
/// Line between the old and the new lines.
pub const DIVIDER: &str = "=======";
/// Characters of the issue that the model sees.
const MOST_SYMPTOM: usize = 700;
/// Functions that it sees.
const MOST_SPANS: usize = 4;
/// Lines of all of them.
const MOST_LINES: usize = 60;
/// Places that are looked at.
const MOST_GUESSES: usize = 12;
/// A name that more places define says nothing, even where it failed.
const MOST_PLACES: usize = 12;
/// Answers out of form before the episode ends.
const RETRIES: u32 = 1;
/// Longest run of the visible tests.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// The `repair` scaffold.
pub struct Repair {
    prompts: Prompts,
    dialect: Dialect,
    outline: Arc<dyn Outline>,
    tools: Vec<Tool>,
    workdir: String,
    test_command: Option<String>,
    spans: Vec<Shown>,
    failures: u32,
}

/// Code that the model sees.
struct Shown {
    file: String,
    /// Lines by their numbers, from 1; what is between is left out.
    lines: Vec<(usize, String)>,
}

/// An edit that fits: the lines of a file from `first` on, so many, become
/// `new`.
#[derive(Debug, PartialEq)]
struct Edit {
    file: String,
    first: usize,
    count: usize,
    new: String,
}

#[derive(Deserialize)]
struct Arguments {
    command: String,
}

impl Repair {
    /// With these prompts and this parser.
    pub fn new(prompts: Prompts, dialect: Dialect, outline: Arc<dyn Outline>) -> Self {
        let parameters = json!({
            "type": "object",
            "properties": {"command": {
                "type": "string",
                "description": format!(
                    "The wrong lines as they are, a line {DIVIDER}, and the right lines."
                ),
            }},
            "required": ["command"],
        });
        Self {
            prompts,
            dialect,
            outline,
            tools: vec![Tool::new(
                "edit",
                "Replaces lines of the code shown, runs the tests and hands in the work.",
                Some(parameters),
            )],
            workdir: String::new(),
            test_command: None,
            spans: Vec::new(),
            failures: 0,
        }
    }

    /// The likeliest functions, as far as there is room.
    fn look(&mut self, task: &Task, workspace: &mut Workspace<'_>) -> Result<(), StepError> {
        let index = Index::build(&task.workdir, workspace)?;
        // Tests are only run where the issue alone leads nowhere.
        let issue_alone = Task {
            test_command: None,
            ..task.clone()
        };
        let outline = self.outline.clone();
        let mut found = localise(&issue_alone, &index, &*outline, workspace, MOST_GUESSES)?;
        if found.is_empty() {
            found = localise(task, &index, &*outline, workspace, MOST_GUESSES)?;
        }
        let mut guesses: Vec<(Span, f64)> = Vec::new();
        let mut add = |span: Span, weight: f64| match guesses.iter_mut().find(|(s, _)| *s == span) {
            Some((_, sum)) => *sum += weight,
            None => guesses.push((span, weight)),
        };
        for (n, span) in found.into_iter().enumerate() {
            add(span, 1.0 / (n + 1) as f64);
        }
        // What failed says more than the rest, even where many have the name.
        let symptom = symptom(&task.problem_statement);
        for name in names(&symptom).into_keys() {
            let places = index.count(name.rsplit('.').next().unwrap_or(&name));
            if (1..=MOST_PLACES).contains(&places) {
                for span in index.named(&name, None, &*outline, workspace)? {
                    if !is_test(&span.file) {
                        add(span, 1.0 / (places as f64).sqrt());
                    }
                }
            }
        }
        guesses.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.file.cmp(&b.0.file)));
        let mut functions: Vec<(Span, String)> = Vec::new();
        for (span, _) in guesses {
            let text = workspace.read(&Path::new(&task.workdir).join(&span.file))?;
            for span in functions_of(span, &text, &*outline, &symptom) {
                if functions.iter().all(|(known, _)| *known != span) {
                    functions.push((span, text.clone()));
                }
            }
        }
        let mut room = MOST_LINES;
        for (span, text) in functions {
            let lines = code_of(&span, &text);
            if lines.len() > room || self.spans.len() == MOST_SPANS {
                continue;
            }
            room -= lines.len();
            let Span { file, .. } = span;
            self.spans.push(Shown { file, lines });
        }
        Ok(())
    }

    /// Reads an edit; `Err` says what is wrong with it.
    fn read(&self, text: &str) -> Result<Edit, String> {
        let lines: Vec<&str> = text.lines().collect();
        let divider = lines.iter().position(|l| l.trim_end() == DIVIDER);
        let Some(divider) = divider else {
            return Err(format!("there is no line {DIVIDER}"));
        };
        let blank = |l: &&&str| l.trim().is_empty();
        let old: Vec<&str> = lines[..divider].iter().skip_while(blank).copied().collect();
        let old = match old.iter().rposition(|l| !l.trim().is_empty()) {
            Some(last) => &old[..=last],
            None => return Err("there are no old lines".into()),
        };
        let (span, first) = self.place(old)?;
        let span = &self.spans[span];
        let count = old.len();
        let before = span.lines[first..first + count].iter();
        let before: Vec<&str> = before.map(|(_, line)| line.as_str()).collect();
        let before = before.join("\n");
        let new = lines[divider + 1..].join("\n");
        let new = indented_like(&new, &before);
        if new.trim_end_matches('\n') == before {
            return Err("the new lines are the same as the old".into());
        }
        Ok(Edit {
            file: span.file.clone(),
            first: span.lines[first].0,
            count,
            new,
        })
    }

    /// Where lines are: as they are, else but for space around them.
    fn place(&self, old: &[&str]) -> Result<(usize, usize), String> {
        type Same = fn(&str, &str) -> bool;
        let exact: Same = |a, b| a.trim_end() == b.trim_end();
        let loose: Same = |a, b| a.trim() == b.trim();
        for same in [exact, loose] {
            let mut found = Vec::new();
            for (n, span) in self.spans.iter().enumerate() {
                let windows = span.lines.windows(old.len()).enumerate();
                // Nothing may have been left out between them.
                let fits = windows.filter(|(_, w)| {
                    let whole = w[w.len() - 1].0 - w[0].0 + 1 == w.len();
                    whole && w.iter().zip(old).all(|(a, b)| same(&a.1, b))
                });
                found.extend(fits.map(|(first, _)| (n, first)));
            }
            match found.as_slice() {
                [] => {}
                [one] => return Ok(*one),
                many => {
                    return Err(format!(
                        "the old lines occur {} times; copy more of them",
                        many.len()
                    ));
                }
            }
        }
        Err("the old lines are not in the code shown".into())
    }

    /// Makes an edit; `Err` says why it cannot be made.
    fn make(
        &self,
        edit: &Edit,
        workspace: &mut Workspace<'_>,
    ) -> Result<Result<(), String>, StepError> {
        let path = Path::new(&self.workdir).join(&edit.file);
        let before = workspace.read(&path)?;
        let lines: Vec<&str> = before.split_inclusive('\n').collect();
        let first = (edit.first - 1).min(lines.len());
        let end = (first + edit.count).min(lines.len());
        let after = format!(
            "{}{}{}",
            lines[..first].concat(),
            edit.new,
            lines[end..].concat()
        );
        let parsed = edit.file.ends_with(".py") && self.outline.syntax_error(&before).is_none();
        if let Some(error) = self.outline.syntax_error(&after).filter(|_| parsed) {
            return Ok(Err(format!("the file would not be valid Python ({error})")));
        }
        workspace.write(&path, after.as_bytes())?;
        Ok(Ok(()))
    }

    /// Runs the tests that the agent may see; the last line of their output.
    fn test(&self, workspace: &mut Workspace<'_>) -> Result<String, StepError> {
        let Some(script) = &self.test_command else {
            return Ok("There are no tests to run.".into());
        };
        let command = Command::shell(script.clone())
            .cwd(&self.workdir)
            .timeout(TEST_LIMIT);
        let ran = workspace.exec(&command)?;
        let last = ran.text.lines().rev().find(|l| !l.trim().is_empty());
        let last = without_time(last.unwrap_or("no output").trim_matches(['=', ' ']));
        Ok(format!("{script}: exit status {}, {last}", ran.code()))
    }
}

/// A summary of tests without the time they took, which is another each time:
/// what is learnt from an episode is the same when it is done again.
fn without_time(summary: &str) -> String {
    let time = Regex::new(r" in [\d.]+ ?s(?:econds)?(?: \([\d:]+\))?$").expect("valid");
    time.replace(summary, "").into_owned()
}

/// What an issue says in few words: its first line, and of the outputs in it
/// the lines that failed and what they raised.
fn symptom(issue: &str) -> String {
    let title = issue.lines().map(str::trim).find(|l| !l.is_empty());
    let mut lines: Vec<&str> = title.into_iter().collect();
    let told = |l: &&str| l.starts_with("> ") || l.starts_with("E ");
    for line in issue.lines().filter(told).map(|l| l[1..].trim()) {
        if !line.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
    }
    let text = match lines.len() {
        0 | 1 => issue.trim().to_owned(),
        _ => lines.join("\n"),
    };
    shorten(&text, MOST_SYMPTOM, "…")
}

/// A function as it is; of a class, the methods that the symptom names.
fn functions_of(span: Span, text: &str, outline: &dyn Outline, symptom: &str) -> Vec<Span> {
    let within = |d: &Definition| span.start <= d.start && d.end <= span.end;
    let all = outline.definitions(text);
    let inner: Vec<&Definition> = all.iter().filter(|d| within(d)).collect();
    let head = text.lines().skip(span.start - 1);
    let class = head
        .map(str::trim_start)
        .find(|line| !line.starts_with('@') && !line.is_empty())
        .is_some_and(|line| line.starts_with("class "));
    if !class {
        return vec![span];
    }
    let mentioned = names(symptom);
    let called = |d: &&&Definition| {
        let plain = d.name.rsplit('.').next().unwrap_or(&d.name);
        (d.start, d.end) != (span.start, span.end) && mentioned.contains_key(plain)
    };
    let methods = inner.iter().filter(called);
    methods
        .map(|d| Span {
            file: span.file.clone(),
            title: d.name.clone(),
            start: d.start,
            end: d.end,
        })
        .collect()
}

/// Lines of a span by their numbers, without its docstring: a small model has
/// room for the code alone.
fn code_of(span: &Span, text: &str) -> Vec<(usize, String)> {
    let all = text.lines().enumerate().skip(span.start - 1);
    let all = all.take(span.end + 1 - span.start);
    let mut lines: Vec<(usize, String)> = all.map(|(n, l)| (n + 1, l.to_owned())).collect();
    let body = lines.iter().position(|(_, l)| l.trim_end().ends_with(':'));
    let Some(first) = body.map(|n| n + 1) else {
        return lines;
    };
    let quote = lines.get(first).and_then(|(_, l)| {
        let l = l.trim_start().trim_start_matches(['r', 'R']);
        ["\"\"\"", "'''"]
            .into_iter()
            .find(|quote| l.starts_with(quote))
    });
    if let Some(quote) = quote {
        let ends = |n: usize, l: &str| match n == first {
            true => l.matches(quote).count() > 1,
            false => l.contains(quote),
        };
        let last = lines
            .iter()
            .enumerate()
            .skip(first)
            .find(|(n, (_, l))| ends(*n, l))
            .map(|(n, _)| n);
        // A body of nothing else is shown as it is.
        if let Some(last) = last.filter(|last| last + 1 < lines.len()) {
            lines.drain(first..=last);
        }
    }
    lines
}

impl Scaffold for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn tools(&self) -> &[Tool] {
        &self.tools
    }

    fn fence(&self) -> Option<&'static str> {
        Some(FENCE)
    }

    fn begin(
        &mut self,
        task: &Task,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<ChatMessage>, StepError> {
        self.workdir.clone_from(&task.workdir);
        self.test_command.clone_from(&task.test_command);
        self.look(task, workspace)?;
        let spans = self.spans.iter();
        let spans: Vec<_> = spans
            .map(|s| {
                let lines: Vec<&str> = s.lines.iter().map(|(_, line)| line.as_str()).collect();
                json!({"file": s.file, "code": lines.join("\n")})
            })
            .collect();
        let values = json!({
            "symptom": symptom(&task.problem_statement), "spans": spans, "dialect": self.dialect,
        });
        Ok(vec![
            ChatMessage::system(self.prompts.render("repair/system.j2", &values)?),
            ChatMessage::user(self.prompts.render("repair/task.j2", &values)?),
        ])
    }

    fn step(
        &mut self,
        answer: &ChatMessage,
        workspace: &mut Workspace<'_>,
    ) -> Result<Turn, StepError> {
        let Some(call) = answer.tool_calls.first() else {
            let problem = match self.dialect {
                Dialect::Text => format!("there is no block ```{FENCE}"),
                Dialect::Tools => "`edit` was not called".to_owned(),
            };
            let (say, next) = self.out_of_form(&problem)?;
            return Ok(Turn {
                next,
                ..Turn::said(say)
            });
        };
        let made = if call.function.name == "edit" {
            let text = arguments(call).and_then(|map| {
                let read = serde_json::from_value::<Arguments>(map.into());
                read.map_err(|e| format!("`edit`: {e}"))
            });
            match text.and_then(|a| self.read(&a.command)) {
                Ok(edit) => self.make(&edit, workspace)?,
                Err(problem) => Err(problem),
            }
        } else {
            let name = &call.function.name;
            Err(format!("there is no tool `{name}`, only `edit`"))
        };
        let mut acts = Vec::new();
        let next = match made {
            Ok(()) => {
                acts.push(Act {
                    call: call.clone(),
                    observation: self.test(workspace)?,
                    error: false,
                    same_as: None,
                });
                Next::Submitted
            }
            Err(problem) => {
                let (say, next) = self.out_of_form(&problem)?;
                acts.push(Act {
                    call: call.clone(),
                    observation: say,
                    error: true,
                    same_as: None,
                });
                next
            }
        };
        for extra in &answer.tool_calls[1..] {
            acts.push(wrong(extra, "one edit at a time; this one was not made"));
        }
        Ok(Turn {
            next,
            ..Turn::acted(acts)
        })
    }
}

impl Repair {
    /// What the model hears of an answer out of form, and whether that is the
    /// end.
    fn out_of_form(&mut self, problem: &str) -> Result<(String, Next), StepError> {
        self.failures += 1;
        let say = self
            .prompts
            .render("repair/retry.j2", json!({"problem": problem}))?;
        let next = match self.failures > RETRIES {
            true => Next::GaveUp(format!("{} answers out of form", self.failures)),
            false => Next::Continue,
        };
        Ok((say, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Outline for Nothing {
        fn definitions(&self, _: &str) -> Vec<super::super::Definition> {
            Vec::new()
        }

        fn syntax_error(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn shown_nothing() -> Repair {
        Repair::new(Prompts::default(), Dialect::Text, Arc::new(Nothing))
    }

    fn shown(code: &[&str]) -> Repair {
        let mut repair = shown_nothing();
        for (n, text) in code.iter().enumerate() {
            repair.spans.push(Shown {
                file: format!("{n}.py"),
                lines: text
                    .lines()
                    .enumerate()
                    .map(|(n, l)| (n + 10, l.to_owned()))
                    .collect(),
            });
        }
        repair
    }

    #[test]
    fn an_edit_is_placed_where_its_old_lines_are() {
        let repair = shown(&[
            "def f(x):\n    if x:\n        return 1\n    return 2",
            "y = 3",
        ]);
        let edit = repair
            .read("    if x:\n        return 1\n=======\n    if not x:\n        return 1\n")
            .unwrap();
        let new = "    if not x:\n        return 1\n".to_owned();
        let at = |file: usize, first, count, new| Edit {
            file: format!("{file}.py"),
            first,
            count,
            new,
        };
        assert_eq!(edit, at(0, 11, 2, new));
        // Space around lines is forgiven, and put right.
        let edit = repair.read("\nreturn 2\n=======\nreturn 5").unwrap();
        assert_eq!(edit, at(0, 13, 1, "    return 5\n".into()));
        assert_eq!(
            repair.read("y = 3\n=======").unwrap(),
            at(1, 10, 1, String::new())
        );
    }

    #[test]
    fn an_edit_that_does_not_fit_is_said_why() {
        let repair = shown(&["a = 1\nb = 2\na = 1"]);
        let problem = |text: &str| repair.read(text).unwrap_err();
        assert!(problem("a = 1\n").contains("no line ======="));
        assert!(problem("=======\nx").contains("no old lines"));
        assert!(problem("c\n=======\nd").contains("not in the code"));
        assert!(problem("a = 1\n=======\na = 2").contains("2 times"));
        assert!(problem("b = 2\n=======\nb = 2").contains("same as the old"));
    }

    #[test]
    fn docstrings_are_left_out_and_edits_do_not_reach_over_them() {
        let text = "\n@cached\ndef f(x):\n    \"\"\"Doc.\n\n    More.\n    \"\"\"\n    return x\n";
        let span = Span {
            file: "0.py".into(),
            title: "f".into(),
            start: 2,
            end: 8,
        };
        let lines = code_of(&span, text);
        let shown: Vec<(usize, &str)> = lines.iter().map(|(n, l)| (*n, l.as_str())).collect();
        assert_eq!(
            shown,
            [(2, "@cached"), (3, "def f(x):"), (8, "    return x")]
        );
        let mut repair = shown_nothing();
        repair.spans.push(Shown {
            file: "0.py".into(),
            lines,
        });
        let edit = repair.read("return x\n=======\nreturn -x").unwrap();
        assert_eq!((edit.first, edit.count), (8, 1));
        let over = repair
            .read("def f(x):\n    return x\n=======\nx")
            .unwrap_err();
        assert!(over.contains("not in the code"), "{over}");
    }

    #[test]
    fn a_summary_has_no_time_in_it() {
        assert_eq!(
            without_time("1 failed, 2 passed in 0.31s"),
            "1 failed, 2 passed"
        );
        assert_eq!(without_time("9 passed in 75.20s (0:01:15)"), "9 passed");
        assert_eq!(without_time("Ran 3 tests in 0.002s"), "Ran 3 tests");
        assert_eq!(without_time("no output"), "no output");
    }

    #[test]
    fn a_symptom_is_what_failed_and_what_it_raised() {
        let issue = "\nWrong result\n\nI see:\n\n```\n    def test():\n>       assert f(1) == 2\n\
            E       assert 3 == 2\nE       assert 3 == 2\n```\n\nThanks.";
        assert_eq!(
            symptom(issue),
            "Wrong result\nassert f(1) == 2\nassert 3 == 2"
        );
        assert_eq!(
            symptom("Only words.\nMore of them."),
            "Only words.\nMore of them."
        );
        assert!(symptom(&"x".repeat(2000)).chars().count() < 720);
    }
}
