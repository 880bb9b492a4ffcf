//! Finds by running tests which parts belong together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Parts, Release};

/// Two tasks that share more than this part of the smaller one are one.
const SHARED: f64 = 0.2;

/// How much may be run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Runs in all.
    pub runs: usize,
    /// Of those, to make what one group of tests needs smaller.
    pub shrink: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs: 48,
            shrink: 10,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The changed sources.
    pub sources: &'a Release,
    /// Tests that fail before and pass with all parts -> parts that they run
    /// or name.
    pub tests: &'a BTreeMap<String, Parts>,
    /// How much may be run.
    pub limits: Limits,
}

/// What a run with some of the parts showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Tests of the question that passed.
    pub passed: BTreeSet<String>,
    /// Whether a test failed that passes with none and with all of the parts.
    pub harm: bool,
}

/// Parts and the tests that they make pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The gold patch.
    pub parts: Parts,
    /// `FAIL_TO_PASS`.
    pub tests: BTreeSet<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Groups in the order of their first parts; no test is in two.
    pub groups: Vec<Group>,
    /// Number of runs that it took.
    pub runs: usize,
}

/// Finds independent groups. `run` runs the tests with some parts; it is not
/// asked twice for the same.
///
/// # Errors
/// What `run` fails with.
pub fn search<E>(
    question: &Question<'_>,
    run: impl FnMut(&Parts) -> Result<Outcome, E>,
) -> Result<Found, E> {
    let mut search = Search {
        question,
        run,
        seen: BTreeMap::new(),
        runs: 0,
    };
    search.single_parts()?;
    search.whole_sets()?;
    let mut groups = search.checked(cluster(question.sources, &search.least()))?;
    search.rest(&mut groups)?;
    groups.sort_by_key(|group| group.parts.first().copied());
    Ok(Found {
        groups,
        runs: search.runs,
    })
}

struct Search<'a, 'q, F> {
    question: &'a Question<'q>,
    run: F,
    seen: BTreeMap<Parts, Outcome>,
    runs: usize,
}

impl<E, F: FnMut(&Parts) -> Result<Outcome, E>> Search<'_, '_, F> {
    /// Tests that pass with some parts; none if that breaks others, or if
    /// there were runs enough.
    fn probe(&mut self, parts: &Parts) -> Result<BTreeSet<String>, E> {
        if parts.is_empty() {
            return Ok(BTreeSet::new());
        }
        if !self.seen.contains_key(parts) {
            if self.runs >= self.question.limits.runs {
                return Ok(BTreeSet::new());
            }
            self.runs += 1;
            let outcome = (self.run)(parts)?;
            self.seen.insert(parts.clone(), outcome);
        }
        let outcome = &self.seen[parts];
        Ok(if outcome.harm {
            BTreeSet::new()
        } else {
            outcome.passed.clone()
        })
    }

    /// For each test the lightest parts that made it pass.
    fn least(&self) -> BTreeMap<String, Parts> {
        let mut sets: Vec<(usize, &Parts, &Outcome)> = self
            .seen
            .iter()
            .filter(|(_, outcome)| !outcome.harm)
            .map(|(parts, outcome)| (self.question.sources.weight(parts), parts, outcome))
            .collect();
        sets.sort_by_key(|(weight, parts, _)| (*weight, *parts));
        let mut least = BTreeMap::new();
        for (_, parts, outcome) in sets {
            for test in &outcome.passed {
                least.entry(test.clone()).or_insert_with(|| parts.clone());
            }
        }
        least
    }

    /// Tries each part with what it needs; first those that few tests run.
    fn single_parts(&mut self) -> Result<(), E> {
        let Question { sources, tests, .. } = *self.question;
        let live = sources.live();
        let mut seeds: Vec<(usize, usize)> = Vec::new();
        for &part in &live {
            let count = tests.values().filter(|parts| parts.contains(&part)).count();
            if count > 0 {
                seeds.push((count, part));
            } else if !sources.parts[part].function && sources.parts[part].names.is_empty() {
                // A constant, or data: no trace tells who reads it.
                seeds.push((usize::MAX, part));
            }
        }
        seeds.sort_unstable();
        let most = self.question.limits.runs / 2;
        for (count, part) in seeds {
            let least = self.least();
            let open = |(test, parts): (&String, &Parts)| {
                !least.contains_key(test) && (count == usize::MAX || parts.contains(&part))
            };
            if self.runs >= most || least.len() == tests.len() {
                break;
            }
            if tests.iter().any(open) {
                let parts = sources.closure(&[part].into());
                let alive = parts.intersection(&live).copied().collect();
                self.probe(&alive)?;
            }
        }
        Ok(())
    }

    /// For tests that no single part helps: all that they run, then more.
    fn whole_sets(&mut self) -> Result<(), E> {
        let Question { sources, tests, .. } = *self.question;
        let live = sources.live();
        let alive = |parts: &Parts| -> Parts {
            let closed = sources.closure(parts);
            closed.intersection(&live).copied().collect()
        };
        loop {
            let least = self.least();
            let mut open: BTreeMap<Parts, BTreeSet<String>> = BTreeMap::new();
            for (test, parts) in tests {
                if !least.contains_key(test) {
                    open.entry(alive(parts)).or_default().insert(test.clone());
                }
            }
            // Those that were tried in vain stay open.
            open.retain(|parts, _| !self.seen.contains_key(parts) || parts.is_empty());
            let Some((start, wanted)) = open
                .into_iter()
                .filter(|(parts, _)| !parts.is_empty())
                .max_by_key(|(parts, wanted)| (wanted.len(), std::cmp::Reverse(parts.clone())))
            else {
                break;
            };
            if self.runs >= self.question.limits.runs {
                return Ok(());
            }
            let paths = sources.paths(&start);
            let in_files = live
                .iter()
                .copied()
                .filter(|&part| paths.contains(sources.parts[part].path.as_str()));
            let in_files: Parts = in_files.collect();
            for parts in [start.clone(), alive(&in_files), live.clone()] {
                let passed = self.probe(&parts)?;
                let helped: BTreeSet<String> = wanted.intersection(&passed).cloned().collect();
                if !helped.is_empty() {
                    self.shrink(parts, &helped)?;
                    break;
                }
            }
            if !self.seen.contains_key(&start) {
                return Ok(());
            }
        }
        // What needs more than any trace tells.
        let least = self.least();
        let left: BTreeSet<String> = tests
            .keys()
            .filter(|t| !least.contains_key(*t))
            .cloned()
            .collect();
        if !left.is_empty() {
            let passed = self.probe(&live)?;
            let helped: BTreeSet<String> = left.intersection(&passed).cloned().collect();
            if !helped.is_empty() {
                self.shrink(live, &helped)?;
            }
        }
        Ok(())
    }

    /// Leaves out what the tests do not need: halves, then smaller pieces.
    fn shrink(&mut self, mut parts: Parts, tests: &BTreeSet<String>) -> Result<(), E> {
        let sources = self.question.sources;
        let mut tries = self.question.limits.shrink;
        let mut pieces = 2;
        while pieces <= parts.len().max(2) && parts.len() > 1 {
            let all: Vec<usize> = parts.iter().copied().collect();
            let size = all.len().div_ceil(pieces);
            let mut smaller = None;
            for chunk in all.chunks(size) {
                let rest = sources.without(&parts, &chunk.iter().copied().collect());
                if rest.is_empty() || rest.len() == parts.len() {
                    continue;
                }
                if tries == 0 {
                    return Ok(());
                }
                tries -= usize::from(!self.seen.contains_key(&rest));
                if self.probe(&rest)?.is_superset(tests) {
                    smaller = Some(rest);
                    break;
                }
            }
            match smaller {
                Some(rest) => {
                    parts = rest;
                    pieces = (pieces - 1).max(2);
                }
                None if size == 1 => break,
                None => pieces = (pieces * 2).min(all.len()),
            }
        }
        Ok(())
    }

    /// Groups as a run confirms them.
    fn checked(&mut self, groups: Vec<Group>) -> Result<Vec<Group>, E> {
        let mut out = Vec::new();
        for mut group in groups {
            let passed = self.probe(&group.parts)?;
            group.tests.retain(|test| passed.contains(test));
            if !group.tests.is_empty() {
                out.push(group);
            }
        }
        Ok(out)
    }

    /// One more group of what no other has.
    fn rest(&mut self, groups: &mut Vec<Group>) -> Result<(), E> {
        let Question { sources, tests, .. } = *self.question;
        let taken: Parts = groups.iter().flat_map(|g| g.parts.clone()).collect();
        let held: BTreeSet<&String> = groups.iter().flat_map(|g| &g.tests).collect();
        let left: BTreeSet<String> = tests
            .keys()
            .filter(|test| !held.contains(test))
            .cloned()
            .collect();
        if groups.is_empty() || left.is_empty() {
            return Ok(());
        }
        let parts = sources.without(&sources.live(), &taken);
        let passed = self.probe(&parts)?;
        let tests: BTreeSet<String> = left.intersection(&passed).cloned().collect();
        if tests.is_empty() {
            return Ok(());
        }
        self.shrink(parts.clone(), &tests)?;
        let least = self.least();
        let parts: Parts = tests
            .iter()
            .filter_map(|test| least.get(test))
            .filter(|parts| parts.is_disjoint(&taken))
            .flatten()
            .copied()
            .collect();
        let passed = self.probe(&parts)?;
        let tests: BTreeSet<String> = tests.intersection(&passed).cloned().collect();
        if !tests.is_empty() {
            groups.push(Group { parts, tests });
        }
        Ok(())
    }
}

/// Joins what overlaps. Small sets come first; a test that needs parts of
/// several groups belongs to none.
fn cluster(sources: &Release, least: &BTreeMap<String, Parts>) -> Vec<Group> {
    let mut by_parts: BTreeMap<&Parts, BTreeSet<String>> = BTreeMap::new();
    for (test, parts) in least {
        by_parts.entry(parts).or_default().insert(test.clone());
    }
    let mut sets: Vec<(&Parts, BTreeSet<String>)> = by_parts.into_iter().collect();
    sets.sort_by_key(|(parts, _)| (sources.weight(parts), *parts));
    let mut groups: Vec<Group> = Vec::new();
    for (parts, tests) in sets {
        let overlaps = |group: &&mut Group| {
            let shared: Parts = group.parts.intersection(parts).copied().collect();
            let smaller = sources.weight(parts).min(sources.weight(&group.parts));
            // Sizes of patches are far below 2^52.
            !shared.is_empty() && sources.weight(&shared) as f64 > SHARED * smaller as f64
        };
        let mut touched: Vec<&mut Group> = groups.iter_mut().filter(overlaps).collect();
        match &mut touched[..] {
            [] => groups.push(Group {
                parts: parts.clone(),
                tests,
            }),
            [group] => {
                group.parts.extend(parts);
                group.tests.extend(tests);
            }
            _ => {}
        }
    }
    groups
}
