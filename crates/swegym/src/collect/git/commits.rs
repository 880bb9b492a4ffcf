//! Commits as candidates: no dump, the message is the text.

use jiff::Timestamp;
use swegym_forge::pulls::{Commit, candidate_of_commit, split_diff};
use swegym_store::source::{Change, Diff};

use super::rows::Rows;
use super::{DIFF_MISSING, Event, MAX_DIFF, Miner, NOT_UTF8, Own, TOO_LARGE, date};
use crate::Error;

impl Miner<'_> {
    /// Judges the history of a commit, oldest first. Returns whether it came
    /// to its end.
    pub(super) fn commits(
        &self,
        tip: &str,
        rows: &mut Rows,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Error> {
        let range = &self.plan.range;
        let in_range = |seconds| Timestamp::from_second(seconds).is_ok_and(|t| range.has(t));
        let mut ids: Vec<String> = self
            .repo
            .ancestors(tip)?
            .into_iter()
            .filter(|(_, committed)| in_range(*committed))
            .map(|(id, _)| id)
            .collect();
        if let Some(limit) = range.limit {
            ids.drain(..ids.len().saturating_sub(limit));
        }
        on_event(Event::Begin {
            total: Some(ids.len()),
            resumed: rows.done(),
        });
        let left = ids.get(rows.done()..).unwrap_or_default();
        let name = self.or_local();
        let mut judged = 0;
        self.repo.changes(left, MAX_DIFF, &mut |change| {
            if self.cancel.is_cancelled() {
                return Ok::<bool, Error>(false);
            }
            let row = self.commit(&name, change);
            rows.push(&row)?;
            judged += 1;
            on_event(Event::Done(&row));
            Ok(true)
        })?;
        Ok(judged == left.len())
    }

    fn commit(&self, name: &str, change: Change) -> super::Raw {
        let commit = Commit {
            repo: name.to_owned(),
            sha: change.id,
            parents: change.parents,
            author: change.author,
            date: date(change.committed),
            message: change.message,
        };
        let (diff, own) = text_of(change.diff);
        let mined = candidate_of_commit(&commit, &split_diff(&diff), self.plan.rule);
        self.row(mined, own)
    }
}

/// The text of a difference, or why there is none.
pub(super) fn text_of(diff: Diff) -> (String, Option<Own>) {
    match diff {
        Diff::Text(text) => (text, None),
        Diff::TooLarge(size) => {
            let detail = format!("the difference has {size} bytes, more than {MAX_DIFF}");
            (String::new(), Some((TOO_LARGE, detail)))
        }
        Diff::Missing(why) => (String::new(), Some((DIFF_MISSING, why))),
        Diff::NotText => {
            let detail = "the difference is not UTF-8".to_owned();
            (String::new(), Some((NOT_UTF8, detail)))
        }
    }
}
