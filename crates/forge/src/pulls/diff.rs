//! The difference of a change, file by file, and which side each file is on.

use crate::changelog;

/// A file of a diff.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileDiff {
    /// Path after the change; before it, where the file is deleted.
    pub path: String,
    /// The file is new.
    pub is_new: bool,
    /// The file is gone.
    pub is_deleted: bool,
    /// The whole of its diff, header first.
    pub text: String,
}

impl FileDiff {
    /// Added lines, without their `+`.
    pub fn added(&self) -> impl Iterator<Item = &str> {
        self.changed('+')
    }

    /// Removed lines, without their `-`.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.changed('-')
    }

    fn changed(&self, side: char) -> impl Iterator<Item = &str> {
        let body = self.text.find("\n@@").map_or("", |at| &self.text[at..]);
        body.lines().filter_map(move |line| line.strip_prefix(side))
    }
}

/// Splits the text of a diff at its `diff --git` lines; text before the first
/// is left out.
pub fn split_diff(text: &str) -> Vec<FileDiff> {
    let mut starts: Vec<usize> = Vec::new();
    if text.starts_with("diff --git ") {
        starts.push(0);
    }
    starts.extend(text.match_indices("\ndiff --git ").map(|(at, _)| at + 1));
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let parts = starts.iter().zip(ends);
    parts.map(|(&start, end)| file(&text[start..end])).collect()
}

fn file(text: &str) -> FileDiff {
    let mut out = FileDiff {
        text: text.to_owned(),
        ..FileDiff::default()
    };
    if !out.text.ends_with('\n') {
        out.text.push('\n');
    }
    let (mut old, mut new) = (None, None);
    for line in text.lines().skip(1).take_while(|l| !l.starts_with("@@")) {
        if line.starts_with("new file mode") {
            out.is_new = true;
        } else if line.starts_with("deleted file mode") {
            out.is_deleted = true;
        } else if let Some(path) = line.strip_prefix("--- ") {
            old = named(path, "a/");
        } else if let Some(path) = line.strip_prefix("+++ ") {
            new = named(path, "b/");
        } else if let Some(path) = line.strip_prefix("rename to ") {
            new = Some(path.trim_end().to_owned());
        }
    }
    let header = text.lines().next().unwrap_or_default();
    out.path = new.or(old).unwrap_or_else(|| of_header(header));
    out
}

/// The path of a `---` or `+++` line; none for `/dev/null`.
fn named(path: &str, prefix: &str) -> Option<String> {
    let path = path.split('\t').next().unwrap_or(path).trim_end();
    let path = path.trim_matches('"');
    (path != "/dev/null").then(|| path.strip_prefix(prefix).unwrap_or(path).to_owned())
}

/// The path of `diff --git a/x b/x`, which is the same twice.
fn of_header(line: &str) -> String {
    let names = line.trim_start_matches("diff --git ").trim_end();
    let half = names.get(names.len() / 2 + 1..).unwrap_or(names);
    half.trim_matches('"').trim_start_matches("b/").to_owned()
}

/// How a diff is split into solution and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitRule {
    /// By directories and names of tests; documents and settings of services
    /// are on neither side.
    #[default]
    Ours,
    /// As SWE-bench: tests are the paths that contain one of its words,
    /// anywhere; everything else is solution.
    Reference,
}

/// The side of a change that a file is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The solution.
    Source,
    /// The tests.
    Test,
    /// Neither: documents, changelogs, settings of services.
    Other,
}

/// SWE-bench's words for tests.
const WORDS: [&str; 4] = ["test", "tests", "e2e", "testing"];

/// The side that a path is on.
pub fn side_of(path: &str, rule: SplitRule) -> Side {
    match rule {
        SplitRule::Reference if WORDS.iter().any(|word| path.contains(word)) => Side::Test,
        SplitRule::Reference => Side::Source,
        SplitRule::Ours if is_test(path) => Side::Test,
        SplitRule::Ours if is_other(path) => Side::Other,
        SplitRule::Ours => Side::Source,
    }
}

fn is_test(path: &str) -> bool {
    let lower = path.to_lowercase();
    let (dir, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    let stem = name.split('.').next().unwrap_or(name);
    let python = name.ends_with(".py");
    let named = python && (stem.starts_with("test_") || stem.ends_with("_test") || stem == "tests");
    if named || stem == "conftest" {
        return true;
    }
    // `pkg/test/client.py` and `pkg/testing/…` are product code in many
    // projects; at the root such folders are not.
    dir.split('/').enumerate().any(|(depth, part)| match part {
        "tests" | "unittests" | "e2e" | "test-data" | "testdata" => true,
        "test" | "testing" => depth == 0,
        _ => false,
    })
}

/// Extensions of documents.
const DOCUMENTS: [&str; 8] = [
    ".rst",
    ".md",
    ".txt",
    ".markdown",
    ".png",
    ".svg",
    ".jpg",
    ".ipynb",
];

fn is_other(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or(path);
    let top = first == name;
    let folder = matches!(
        first,
        "doc" | "docs" | "documentation" | "changelog.d" | "newsfragments" | "news"
    );
    // Below packages, such files may be data of the program.
    let document = top && DOCUMENTS.iter().any(|e| name.to_lowercase().ends_with(e));
    let service = first.starts_with(".git")
        || matches!(first, ".circleci" | ".travis" | ".azure")
        || top
            && (name.starts_with('.') && name != ".env"
                || matches!(
                    name,
                    "azure-pipelines.yml"
                        | "appveyor.yml"
                        | "codecov.yml"
                        | "AUTHORS"
                        | "CONTRIBUTORS"
                        | "LICENSE"
                        | "Makefile"
                ));
    folder || document || service || changelog::role(path).is_some()
}

/// Extensions of programs.
const CODE: [&str; 16] = [
    ".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cc", ".cpp", ".rs", ".go", ".js", ".ts", ".java",
    ".rb", ".php", ".pyi",
];

/// Whether a path of the solution can be tested: a program that is no recipe
/// for installing it.
pub(super) fn is_code(path: &str) -> bool {
    let install = matches!(path, "setup.py" | "noxfile.py" | "tasks.py" | "fabfile.py");
    !install && CODE.iter().any(|e| path.ends_with(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_from_any_part_of_a_header() {
        let text = "junk\ndiff --git a/x y.py b/x y.py\nold mode 100644\nnew mode 100755\n\
            diff --git a/a.py b/b.py\nsimilarity index 90%\nrename from a.py\nrename to b.py\n\
            diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n--- a\n\
            diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+++ b";
        let files = split_diff(text);
        let paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["x y.py", "b.py", "gone.py", "new.py"]);
        assert!(files[2].is_deleted && files[3].is_new);
        assert_eq!(files[2].removed().collect::<Vec<_>>(), ["-- a"]);
        assert_eq!(files[3].added().collect::<Vec<_>>(), ["++ b"]);
        assert_eq!(files[3].removed().count(), 0);
    }

    #[test]
    fn both_rules_tell_tests() {
        use Side::{Other, Source, Test};
        let cases = [
            ("tests/test_a.py", Test, Test),
            ("pkg/tests/data/in.json", Test, Test),
            ("django/test/client.py", Source, Test),
            ("numpy/testing/_utils.py", Source, Test),
            ("pkg/latest.py", Source, Test),
            ("src/pkg/core.py", Source, Source),
            ("docs/usage.rst", Other, Source),
            ("CHANGES.rst", Other, Source),
            (".github/workflows/ci.yml", Other, Source),
            ("pkg/data/words.txt", Source, Source),
            ("setup.py", Source, Source),
        ];
        for (path, ours, reference) in cases {
            assert_eq!(side_of(path, SplitRule::Ours), ours, "{path}");
            assert_eq!(side_of(path, SplitRule::Reference), reference, "{path}");
        }
    }
}
