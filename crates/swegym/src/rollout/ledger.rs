//! The ledger of a run: every call of a model, written down before and after
//! it, so that a killed run knows what it has spent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use swegym_agent::episode::{Call, Ledger};
use swegym_agent::model::Usage;
use swegym_core::Limit;

use crate::Error;

/// A line of `calls.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    episode: String,
    attempt: u32,
    number: u32,
    /// Present before a call: most that it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begin: Option<Begin>,
    /// Present after a call that was answered: what it did cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Begin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    most_cost: Option<f64>,
}

/// What a run has spent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Tokens and cost of every call that was answered, of episodes that were
    /// killed or tried again too.
    pub usage: Usage,
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that were begun and whose answer was never seen: the provider
    /// may have counted them.
    pub unanswered: u64,
    /// Tries of each episode so far.
    #[serde(skip)]
    pub attempts: BTreeMap<String, u32>,
}

impl Spent {
    /// Reads a ledger. A last line that a kill cut short is a call that was
    /// begun or not; nothing of it is known.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut spent = Self::default();
        let mut open = BTreeSet::new();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(spent),
            Err(e) => return Err(Error::io(path, e)),
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| Error::io(path, e))?;
            let Ok(entry) = serde_json::from_str::<Entry>(&line) else {
                continue;
            };
            let last = spent.attempts.entry(entry.episode.clone()).or_default();
            *last = (*last).max(entry.attempt);
            let key = (entry.episode, entry.attempt, entry.number);
            match (entry.begin, entry.usage) {
                (Some(_), _) => {
                    open.insert(key);
                }
                (None, usage) => {
                    open.remove(&key);
                    if let Some(usage) = usage {
                        spent.usage.add(&usage);
                        spent.calls += 1;
                    } else {
                        spent.unanswered += 1;
                    }
                }
            }
        }
        spent.unanswered += open.len() as u64;
        Ok(spent)
    }
}

/// An open ledger with the budget of its run.
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
    freed: Condvar,
    budget: Option<f64>,
}

struct State {
    file: File,
    spent: f64,
    reserved: f64,
    in_flight: usize,
    broken: bool,
}

impl Journal {
    /// Opens a ledger to go on with it. `budget` is of all its runs together,
    /// US dollars.
    ///
    /// # Errors
    /// If it cannot be read and written.
    pub fn open(path: &Path, budget: Option<f64>) -> Result<(Self, Spent), Error> {
        let io = |e| Error::io(path, e);
        let spent = Spent::read(path)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io)?;
        // A line that was cut short must not swallow the next one.
        file.write_all(b"\n").map_err(io)?;
        let journal = Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                file,
                spent: spent.usage.cost_usd.unwrap_or_default(),
                reserved: 0.0,
                in_flight: 0,
                broken: false,
            }),
            freed: Condvar::new(),
            budget,
        };
        Ok((journal, spent))
    }

    /// Whether the disk refused a line: what is spent is no longer known.
    pub fn check(&self) -> Result<(), Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(Error::setup(
                format!("{} cannot be written", self.path.display()),
                "is the disk full? the same command goes on once there is space",
            ));
        }
        Ok(())
    }
}

impl State {
    fn write(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("plain data");
        line.push(b'\n');
        // One write: a kill leaves all of the line or none.
        self.broken |= self.file.write_all(&line).is_err();
    }
}

impl Ledger for Journal {
    fn begin(&self, call: Call<'_>) -> Result<(), Limit> {
        let most = call.most_cost.unwrap_or_default();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = self.budget {
            loop {
                if state.spent >= budget {
                    return Err(Limit::Cost);
                }
                // The last call may go over the budget, and only that one.
                let fits = state.spent + state.reserved + most <= budget;
                if fits || state.in_flight == 0 {
                    break;
                }
                state = self
                    .freed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.reserved += most;
        state.in_flight += 1;
        state.write(&Entry {
            episode: call.episode.to_owned(),
            attempt: call.attempt,
            number: call.number,
            begin: Some(Begin {
                most_cost: call.most_cost,
            }),
            usage: None,
        });
        Ok(())
    }

    fn end(&self, call: Call<'_>, usage: Option<&Usage>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.reserved -= call.most_cost.unwrap_or_default();
        state.in_flight -= 1;
        state.spent += usage.and_then(|u| u.cost_usd).unwrap_or_default();
        state.write(&Entry {
            episode: call.episode.to_owned(),
            attempt: call.attempt,
            number: call.number,
            begin: None,
            usage: usage.copied(),
        });
        drop(state);
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn call(episode: &str, number: u32, most_cost: f64) -> Call<'_> {
        Call {
            episode,
            attempt: 1,
            number,
            most_cost: Some(most_cost),
        }
    }

    fn cost(usd: f64) -> Usage {
        Usage {
            cost_usd: Some(usd),
            prompt_tokens: Some(10),
            ..Usage::default()
        }
    }

    #[test]
    fn a_cut_ledger_counts_what_is_known_and_says_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calls.jsonl");
        let (journal, spent) = Journal::open(&path, None).unwrap();
        assert_eq!(spent, Spent::default());
        for n in 0..3 {
            journal.begin(call("a", n, 1.0)).unwrap();
            if n < 2 {
                journal.end(call("a", n, 1.0), Some(&cost(0.25)));
            }
        }
        drop(journal);
        // As a kill in the middle of a line would.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let (journal, spent) = Journal::open(&path, None).unwrap();
        assert_eq!(spent.usage.cost_usd, Some(0.5));
        assert_eq!((spent.calls, spent.unanswered), (2, 0));
        assert_eq!(spent.attempts["a"], 1);
        journal.begin(call("b", 0, 1.0)).unwrap();
        drop(journal);
        let spent = Spent::read(&path).unwrap();
        assert_eq!((spent.calls, spent.unanswered), (2, 1));
    }

    #[test]
    fn a_budget_holds_to_within_one_call_with_many_in_flight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calls.jsonl");
        let journal = Arc::new(Journal::open(&path, Some(1.0)).unwrap().0);
        let threads: Vec<_> = (0..32)
            .map(|n| {
                let journal = journal.clone();
                std::thread::spawn(move || {
                    let name = format!("e{n}");
                    for number in 0..50 {
                        let call = call(&name, number, 0.1);
                        if journal.begin(call).is_err() {
                            return;
                        }
                        std::thread::yield_now();
                        journal.end(call, Some(&cost(0.07)));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let spent = Spent::read(&path).unwrap().usage.cost_usd.unwrap();
        assert!((1.0..1.0 + 0.1).contains(&spent), "{spent}");
    }
}
