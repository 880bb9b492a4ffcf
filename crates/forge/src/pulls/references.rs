//! Which issues a pull request says it resolves.

use std::collections::BTreeSet;

use super::Pull;
use crate::pattern::patterns;

patterns! {
    COMMENT = r"(?s)<!--.*?-->";
    WORD_AND_NUMBER = r"(\w+)\s+#(\d+)";
}

/// GitHub's words for resolving, as SWE-bench takes them.
const WORDS: [&str; 9] = [
    "close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "resolved",
];

/// Numbers of the issues that title, description or commit messages resolve,
/// in order: one of GitHub's words, white space, `#` and a number, outside of
/// HTML comments. What the dump records itself goes first.
pub fn resolved_issues(pull: &Pull) -> Vec<u64> {
    if let Some(recorded) = &pull.resolved {
        let unique: BTreeSet<u64> = recorded.iter().copied().collect();
        return unique.into_iter().collect();
    }
    let mut text = format!("{}\n{}", pull.title, pull.body);
    for commit in &pull.commits {
        text.push('\n');
        text.push_str(&commit.message);
    }
    let text = COMMENT.replace_all(&text, "");
    let found: BTreeSet<u64> = WORD_AND_NUMBER
        .captures_iter(&text)
        .filter(|c| WORDS.contains(&c[1].to_lowercase().as_str()))
        .filter_map(|c| c[2].parse().ok())
        .collect();
    found.into_iter().collect()
}
