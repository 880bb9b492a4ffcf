//! The terminal: stdout is for data, everything else goes to stderr.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::Global;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const DIM: Style = Style::new().dimmed();

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    pub json: bool,
    quiet: bool,
    terminal: bool,
}

impl Ui {
    pub fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// One line of data.
    pub fn data(&self, line: impl Display) {
        let mut out = anstream::stdout().lock();
        // A closed pipe (`| head`) is the reader's way of saying enough.
        if writeln!(out, "{line}").is_err() {
            std::process::exit(0);
        }
    }

    /// A value as JSON, if JSON was asked for; else what `people` prints.
    pub fn answer<T: Serialize + ?Sized>(&self, value: &T, people: impl FnOnce(&Self)) {
        if self.json {
            self.data(serde_json::to_string_pretty(value).expect("answers serialise"));
        } else {
            people(self);
        }
    }

    /// One line for people.
    pub fn say(&self, line: impl Display) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        }
    }

    pub fn warn(&self, line: impl Display) {
        let _ = writeln!(
            anstream::stderr().lock(),
            "{WARNING}warning{WARNING:#}: {line}"
        );
    }

    pub fn error(&self, line: impl Display) {
        let _ = writeln!(anstream::stderr().lock(), "{ERROR}error{ERROR:#}: {line}");
    }

    pub fn hint(&self, line: impl Display) {
        let _ = writeln!(anstream::stderr().lock(), "{HINT}hint{HINT:#}: {line}");
    }

    /// A bar over `total` items; hidden in a pipe.
    pub fn progress(&self, total: usize, what: &'static str) -> Progress {
        let bar = if self.terminal && !self.quiet {
            ProgressBar::new(total as u64)
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(
            ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}")
                .expect("a valid template")
                .progress_chars("━╸─"),
        );
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress {
            bar,
            started: Instant::now(),
            resumed: 0,
            ui: *self,
        }
    }
}

/// A progress bar with a rate and an honest remaining time: the mean of what
/// was finished in this run, and nothing before there is something to go by.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    resumed: u64,
    ui: Ui,
}

impl Progress {
    /// Counts items that an earlier run finished.
    pub fn resume(&mut self, done: u64) {
        self.resumed = done;
        self.bar.set_position(done);
    }

    /// Begins anew with other items, of which an earlier run finished some.
    pub fn restart(&mut self, total: usize, done: usize) {
        self.started = Instant::now();
        self.bar.set_length(total as u64);
        self.resume(done as u64);
    }

    pub fn advance(&self, note: &str) {
        self.bar.inc(1);
        self.note(note);
    }

    pub fn note(&self, note: &str) {
        let done = self.bar.position().saturating_sub(self.resumed);
        let left = self
            .bar
            .length()
            .unwrap_or(0)
            .saturating_sub(self.bar.position());
        let elapsed = self.started.elapsed().as_secs_f64();
        let mut message = String::new();
        if done >= 2 && left > 0 {
            let each = elapsed / done as f64;
            message = format!(
                "{:.1}/min, {} left  ",
                60.0 / each,
                human_time(each * left as f64)
            );
        }
        message.push_str(note);
        self.bar.set_message(message);
    }

    /// A warning above the bar.
    pub fn warn(&self, line: impl Display) {
        self.bar.suspend(|| self.ui.warn(line));
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A plain table, right-aligned where asked.
pub fn table(
    header: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    // Some terminals say that they have no columns.
    if table.width() == Some(0) {
        table.set_width(80);
    }
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn human_time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1}s"),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}min", s / 60.0),
        s => format!("{:.1}h", s / 3600.0),
    }
}

pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
