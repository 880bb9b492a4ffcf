//! From a row of any of the families to an [`Instance`].

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use swegym_core::{Instance, TestIds};

use super::{multi, r2e};
use crate::error::{Place, Result};
use crate::patch::Patch;

/// A row while its columns are being taken out.
pub(super) struct Row {
    columns: Map<String, Value>,
    pub at: Place,
}

/// Converts a row. Also names the columns of which parts have no place in an
/// instance.
///
/// # Errors
/// If columns are missing or have the wrong type.
pub(super) fn instance(
    columns: Map<String, Value>,
    at: Place,
) -> Result<(Instance, &'static [&'static str])> {
    let row = Row { columns, at };
    if row.has("expected_output_json") && row.has("commit_hash") {
        return Ok((r2e::instance(row)?, r2e::DROPPED));
    }
    let instance = if row.has("org") && row.has("number") && row.has("fix_patch") {
        multi::instance(row)
    } else if row.is_swe_smith() {
        swe_smith(row)
    } else {
        swe_bench(row)
    };
    Ok((instance?, &[]))
}

impl Row {
    pub fn has(&self, name: &str) -> bool {
        self.columns.get(name).is_some_and(|v| !v.is_null())
    }

    /// Takes a text column; numbers count as text, null as absent.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.columns.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.wrong_type(name, "text", &other)),
        }
    }

    pub fn text_or_empty(&mut self, name: &str) -> Result<String> {
        self.text(name).map(Option::unwrap_or_default)
    }

    pub fn required(&mut self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> crate::DataError {
        let found: Vec<&str> = self.columns.keys().map(String::as_str).take(20).collect();
        self.at.field(
            name,
            format!(
                "missing; not a row of SWE-bench, SWE-Gym, SWE-smith, SWE-rebench, R2E-Gym or Multi-SWE-bench (columns found: {})",
                found.join(", ")
            ),
        )
    }

    fn wrong_type(&self, name: &str, wanted: &str, found: &Value) -> crate::DataError {
        self.at
            .field(name, format!("expected {wanted}, found {}", kind(found)))
    }

    /// Takes a column that holds JSON, as a value or as text.
    pub fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = match self.columns.shift_remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str(&text)
                .map_err(|e| self.at.field(name, format!("invalid JSON text: {e}")))?,
            Some(value) => value,
        };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|e| self.at.field(name, e.to_string()))
    }

    /// As [`Row::json`], but leaves alone what is no object of ours: other
    /// families use some of our column names for other things.
    fn own_json<T: DeserializeOwned>(&mut self, name: &str, keys: &[&str]) -> Result<Option<T>> {
        let ours = |map: &Map<String, Value>| {
            keys.is_empty() || keys.iter().any(|key| map.contains_key(*key))
        };
        let own = match self.columns.get(name) {
            Some(Value::Object(map)) => ours(map),
            Some(Value::String(text)) => {
                serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|map| ours(&map))
            }
            _ => false,
        };
        if own { self.json(name) } else { Ok(None) }
    }

    pub fn tests(&mut self, names: &[&str]) -> Result<TestIds> {
        let Some(name) = names.iter().find(|name| self.has(name)) else {
            return Ok(TestIds::default());
        };
        match self.columns.shift_remove(*name) {
            Some(Value::String(text)) => test_list(&text)
                .ok_or_else(|| self.at.field(name, "text is not a list of test ids")),
            Some(Value::Array(values)) => values
                .into_iter()
                .map(|value| match value {
                    Value::String(id) => Ok(id),
                    other => Err(self.wrong_type(name, "a list of text", &other)),
                })
                .collect(),
            Some(other) => Err(self.wrong_type(name, "a list of test ids", &other)),
            None => Ok(TestIds::default()),
        }
    }

    /// As [`Row::json`], with the column staying where it is.
    pub fn json_kept<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let kept = self.columns.clone();
        let parsed = self.json(name);
        self.columns = kept;
        parsed
    }

    /// What is left. Nulls say no more than an absent column.
    pub fn rest(self) -> IndexMap<String, Value> {
        let columns = self.columns.into_iter();
        columns.filter(|(_, value)| !value.is_null()).collect()
    }

    fn is_swe_smith(&self) -> bool {
        let is = |name: &str, test: fn(&str) -> bool| {
            self.columns
                .get(name)
                .and_then(Value::as_str)
                .is_some_and(test)
        };
        is("repo", |repo| repo.starts_with("swesmith/")) && !self.has("bug_patch")
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A list of ids as text: JSON, or Python's notation (SWE-bench Pro).
fn test_list(text: &str) -> Option<TestIds> {
    if text.trim().is_empty() {
        return Some(TestIds::default());
    }
    serde_json::from_str(text)
        .ok()
        .or_else(|| python_list(text).map(TestIds))
}

/// A Python list of string literals.
fn python_list(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut chars = inner.trim().chars().peekable();
    let mut items = Vec::new();
    while let Some(quote) = chars.next() {
        if quote != '\'' && quote != '"' {
            return None;
        }
        let mut item = String::new();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\\' => item.push(match chars.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    c @ ('\\' | '\'' | '"') => c,
                    'x' => hex(&mut chars, 2)?,
                    'u' => hex(&mut chars, 4)?,
                    'U' => hex(&mut chars, 8)?,
                    _ => return None,
                }),
                c => item.push(c),
            }
        }
        items.push(item);
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
    }
    Some(items)
}

fn hex(chars: &mut impl Iterator<Item = char>, digits: usize) -> Option<char> {
    let text: String = chars.take(digits).collect();
    char::from_u32(u32::from_str_radix(&text, 16).ok()?)
}

fn swe_bench(mut row: Row) -> Result<Instance> {
    let mut instance = Instance {
        instance_id: row.required("instance_id")?,
        repo: row.text_or_empty("repo")?,
        base_commit: row.text_or_empty("base_commit")?,
        patch: row.text_or_empty("patch")?,
        test_patch: row.text_or_empty("test_patch")?,
        problem_statement: row.text_or_empty("problem_statement")?,
        hints_text: row.text_or_empty("hints_text")?,
        created_at: row.text("created_at")?,
        version: row.text("version")?,
        fail_to_pass: row.tests(&["FAIL_TO_PASS", "fail_to_pass"])?,
        pass_to_pass: row.tests(&["PASS_TO_PASS", "pass_to_pass"])?,
        environment_setup_commit: row.text("environment_setup_commit")?,
        image: row.text("image")?,
        eval_script: row.text("eval_script")?,
        log_parser: row.text("log_parser")?,
        eval_type: row.json_word("eval_type")?,
        source: row.own_json("source", &["git", "sdist", "dir", "image"])?,
        base_patch: row.text("base_patch")?.filter(|patch| !patch.is_empty()),
        environment: row.own_json("environment", &[])?,
        install_config: row.json("install_config")?,
        test_command: row.text("test_command")?,
        gold_status: row.json("gold_status")?,
        mutants: row.own_json("mutants", &["must_fail"])?,
        extra: IndexMap::new(),
    };
    instance.extra = row.rest();
    borrow_from_extra(&mut instance);
    Ok(instance)
}

/// What other families call by other names, where ours is empty.
fn borrow_from_extra(instance: &mut Instance) {
    let text = |value: Option<&Value>| value?.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    if instance.image.is_none() {
        let names = ["image_name", "docker_image"];
        instance.image = names
            .iter()
            .find_map(|name| text(instance.extra.get(*name)));
    }
    if instance.log_parser.is_none() {
        let config = instance.install_config.as_ref();
        instance.log_parser = text(config.and_then(|config| config.get("log_parser")));
    }
}

impl Row {
    fn json_word<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(word) = self.text(name)?.filter(|word| !word.is_empty()) else {
            return Ok(None);
        };
        serde_json::from_value(Value::String(word))
            .map(Some)
            .map_err(|e| self.at.field(name, e.to_string()))
    }
}

/// SWE-smith's `patch` puts the bug in; the gold patch takes it out. The bug
/// stays as `bug_patch`, since the mirror's branch may have to be rebuilt.
fn swe_smith(row: Row) -> Result<Instance> {
    let at = row.at.clone();
    let mut instance = swe_bench(row)?;
    let problem = |e: String| at.field("patch", format!("bug patch cannot be reversed: {e}"));
    let bug = Patch::parse(instance.patch.as_bytes()).map_err(|e| problem(e.to_string()))?;
    let gold = bug.reverse().map_err(|e| problem(e.to_string()))?.render();
    let gold = String::from_utf8(gold).map_err(|e| problem(e.to_string()))?;
    let bug = std::mem::replace(&mut instance.patch, gold);
    instance
        .extra
        .insert("bug_patch".into(), Value::String(bug));
    Ok(instance)
}
