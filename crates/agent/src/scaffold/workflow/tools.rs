//! What the workflow offers in its states, and how it reads the answers.

use serde::Deserialize;
use serde_json::{Value, json};
use swegym_core::Tool;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) struct SearchFor {
    #[serde(default)]
    pub function: Option<String>,
    #[serde(default)]
    pub class: Option<String>,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub files: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pick {
    pub spans: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub span: String,
    pub instructions: String,
    #[serde(default)]
    pub start_line: Option<usize>,
    #[serde(default)]
    pub end_line: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replace {
    pub code: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Review {
    pub verdict: Verdict,
    #[serde(default)]
    #[allow(dead_code, reason = "for the reader of the trajectory")]
    pub comment: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Accept,
    Change,
    Revert,
}

/// All tools; a state offers some.
pub(super) fn tools() -> Vec<Tool> {
    let string = |what: &str| json!({"type": "string", "description": what});
    let integer = |what: &str| json!({"type": "integer", "description": what});
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required});
    vec![
        Tool::new(
            "search",
            "Finds code by the name of a function or class, or by text in it.",
            Some(object(
                json!({
                    "function": string("Name of a function or method."),
                    "class": string("Name of a class; with `function`, its method."),
                    "text": string("Text that occurs in the code, letter by letter."),
                    "files": string("Pattern of paths, such as src/**/*.py; alone, the path of one \
                        file, which may be new."),
                }),
                &[],
            )),
        ),
        Tool::new(
            "pick",
            "Chooses the spans that have to change.",
            Some(object(
                json!({"spans": {
                    "type": "array", "items": {"type": "string"},
                    "description": "Their ids, such as [\"S1\"]."
                }}),
                &["spans"],
            )),
        ),
        Tool::new(
            "plan",
            "Says what to change in one span.",
            Some(object(
                json!({
                    "span": string("Its id."),
                    "instructions": string("What to change, and why."),
                    "start_line": integer("First line to change, where the span is long."),
                    "end_line": integer("Last line to change."),
                }),
                &["span", "instructions"],
            )),
        ),
        Tool::new(
            "replace",
            "Gives the new code of the lines shown, complete and indented as they were.",
            Some(object(json!({"code": string("The new code.")}), &["code"])),
        ),
        Tool::new(
            "review",
            "Judges the change that was made.",
            Some(object(
                json!({
                    "verdict": {
                        "type": "string", "enum": ["accept", "change", "revert"],
                        "description": "`accept` hands in the work, `change` plans a further \
                            edit, `revert` takes this one back."
                    },
                    "comment": string("Why."),
                }),
                &["verdict"],
            )),
        ),
    ]
}
