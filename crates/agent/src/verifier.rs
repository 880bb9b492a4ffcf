//! What a verifier reads: one function for training and for scoring, so that
//! the two cannot differ (SWE-GYM.md section 4).
//!
//! There are two forms. The **log** is the whole interaction; the **patch** is
//! the issue with the code before and after. What is too long for the model is
//! shortened by a fixed rule, step by step until it fits, and never scored
//! otherwise:
//! - of the log, first every message is cut in its middle to 8,000, 4,000, …,
//!   250 characters (the task and the last message to four times that), then
//!   only the last 32, 16, … 1 messages are kept behind the task;
//! - of the patch, issue and code are cut in their middle to 16,000, 8,000, …,
//!   250 characters each.

use serde::{Deserialize, Serialize};
use swegym_core::{ChatMessage, Role, Trajectory};

use crate::rows::{RowError, said};
use crate::text_form;

/// What of an attempt is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The whole interaction.
    #[default]
    Log,
    /// The issue, and the code before and after the patch.
    Patch,
}

impl Form {
    /// The answers that say yes and no.
    pub fn answers(self) -> [&'static str; 2] {
        match self {
            Self::Log => ["<judgement>YES</judgement>", "<judgement>NO</judgement>"],
            Self::Patch => ["True", "False"],
        }
    }
}

/// Code that a patch changes, with the lines around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The file.
    pub path: String,
    /// Lines before, numbered.
    pub before: Vec<(usize, String)>,
    /// Lines after.
    pub after: Vec<(usize, String)>,
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What was done.
    pub trajectory: &'a Trajectory,
    /// The issue; of no use to the log, which has it.
    pub issue: &'a str,
    /// What was changed; likewise.
    pub excerpts: &'a [Excerpt],
}

/// A prompt that fits, and whether something was left out for that.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The messages.
    pub messages: Vec<ChatMessage>,
    /// Whether it was shortened.
    pub shortened: bool,
}

const LOG_JUDGE: &str = "\
You judge the work of a software engineer who was given an issue of a codebase. You read a log of \
what was done, and decide whether the issue is resolved by it. Look at four things:
1. Was the place found where the fault is?
2. Does the change remove the cause, for all cases that the issue is about?
3. Was the change tried out, and did that show what it should?
4. Is everything else left as it was?
Answer with <judgement>YES</judgement> if the issue is resolved, and with \
<judgement>NO</judgement> if it is not.";

const PATCH_JUDGE: &str = "\
You review a change to a codebase. You are given the issue, and the code before and after. Answer \
with True if the change resolves the issue, and with False if it does not.";

/// How much is left of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    characters: usize,
    messages: usize,
}

/// From everything to the least.
fn cuts(form: Form) -> Vec<Cut> {
    let cut = |characters, messages| Cut {
        characters,
        messages,
    };
    let mut cuts = vec![cut(usize::MAX, usize::MAX)];
    match form {
        Form::Log => {
            cuts.extend([8000, 4000, 2000, 1000, 500, 250].map(|n| cut(n, usize::MAX)));
            cuts.extend([32, 16, 8, 4, 2, 1].map(|n| cut(250, n)));
            cuts.push(cut(60, 1));
        }
        Form::Patch => {
            cuts.extend([16_000, 8000, 4000, 2000, 1000, 500, 250, 60].map(|n| cut(n, usize::MAX)));
        }
    }
    cuts
}

/// The longest prompt that fits; `None` if not even the shortest does.
///
/// # Errors
/// If a call of the trajectory cannot be said in text, or `fits` fails.
pub fn prompt<E: From<RowError>>(
    form: Form,
    attempt: &Attempt<'_>,
    fits: &mut dyn FnMut(&[ChatMessage]) -> Result<bool, E>,
) -> Result<Option<Prompt>, E> {
    let log = match form {
        Form::Log => Some(Log::new(attempt.trajectory)?),
        Form::Patch => None,
    };
    let mut last = None;
    for cut in cuts(form) {
        let text = match &log {
            Some(log) => log.text(cut),
            None => patch_text(attempt, cut.characters),
        };
        if last.as_ref() == Some(&text) {
            continue;
        }
        let judge = match form {
            Form::Log => LOG_JUDGE,
            Form::Patch => PATCH_JUDGE,
        };
        let messages = vec![ChatMessage::system(judge), ChatMessage::user(text.clone())];
        if fits(&messages)? {
            return Ok(Some(Prompt {
                messages,
                shortened: last.is_some(),
            }));
        }
        last = Some(text);
    }
    Ok(None)
}

/// A text without its middle, if it is longer than so many characters.
fn cut(text: &str, characters: usize) -> String {
    let all = text.chars().count();
    if all <= characters {
        return text.to_owned();
    }
    let half = characters / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(all - half).collect();
    let left_out = all - 2 * half;
    format!("{head}\n[... {left_out} characters left out ...]\n{tail}")
}

/// An interaction as parts of one text.
struct Log {
    system: Option<String>,
    /// Heading and text of every message.
    messages: Vec<(String, String)>,
}

impl Log {
    fn new(trajectory: &Trajectory) -> Result<Self, RowError> {
        let mut all: Vec<ChatMessage> = Vec::new();
        for said in said(trajectory) {
            match all.last_mut() {
                Some(last) if last.role == Role::User && said.message.role == Role::User => {
                    *last = ChatMessage::user(format!("{}\n{}", last.text(), said.message.text()));
                }
                _ => all.push(said.message),
            }
        }
        let system = matches!(all.first(), Some(m) if m.role == Role::System);
        let system = system.then(|| all.remove(0).text());
        let mut messages = Vec::new();
        for (index, message) in all.iter().enumerate() {
            let role = match message.role {
                Role::System | Role::Developer => "SYSTEM",
                Role::User => "USER",
                Role::Assistant => "ASSISTANT",
                Role::Tool => "TOOL EXECUTION RESULT",
            };
            let turn = index / 2 + 1;
            let mut text = message.text() + "\n";
            for (n, call) in message.tool_calls.iter().enumerate() {
                let call = text_form::render_call(call)?;
                text += &format!("\n### Tool Call {}\n{call}\n", n + 1);
            }
            messages.push((format!("*** Turn {turn} - {role} ***"), text));
        }
        Ok(Self { system, messages })
    }

    fn text(&self, to: Cut) -> String {
        let line = "-".repeat(100);
        let mut log = String::new();
        let characters = to.characters;
        if let Some(system) = &self.system {
            log += &format!("*** System message ***\n{}\n", cut(system, characters));
        }
        let count = self.messages.len();
        let kept = to.messages.min(count.saturating_sub(1));
        let left_out = count.saturating_sub(1) - kept;
        for (n, (heading, text)) in self.messages.iter().enumerate() {
            if n > 0 && n <= left_out {
                if n == 1 {
                    log += &format!("{line}\n[... {left_out} messages left out ...]\n");
                }
                continue;
            }
            let most = if n == 0 || n + 1 == count {
                characters.saturating_mul(4)
            } else {
                characters
            };
            log += &format!("{line}\n{heading}\n{}", cut(text, most));
            if !log.ends_with('\n') {
                log.push('\n');
            }
        }
        log += &line;
        format!(
            "This is the log:\n\n=== INTERACTION LOG ===\n{log}\n=== END INTERACTION ===\n\n\
             Is the issue resolved?"
        )
    }
}

fn patch_text(attempt: &Attempt<'_>, characters: usize) -> String {
    let side = |lines: &dyn Fn(&Excerpt) -> &Vec<(usize, String)>| {
        let mut text = String::new();
        for excerpt in attempt.excerpts {
            text += &format!("<code path=\"{}\">\n", excerpt.path);
            for (number, line) in lines(excerpt) {
                text += &format!("({number:04}) {line}\n");
            }
            text += "</code>\n";
        }
        if text.is_empty() {
            text = "(nothing was changed)\n".into();
        }
        cut(&text, characters)
    };
    format!(
        "<issue_description>\n{}\n</issue_description>\n<before_patch>\n{}</before_patch>\n\
         <after_patch>\n{}</after_patch>\nDoes the change resolve the issue?",
        cut(attempt.issue, characters),
        side(&|e| &e.before),
        side(&|e| &e.after),
    )
}

#[cfg(test)]
mod tests {
    use swegym_core::AgentInfo;

    use super::*;

    fn long() -> Trajectory {
        let mut chat = vec![
            ChatMessage::system("Solve it."),
            ChatMessage::user("The issue. ".repeat(200)),
        ];
        for n in 0..20 {
            chat.push(ChatMessage::assistant(format!("Step {n}.")));
            chat.push(ChatMessage::user(format!(
                "Output {n}: {}",
                "x".repeat(3000)
            )));
        }
        chat.push(ChatMessage::assistant("All tests pass."));
        Trajectory::from_chat(AgentInfo::default(), &chat)
    }

    fn within(form: Form, attempt: &Attempt<'_>, most: usize) -> Option<Prompt> {
        prompt::<RowError>(form, attempt, &mut |messages| {
            Ok(messages[1].text().chars().count() <= most)
        })
        .unwrap()
    }

    #[test]
    fn a_long_log_is_shortened_until_it_fits() {
        let trajectory = long();
        let attempt = Attempt {
            trajectory: &trajectory,
            issue: "",
            excerpts: &[],
        };
        let whole = within(Form::Log, &attempt, usize::MAX).unwrap();
        assert!(!whole.shortened);
        let mut before = whole.messages[1].text().len();
        for most in [40_000, 15_000, 9000, 3000, 1500] {
            let prompt = within(Form::Log, &attempt, most).unwrap();
            assert!(prompt.shortened);
            let text = prompt.messages[1].text();
            assert!(text.len() < before, "{most}");
            before = text.len();
            // The task, what came last and the question are always there.
            assert!(
                text.contains("The issue. ") && text.contains("All tests pass."),
                "{most}"
            );
            assert!(text.ends_with("Is the issue resolved?"));
        }
        assert_eq!(within(Form::Log, &attempt, 100), None);
    }

    #[test]
    fn the_patch_shows_code_before_and_after() {
        let trajectory = long();
        let excerpts = [Excerpt {
            path: "a.py".into(),
            before: vec![(7, "x = 1".into())],
            after: vec![(7, "x = 2".into()), (8, "y = 3".into())],
        }];
        let attempt = Attempt {
            trajectory: &trajectory,
            issue: "x is wrong",
            excerpts: &excerpts,
        };
        let whole = within(Form::Patch, &attempt, usize::MAX).unwrap();
        insta::assert_snapshot!(whole.messages[1].text());
        let issue = "long ".repeat(1000);
        let attempt = Attempt {
            issue: &issue,
            ..attempt
        };
        let prompt = within(Form::Patch, &attempt, 1000).unwrap();
        assert!(prompt.shortened && prompt.messages[1].text().contains("(0008) y = 3"));
    }
}
