//! The patch of an episode, taken by us.
//!
//! It runs when every process of the agent is dead, with a history, index and
//! settings that the agent could not write, against the working tree as it
//! was before. What is installed beside the codebase by its own build is no
//! part of anybody's patch.

use std::time::Duration;

use swegym_core::{Command, ExecOutput, Exit, Sandbox};
use swegym_data::patch::Patch;

use super::warm::{HISTORY, Warm};
use crate::Error;
use crate::environment::TESTBED;

/// Longest time that looking at a working tree may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Largest patch, bytes.
const MOST: usize = 16 << 20;

/// An index of the working tree as it is. Repositories inside it are plain
/// folders to us: a patch cannot hold a repository.
const LOOK: &str = r#"
set -e
find /tmp -mindepth 1 -maxdepth 1 -exec rm -rf {} + 2>/dev/null || true
work=/tmp/swegym
mkdir -p "$work/objects"
export GIT_INDEX_FILE=$work/index GIT_OBJECT_DIRECTORY=$work/objects
find "$GIT_WORK_TREE" -mindepth 2 -name .git -prune -exec rm -rf {} + 2>/dev/null || true
cd "$GIT_WORK_TREE"
git read-tree HEAD
git add -A
status() { git diff --cached --raw --no-renames --no-abbrev HEAD | LC_ALL=C sort; }
"#;

/// Entries that are as they were before the agent came go back to what the
/// history has; the rest is the patch.
const DIFF: &str = r#"
if [ -n "$BEFORE" ]; then
    cat > "$work/before"
    status > "$work/now"
    LC_ALL=C comm -12 "$work/before" "$work/now" |
        awk -F '\t' '{ split($1, a, " "); print substr(a[1], 2) " " a[3] "\t" $2 }' |
        git update-index --index-info
fi
git diff --cached --binary --no-color --no-ext-diff --no-textconv --no-renames HEAD
"#;

/// Differences of a working tree from its history, a line each.
pub(super) fn status(sandbox: &mut dyn Sandbox) -> Result<String, Error> {
    let output = look(sandbox, "status", Vec::new())?;
    if !output.exit.success() {
        return Err(Error::setup(
            format!(
                "git fails on a new codebase: {}",
                output.stderr.text().trim()
            ),
            "is git installed on this machine?",
        ));
    }
    Ok(output.stdout.text())
}

/// The patch of a working tree against how it was; `Err` inside says why
/// there is none.
pub(super) fn take(
    sandbox: &mut dyn Sandbox,
    warm: &Warm,
) -> Result<Result<String, String>, Error> {
    let output = look(sandbox, DIFF, warm.before.clone().into_bytes())?;
    if !matches!(output.exit, Exit::Code(_)) {
        // Time, memory or a signal: nothing is known about the tree.
        let what = format!("taking the patch ended with {:?}", output.exit);
        return Err(Error::setup(what, "is the machine overloaded?"));
    }
    if !output.exit.success() {
        let text = output.stderr.text();
        let last = text.trim().lines().last().unwrap_or("no word of it");
        return Ok(Err(format!("git cannot take the patch: {last}")));
    }
    if output.stdout.dropped > 0 {
        return Ok(Err(format!("the patch is larger than {} MiB", MOST >> 20)));
    }
    let patch = output.stdout.text();
    if patch.trim().is_empty() {
        return Ok(Ok(String::new()));
    }
    match Patch::parse(patch.as_bytes()) {
        Ok(_) => Ok(Ok(patch)),
        Err(e) => Ok(Err(format!("the patch does not parse: {e}"))),
    }
}

fn look(sandbox: &mut dyn Sandbox, then: &str, stdin: Vec<u8>) -> Result<ExecOutput, Error> {
    let mut command = Command::new(["/bin/bash".to_owned(), "-c".into(), format!("{LOOK}{then}")])
        .timeout(LIMIT)
        .cwd("/");
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/nonexistent"),
        ("GIT_DIR", HISTORY),
        ("GIT_WORK_TREE", TESTBED),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_CONFIG_COUNT", "3"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
        ("GIT_CONFIG_KEY_1", "core.hooksPath"),
        ("GIT_CONFIG_VALUE_1", "/dev/null"),
        ("GIT_CONFIG_KEY_2", "core.autocrlf"),
        ("GIT_CONFIG_VALUE_2", "false"),
    ] {
        command.env.insert(name.into(), value.into());
    }
    let alternates = format!("{HISTORY}/objects");
    command
        .env
        .insert("GIT_ALTERNATE_OBJECT_DIRECTORIES".into(), alternates);
    if !stdin.is_empty() {
        command.env.insert("BEFORE".into(), "1".into());
    }
    command.stdin = stdin;
    command.output_limit = Some(MOST);
    Ok(sandbox.exec(&command)?)
}
