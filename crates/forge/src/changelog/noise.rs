//! Entries that are no task for a programmer.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::pattern::patterns;

/// Why an entry is left out of a task's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Versions of other packages.
    Dependencies,
    /// Continuous integration, packaging, tests, clean-up.
    Internal,
    /// Nothing but documents.
    Documentation,
    /// Thanks, links, "no changes".
    Remark,
    /// Which Pythons are supported.
    PythonSupport,
    /// The words before the list of changes.
    Introduction,
}

patterns! {
    PREFIX = r"^\W*(?i:new|fix(?:ed)?|bug ?fix|feature|feat|added|changed|enhancement|removed)\W*[\]:]\s*";
    DEPENDENCY = r"(?ix) \b(?:bump(?:ed|s)?|pin(?:ned|s)?|unpin(?:ned)?|upgraded?|updated?)\b .{0,40}
        \b(?:dependenc(?:y|ies)|requirements?|vendored|from\ v?\d[\w.]*\ to\ v?\d|to\ v?\d+\.\d)
        | \bminimum\ (?:required\ )?version\ of\b
        | \brequires?\ [\w-]+\ ?(?:>=|version|\d)";
    INFRASTRUCTURE = r"(?ix) \b(?:CI|GitHub\ Actions?|Travis(?:-CI)?|AppVeyor|Azure\ Pipelines|CircleCI|tox(?:\.ini)?
        |pre-commit|codecov|coveralls|dependabot|renovate|Read\ ?the\ ?Docs|wheels?|sdist|trove|setup\.(?:py|cfg)
        |pyproject\.toml|MANIFEST\.in|PyPI|build\ (?:system|backend)|packaging|flake8|pylint|mypy\ config\w*|isort
        |ruff|Makefile|test\ ?suite|unit\ ?tests|code\ coverage|linters?|source\ distributions?)\b";
    TESTS = r"(?ix)^\W* (?:add(?:ed|s)?|fix(?:ed|es)?|improve[ds]?|updated?|run|rework(?:ed)?|more|moved?|ported?|switch(?:ed)?)\b
        \ (?:\w+\ ){0,2} (?:tests?|test\ ?suite|test\ cases|coverage)\b [^`]{0,60}$";
    DOCUMENTS = r"(?ix)^\W* (?:doc(?:s|umentation)?\b\W
        | (?:add(?:ed|s)?|fix(?:ed|es)?|improve[ds]?|updated?|correct(?:ed)?|clarif(?:y|ied)|rewrote|expand(?:ed)?
            |various|minor|better|more)\b
          \ (?:\w+\ ){0,4} (?:doc(?:s|umentation|strings?)?|readme|typos?|changelog|tutorial|user\ guide|cookbook)\b
          [^`]{0,60}$)
        | \bin\ (?:the\ )?(?:documentation|docs|README)\W*$";
    REMARK = r"(?ix)^\W* (?:thanks?\b|thank\ you|many\ thanks|special\ thanks|contributors?\b|contributed\ by|credits?\b
        |full\ changelog|see\ (?:also\ )?(?:the\ )?(?:full\ |complete\ )?(?:changelog|release\ notes|github|https?:|git\ log|announcement)
        |no\ (?:significant\ |notable\ |code\ |functional\ |other\ )*changes\b
        |(?:initial|first)\ (?:public\ )?(?:release|version|commit)|nothing\ (?:changed|yet)|version\ bump
        |bump(?:ed)?\ version|re-?release|new\ release|released?\ (?:on|v?\d)|https?://\S+$|@\S+$)
        | ^\W*(?:this|the\ \S+)\ (?:is\ (?:a|the)|fix|feature|bugfix|patch|release)\b.{0,200}\brelease\b";
    PYTHON = r"(?ix) \b(?:drop(?:ped|s)?|remov(?:e|ed|es|ing)|end(?:ed)?|add(?:ed|s)?|official(?:ly)?|declared?|formally|depends?|announced?
          |test(?:ed|ing)?|require[sd]?|support(?:s|ed|ing)?|no\ longer|not\ supported|minimum|only)\b
        .{0,60} \b(?:Python|CPython|PyPy|Jython|IronPython|Py)s?\b .{0,8} (?:\d(?:\.\d+)?|version|$)
        | \bPython\ (?:versions?\ )?\d[\d.,/+-]* (?:\ and\ \d[\d.]*)?
          \ (?:support|(?:is|are)\ (?:no\ longer|not|now)|was\ dropped|compatib\w+|classifiers?)";
    TASK = r"(?i)`|\(\)|\b(?:bug|error|crash|fail|except|warning|syntax)";
    CODE = r"`[^`]+`|\b\w+\(\)|\b[a-z]\w*_\w+\b|\b[A-Z][a-z]+[A-Z]\w+";
}

/// Longer entries say more than that they are about one of these things.
const SHORT: usize = 240;

/// What makes an entry noise, if anything does.
pub(super) fn of(text: &str, kind: Option<Kind>) -> Option<Noise> {
    let text = PREFIX.replace(text, "");
    let text = text.as_ref();
    let first = text.lines().next().unwrap_or_default();
    if REMARK.is_match(first) || !text.chars().any(char::is_alphabetic) {
        return Some(Noise::Remark);
    }
    match kind {
        Some(Kind::Dependencies) => return Some(Noise::Dependencies),
        Some(Kind::Documentation) => return Some(Noise::Documentation),
        Some(Kind::Internal) => return Some(Noise::Internal),
        _ => {}
    }
    if text.len() >= SHORT {
        return None;
    }
    // Names of services look like code, and files of packaging like names.
    let code = CODE.is_match(&INFRASTRUCTURE.replace_all(text, ""));
    if PYTHON.is_match(text) && !TASK.is_match(text) {
        Some(Noise::PythonSupport)
    } else if DOCUMENTS.is_match(first) {
        Some(Noise::Documentation)
    } else if DEPENDENCY.is_match(text) && !code {
        Some(Noise::Dependencies)
    } else if TESTS.is_match(first) || (INFRASTRUCTURE.is_match(text) && !code) {
        Some(Noise::Internal)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_told_from_work() {
        let cases = [
            (
                "Drop support for Python 3.7 and 3.8.",
                Some(Noise::PythonSupport),
            ),
            ("Python 3.12 is now supported.", Some(Noise::PythonSupport)),
            ("Add support for Python 3.13", Some(Noise::PythonSupport)),
            (
                "Fix a crash of `load` under Python 3.12 when the file is empty.",
                None,
            ),
            (
                "Bump the minimum version of requests.",
                Some(Noise::Dependencies),
            ),
            ("Update vendored six to 1.16", Some(Noise::Dependencies)),
            ("Switch CI to GitHub Actions", Some(Noise::Internal)),
            ("Added more tests for the parser", Some(Noise::Internal)),
            ("Fix typos in the documentation", Some(Noise::Documentation)),
            ("Thanks to @someone for the report!", Some(Noise::Remark)),
            ("No significant changes.", Some(Noise::Remark)),
            ("Update the cache when a key expires.", None),
            ("`Table.add` accepts wheels of any size", None),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text, None), expected, "{text}");
        }
    }
}
