//! `swegym logs parse`: what a test log says.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use swegym::Error;
use swegym_core::Instance;
use swegym_grade::{LogRow, Parser, compat, parser, parser_names};

use crate::args::LogsCommand;
use crate::ui::{Ui, table};

pub fn run(ui: &Ui, command: LogsCommand) -> Result<u8, Error> {
    let LogsCommand::Parse {
        parser: name,
        jsonl,
        tasks,
        file,
    } = command;
    if name.as_deref() == Some("list") {
        for name in parser_names() {
            ui.data(name);
        }
        return Ok(swegym::exit::SUCCESS);
    }
    match jsonl {
        Some(path) => rows(ui, &path, name.as_deref(), &tasks),
        None => one(ui, file.as_deref(), name.as_deref()),
    }
}

fn one(ui: &Ui, file: Option<&Path>, name: Option<&str>) -> Result<u8, Error> {
    let name = name.ok_or_else(|| {
        Error::input(
            "no parser given",
            "add `--parser parse_log_pytest`; `--parser list` prints all",
        )
    })?;
    let parser = lookup(name)?;
    let mut bytes = Vec::new();
    match file {
        Some(path) => open(path)?
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io(path, e))?,
        None => io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("stdin", e))?,
    };
    let map = parser.parse(&String::from_utf8_lossy(&bytes));
    if map.is_empty() {
        ui.warn(format!("{name} finds no test in this log"));
    }
    if ui.json {
        ui.data(serde_json::to_string_pretty(&map).expect("a map of words"));
    } else {
        ui.data(table(
            &[],
            &[],
            map.iter().map(|(id, s)| vec![s.to_string(), id.clone()]),
        ));
    }
    Ok(swegym::exit::SUCCESS)
}

fn rows(ui: &Ui, path: &Path, name: Option<&str>, tasks: &[String]) -> Result<u8, Error> {
    if let Some(name) = name {
        lookup(name)?;
    }
    let mut known = HashMap::new();
    for instance in tasks.iter().map(|name| swegym::tasks::read(name)) {
        known.extend(instance?.into_iter().map(|i| (i.instance_id.clone(), i)));
    }
    for_rows(path, |place, mut row| {
        if let Some(name) = name {
            name.clone_into(&mut row.log_parser);
        }
        let resolved = (!tasks.is_empty()).then(|| resolved(place, &row, &known));
        let mut parsed = row.parse().map_err(|e| {
            Error::input(
                format!("{place}: {e}"),
                "`--parser list` prints the known parsers",
            )
        })?;
        if let Some(resolved) = resolved {
            parsed.extra.insert("resolved".into(), resolved?.into());
        }
        ui.data(serde_json::to_string(&parsed).expect("plain data"));
        Ok(())
    })?;
    Ok(swegym::exit::SUCCESS)
}

/// The official verdict on a log; `None` where the harness records an error.
fn resolved(
    place: &str,
    row: &LogRow,
    tasks: &HashMap<String, Instance>,
) -> Result<Option<bool>, Error> {
    let id = row.instance_id.as_deref().unwrap_or_default();
    let instance = tasks.get(id).ok_or_else(|| {
        Error::input(
            format!("{place}: instance_id {id:?} is in no --tasks"),
            "name all datasets that the rows come from, with one --tasks each",
        )
    })?;
    let task = compat::Task {
        parser: lookup(&row.log_parser).map_err(|e| Error::input(format!("{place}: {e}"), ""))?,
        ..compat::Task::of(instance).map_err(|e| Error::input(format!("{place}: {e}"), ""))?
    };
    // Either the harness's own log, or only what the test command printed.
    let log = if row.test_output.contains(compat::swebench::END_TEST_OUTPUT) {
        Cow::Borrowed(row.test_output.as_str())
    } else {
        Cow::Owned(compat::swebench::official_log(&row.test_output, 0))
    };
    let report = compat::swebench::report(&task, Some(""), &log);
    Ok(report.ok().map(|report| report.resolved))
}

/// All rows of a file.
pub fn read_rows(path: &Path) -> Result<Vec<LogRow>, Error> {
    let mut rows = Vec::new();
    for_rows(path, |_, row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// Hands each row of a file on, with its place.
fn for_rows(
    path: &Path,
    mut each: impl FnMut(&str, LogRow) -> Result<(), Error>,
) -> Result<(), Error> {
    for (index, line) in open(path)?.lines().enumerate() {
        let line = line.map_err(|e| Error::io(path, e))?;
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("{}: line {}", path.display(), index + 1);
        let row = serde_json::from_str(&line).map_err(|e| {
            Error::input(
                format!("{place}: {e}"),
                "every line is an object with `log_parser` and `test_output`",
            )
        })?;
        each(&place, row)?;
    }
    Ok(())
}

fn lookup(name: &str) -> Result<Parser, Error> {
    parser(name).ok_or_else(|| {
        Error::input(
            format!("unknown parser {name:?}"),
            "`--parser list` prints the known ones",
        )
    })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    if path.extension().is_some_and(|e| e == "gz") {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::new(file)))
}
