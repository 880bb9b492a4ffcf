//! Tasks for small models: one small edit, in a function that the issue names,
//! so that the function and what fails fit a small context.

use regex::Regex;
use swegym_core::Instance;

use crate::functions::names;
use crate::patch::{Change, Patch, Side};

/// Lines that the edit adds and removes at most.
const MOST_LINES: usize = 8;
/// Characters of the issue at most.
const MOST_TEXT: usize = 4000;

/// A rule that a row breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShortRule {
    /// The solution is not one hunk of one file that is there.
    ManyPlaces,
    /// It adds and removes more than 8 lines.
    ManyLines,
    /// The text has more than 4,000 characters.
    LongText,
    /// The text names none of the functions that the solution changes.
    UnnamedFunction,
}

impl ShortRule {
    /// Stable name, as in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ManyPlaces => "many_places",
            Self::ManyLines => "many_lines",
            Self::LongText => "long_text",
            Self::UnnamedFunction => "unnamed_function",
        }
    }
}

/// Rules that a row breaks; none for a short task.
pub fn short(instance: &Instance) -> Vec<ShortRule> {
    let mut broken = Vec::new();
    let patch = Patch::parse(instance.patch.as_bytes()).unwrap_or_default();
    let hunks = || patch.files.iter().flat_map(|f| f.hunks());
    let one = patch.files.len() == 1 && patch.files[0].change == Change::Modify;
    if !one || hunks().count() != 1 {
        broken.push(ShortRule::ManyPlaces);
    }
    let changed = hunks().flat_map(|h| &h.lines);
    if changed.filter(|l| l.side != Side::Context).count() > MOST_LINES {
        broken.push(ShortRule::ManyLines);
    }
    if instance.problem_statement.chars().count() > MOST_TEXT {
        broken.push(ShortRule::LongText);
    }
    // What injected the bug knows the function; else the patch's text tells.
    let known = instance
        .extra
        .get("bug")
        .and_then(|b| b["functions"].as_array());
    let functions: Vec<String> = match known {
        Some(known) => known
            .iter()
            .filter_map(|f| f.as_str())
            .map(str::to_owned)
            .collect(),
        None => names(&patch),
    };
    let named = functions.iter().any(|function| {
        let plain = function.rsplit([':', '.']).next().unwrap_or(function);
        let word = Regex::new(&format!(r"\b{}\b", regex::escape(plain)));
        word.is_ok_and(|w| w.is_match(&instance.problem_statement))
    });
    if !named {
        broken.push(ShortRule::UnnamedFunction);
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(patch: &str, text: &str, bug: Option<&str>) -> Instance {
        let mut row = json!({
            "instance_id": "a", "repo": "a/b", "base_commit": "", "patch": patch,
            "test_patch": "", "problem_statement": text, "FAIL_TO_PASS": [], "PASS_TO_PASS": [],
        });
        if let Some(function) = bug {
            row["bug"] = json!({"functions": [function]});
        }
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn a_short_task_is_one_small_edit_of_a_function_that_is_named() {
        let patch = "--- a/m.py\n+++ b/m.py\n@@ -3,2 +3,2 @@ def near(x):\n     y = 1\n-    return x\n+    return y\n";
        assert_eq!(short(&task(patch, "`near(1)` is wrong", None)), []);
        assert_eq!(
            short(&task(patch, "nearly", None)),
            [ShortRule::UnnamedFunction]
        );
        assert_eq!(short(&task(patch, "C.deep fails", Some("C.deep"))), []);
        assert_eq!(
            short(&task(patch, "near", Some("C.deep"))),
            [ShortRule::UnnamedFunction]
        );
        let long = "near ".repeat(900);
        assert_eq!(short(&task(patch, &long, None)), [ShortRule::LongText]);
        let twice = format!("{patch}{}", patch.replace("m.py", "n.py"));
        assert_eq!(short(&task(&twice, "near", None)), [ShortRule::ManyPlaces]);
        let many =
            patch.replace("@@ -3,2 +3,2 @@", "@@ -3,2 +3,10 @@") + &"+    y += 1\n".repeat(8);
        assert_eq!(short(&task(&many, "near", None)), [ShortRule::ManyLines]);
    }
}
