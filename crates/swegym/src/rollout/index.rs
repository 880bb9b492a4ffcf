//! An index over the runs of a folder, so that a list of thousands of
//! episodes need not read each of them.
//!
//! The files are the truth: a row is read again when its file has changed,
//! and goes when the file has gone; an index that is missing, damaged or of
//! another version is made anew. Where the folder cannot be written to, the
//! index lives in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::ledger::Spent;
use super::runs::{self, Entry, Manifest};
use crate::Error;

/// Name of the index in a folder of runs.
pub const INDEX: &str = "index.sqlite";

/// Of the tables below. Another one makes a new index.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE runs (
    run TEXT PRIMARY KEY,           -- name of its folder
    run_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    created_at TEXT NOT NULL,
    calls INTEGER NOT NULL,         -- of the model, answered
    prompt_tokens INTEGER,          -- with calls of episodes that were killed
    completion_tokens INTEGER,
    cost_usd REAL,
    manifest_stamp TEXT NOT NULL,
    calls_stamp TEXT NOT NULL
) STRICT;
CREATE TABLE episodes (
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    path TEXT NOT NULL,             -- of its folder, below the run's
    instance_id TEXT NOT NULL,
    sample INTEGER NOT NULL,
    repo TEXT NOT NULL,
    ending TEXT NOT NULL,           -- submitted, turns, ..., failed
    counts INTEGER NOT NULL,        -- whether it says something about the agent
    turns INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd REAL,
    empty_patch INTEGER NOT NULL,
    graded INTEGER NOT NULL,        -- whether there is a verdict on the patch
    resolved INTEGER NOT NULL,
    ended_at TEXT NOT NULL,
    stamp TEXT NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX episodes_of_instance ON episodes (instance_id);
";

/// A run in a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the run.
    pub run_id: String,
    /// The agent, see [`Manifest::agent_name`].
    pub agent: String,
    /// The model, as the command line names it.
    pub model: String,
    /// Episodes that say something about the agent.
    pub episodes: u64,
    /// Those that were graded.
    pub graded: u64,
    /// Those that are resolved.
    pub resolved: u64,
    /// Episodes that failed for no fault of the agent's.
    pub failed: u64,
    /// What all calls cost, US dollars; `None` where no price is known.
    pub cost_usd: Option<f64>,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    db: Connection,
}

impl Index {
    /// Opens the index of a folder of runs and brings it up to date. The
    /// errors are of runs that cannot be read: they are not in the index.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Error>), Error> {
        let found = runs::find(dir)?;
        let path = dir.join(INDEX);
        // Without runs the folder is perhaps another thing altogether.
        let opened = if found.is_empty() && !path.exists() {
            memory()
        } else {
            open(&path)
        };
        let db = match opened {
            Ok(db) => db,
            Err(why) if is_of_no_use(&why) => {
                // It holds nothing that the files do not.
                let _ = fs::remove_file(&path);
                open(&path).or_else(|_| memory()).map_err(failed(dir))?
            }
            Err(_) => memory().map_err(failed(dir))?,
        };
        let mut index = Self {
            dir: dir.to_owned(),
            db,
        };
        let unread = index.refresh(&found)?;
        Ok((index, unread))
    }

    fn refresh(&mut self, found: &[PathBuf]) -> Result<Vec<Error>, Error> {
        let sql = failed(&self.dir);
        let mut unread = Vec::new();
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&sql)?;
        let mut present = Vec::new();
        for dir in found {
            let name = name_of(dir);
            match refresh_run(&tx, &name, dir) {
                Ok(()) => present.push(name),
                Err(why) => unread.push(why),
            }
        }
        // One that could be read in part is in the tables by now.
        let known: Vec<String> = {
            let mut rows = tx.prepare("SELECT run FROM runs").map_err(&sql)?;
            let names = rows.query_map([], |row| row.get(0)).map_err(&sql)?;
            names.collect::<Result<_, _>>().map_err(&sql)?
        };
        for gone in known.iter().filter(|name| !present.contains(name)) {
            tx.execute("DELETE FROM runs WHERE run = ?1", [gone])
                .map_err(&sql)?;
        }
        tx.commit().map_err(&sql)?;
        Ok(unread)
    }

    /// The runs, by the names of their folders.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn summaries(&self) -> Result<Vec<Summary>, Error> {
        let sql = failed(&self.dir);
        let mut rows = self
            .db
            .prepare(
                "SELECT run_id, agent, model,
                        coalesce(sum(counts), 0),
                        coalesce(sum(counts AND graded), 0),
                        coalesce(sum(counts AND resolved), 0),
                        coalesce(sum(NOT counts), 0),
                        runs.cost_usd
                 FROM runs LEFT JOIN episodes USING (run)
                 GROUP BY run ORDER BY run",
            )
            .map_err(&sql)?;
        let summaries = rows
            .query_map([], |row| {
                Ok(Summary {
                    run_id: row.get(0)?,
                    agent: row.get(1)?,
                    model: row.get(2)?,
                    episodes: row.get(3)?,
                    graded: row.get(4)?,
                    resolved: row.get(5)?,
                    failed: row.get(6)?,
                    cost_usd: row.get(7)?,
                })
            })
            .map_err(&sql)?;
        summaries.collect::<Result<_, _>>().map_err(&sql)
    }
}

/// Opens a file and makes the tables that it does not have yet.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    prepared(Connection::open(path)?)
}

fn memory() -> rusqlite::Result<Connection> {
    prepared(Connection::open_in_memory()?)
}

fn prepared(mut db: Connection) -> rusqlite::Result<Connection> {
    // Another `runs list` may be bringing it up to date.
    db.busy_timeout(Duration::from_secs(30))?;
    db.pragma_update(None, "foreign_keys", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        tx.execute_batch(TABLES)?;
        tx.pragma_update(None, "user_version", VERSION)?;
    } else if version != VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    tx.commit()?;
    Ok(db)
}

/// Whether a file is no index of ours, as opposed to one that we may not
/// write to.
fn is_of_no_use(why: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(why, rusqlite::Error::InvalidQuery)
        || matches!(
            why.sqlite_error_code(),
            Some(NotADatabase | DatabaseCorrupt)
        )
}

fn failed(dir: &Path) -> impl Fn(rusqlite::Error) -> Error + use<> {
    let path = dir.join(INDEX);
    move |why| {
        Error::input(
            format!("{}: {why}", path.display()),
            "remove the file: it is made anew from the runs",
        )
    }
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Size and time of a file; empty where there is none. Our files are replaced
/// or appended to, never rewritten in place, so one of the two differs.
fn stamp(path: &Path) -> Result<String, Error> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let modified = meta.modified().map_err(|e| Error::io(path, e))?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{}", meta.len(), since.as_nanos()))
}

fn refresh_run(tx: &Transaction<'_>, name: &str, dir: &Path) -> Result<(), Error> {
    let sql = failed(dir.parent().unwrap_or(dir));
    let known: Option<(String, String)> = tx
        .query_row(
            "SELECT manifest_stamp, calls_stamp FROM runs WHERE run = ?1",
            [name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map(Some)
        .or_else(none_if_absent)
        .map_err(&sql)?;
    let stamps = (
        stamp(&dir.join("run.json"))?,
        stamp(&dir.join("calls.jsonl"))?,
    );
    if known.as_ref() != Some(&stamps) {
        let manifest = Manifest::read(dir)?;
        let spent = Spent::read(&dir.join("calls.jsonl"))?;
        tx.execute(
            "INSERT INTO runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT DO UPDATE SET
                run_id = excluded.run_id, agent = excluded.agent, model = excluded.model,
                created_at = excluded.created_at, calls = excluded.calls,
                prompt_tokens = excluded.prompt_tokens,
                completion_tokens = excluded.completion_tokens,
                cost_usd = excluded.cost_usd,
                manifest_stamp = excluded.manifest_stamp,
                calls_stamp = excluded.calls_stamp",
            params![
                name,
                manifest.run_id,
                manifest.agent_name(),
                manifest.model,
                manifest.created_at.to_string(),
                spent.calls,
                spent.usage.prompt_tokens,
                spent.usage.completion_tokens,
                spent.usage.cost_usd,
                stamps.0,
                stamps.1,
            ],
        )
        .map_err(&sql)?;
    }
    refresh_episodes(tx, name, dir)
}

fn refresh_episodes(tx: &Transaction<'_>, run: &str, dir: &Path) -> Result<(), Error> {
    let sql = failed(dir.parent().unwrap_or(dir));
    let mut known: BTreeMap<String, String> = {
        let mut rows = tx
            .prepare_cached("SELECT path, stamp FROM episodes WHERE run = ?1")
            .map_err(&sql)?;
        let pairs = rows
            .query_map([run], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(&sql)?;
        pairs.collect::<Result<_, _>>().map_err(&sql)?
    };
    for episode in runs::episodes(dir)? {
        let below = episode.strip_prefix(dir).unwrap_or(&episode);
        let path = below.to_string_lossy().into_owned();
        let now = format!(
            "{} {}",
            stamp(&episode.join("episode.json"))?,
            stamp(&episode.join("result.json"))?
        );
        if known.remove(&path).is_none_or(|before| before != now) {
            let entry = Entry::read(&episode)?;
            let graded = entry.result.as_ref();
            let record = &entry.episode;
            tx.prepare_cached(
                "INSERT OR REPLACE INTO episodes VALUES
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            )
            .and_then(|mut row| {
                row.execute(params![
                    run,
                    path,
                    record.instance_id,
                    record.sample,
                    record.repo,
                    record.end.name(),
                    record.end.counts(),
                    record.turns,
                    record.usage.prompt_tokens,
                    record.usage.completion_tokens,
                    record.usage.cost_usd,
                    record.empty_patch,
                    graded.is_some_and(|r| r.outcome.is_reward()),
                    graded.is_some_and(|r| r.resolved),
                    record.ended_at.to_string(),
                    now,
                ])
            })
            .map_err(&sql)?;
        }
    }
    for gone in known.keys() {
        tx.execute(
            "DELETE FROM episodes WHERE run = ?1 AND path = ?2",
            [run, gone],
        )
        .map_err(&sql)?;
    }
    Ok(())
}

fn none_if_absent<T>(why: rusqlite::Error) -> rusqlite::Result<Option<T>> {
    match why {
        rusqlite::Error::QueryReturnedNoRows => Ok(None),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use swegym_agent::episode::{Limits, Seconds};
    use swegym_agent::model::{Sampling, Usage};
    use swegym_agent::scaffold::Dialect;
    use swegym_core::{AgentInfo, End, Fault, Limit, Trajectory};

    use super::super::runs::{EpisodeRecord, OpenRun};
    use super::*;

    fn manifest(name: &str) -> Manifest {
        Manifest {
            schema: 1,
            run_id: name.to_owned(),
            agent: "codeact".to_owned(),
            command: None,
            prompts: String::new(),
            dialect: Dialect::Tools,
            model: "gold".to_owned(),
            model_name_or_path: "gold".to_owned(),
            examples: None,
            sampling: Sampling::default(),
            limits: Limits::default(),
            prices: None,
            swegym: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn commit(run: &OpenRun, instance: &str, end: End) {
        let record = EpisodeRecord {
            schema: 1,
            instance_id: instance.to_owned(),
            repo: "a/b".to_owned(),
            sample: 0,
            attempt: 1,
            end,
            empty_patch: false,
            patch_error: None,
            turns: 3,
            usage: Usage::default(),
            seconds: Seconds::default(),
            ended_at: Timestamp::UNIX_EPOCH,
        };
        let trajectory = Trajectory::new(AgentInfo::default());
        run.commit(&record, &trajectory, "", None).expect("written");
    }

    fn list(dir: &Path) -> (Vec<Summary>, usize) {
        let (index, unread) = Index::open(dir).expect("opens");
        (index.summaries().expect("reads"), unread.len())
    }

    fn episodes(dir: &Path) -> Vec<(u64, u64)> {
        let runs = list(dir).0;
        runs.iter().map(|r| (r.episodes, r.failed)).collect()
    }

    #[test]
    fn files_that_change_come_and_go_change_come_and_go_in_it() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path();
        let run = OpenRun::open(&dir.join("one"), &manifest("one")).expect("opens");
        assert_eq!(episodes(dir), [(0, 0)]);
        commit(&run, "a__b-1", End::Submitted);
        commit(
            &run,
            "a__b-2",
            End::Failed {
                by: Fault::Infrastructure,
                why: "disk".to_owned(),
            },
        );
        assert_eq!(episodes(dir), [(1, 1)]);
        // The one that failed is tried again.
        commit(
            &run,
            "a__b-2",
            End::Truncated {
                limit: Limit::Turns,
            },
        );
        assert_eq!(episodes(dir), [(2, 0)]);
        fs::remove_dir_all(dir.join("one/episodes/a__b-1")).expect("removes");
        OpenRun::open(&dir.join("two"), &manifest("two")).expect("opens");
        assert_eq!(episodes(dir), [(1, 0), (0, 0)]);
        fs::remove_dir_all(dir.join("one")).expect("removes");
        assert_eq!(list(dir).0[0].run_id, "two");
    }

    #[test]
    fn it_is_made_anew_from_the_files() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path();
        let run = OpenRun::open(&dir.join("one"), &manifest("one")).expect("opens");
        commit(&run, "a__b-1", End::Submitted);
        let first = list(dir);
        for damage in [&b""[..], b"no database at all, but long enough to be one"] {
            fs::write(dir.join(INDEX), damage).expect("writes");
            assert_eq!(list(dir), first);
        }
        let other = Connection::open(dir.join(INDEX)).expect("opens");
        other
            .pragma_update(None, "user_version", VERSION + 1)
            .expect("writes");
        drop(other);
        assert_eq!(list(dir), first);
        assert!(dir.join(INDEX).is_file());
    }

    #[test]
    fn a_damaged_run_is_left_out_and_named() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path();
        for name in ["good", "bad"] {
            let run = OpenRun::open(&dir.join(name), &manifest(name)).expect("opens");
            commit(&run, "a__b-1", End::Submitted);
        }
        assert_eq!(list(dir).0.len(), 2);
        let record = dir.join("bad/episodes/a__b-1/0/episode.json");
        fs::write(&record, "{").expect("writes");
        let (index, unread) = Index::open(dir).expect("opens");
        assert!(unread[0].to_string().contains("episode.json"));
        let runs = index.summaries().expect("reads");
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run_id, "good");
    }

    #[test]
    fn a_folder_without_runs_stays_as_it_is() {
        let temp = tempfile::tempdir().expect("a folder");
        assert_eq!(list(temp.path()), (Vec::new(), 0));
        assert_eq!(list(&temp.path().join("none")), (Vec::new(), 0));
        assert_eq!(fs::read_dir(temp.path()).expect("reads").count(), 0);
    }
}
