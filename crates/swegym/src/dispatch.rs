//! Runs many jobs on few threads.
//!
//! Two roles, after nextest: *workers* run jobs and know nothing of each
//! other; the *dispatcher* (the caller's thread) alone hears what they report
//! and talks to the screen. They share the queue and a cancel flag, and
//! otherwise only messages. No job graph: the gym's work is a bag.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A flag that asks everything to stop; set by Ctrl-C.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How many jobs at once, and how often one is tried.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most jobs in flight.
    pub workers: usize,
    /// Memory that must be available before another job starts, bytes. The
    /// first job always starts.
    pub memory_per_job: u64,
    /// Load average above which no other job starts; the first one does. The
    /// load of others counts too, so who names a number of workers wants none.
    pub load_limit: Option<f64>,
    /// Tries of a job that asks to be retried.
    pub attempts: u32,
    /// Wait before the second try; doubles with each one.
    pub backoff: Duration,
}

impl Options {
    /// As many workers as the user says; without a number, as many as there
    /// are cores while the load allows it.
    #[must_use]
    pub fn with_workers(workers: Option<usize>) -> Self {
        let defaults = Self::default();
        match workers {
            None => defaults,
            Some(workers) => Self {
                workers: workers.max(1),
                load_limit: None,
                ..defaults
            },
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: cores(),
            memory_per_job: 512 << 20,
            load_limit: Some(4.0 * cores() as f64),
            attempts: 3,
            backoff: Duration::from_secs(1),
        }
    }
}

/// How one try of a job ended.
#[derive(Debug)]
pub enum Attempt<R> {
    /// Final.
    Done(R),
    /// Failed for a reason that may pass; final if no try is left.
    Retry(R),
}

/// What the dispatcher hears.
#[derive(Debug)]
pub enum Event<J, R> {
    /// A job was started, with the number of jobs now in flight.
    Started {
        /// The job.
        job: Arc<J>,
        /// Jobs in flight, this one included.
        running: usize,
    },
    /// A job is about to be tried again.
    Retrying {
        /// The job.
        job: Arc<J>,
        /// Tries so far.
        attempt: u32,
        /// What the try gave.
        result: R,
    },
    /// A job is over.
    Finished {
        /// The job.
        job: Arc<J>,
        /// What it gave.
        result: R,
        /// Wall time of its tries together.
        elapsed: Duration,
    },
}

struct Shared<J> {
    queue: Mutex<VecDeque<Arc<J>>>,
    wake: Condvar,
    running: AtomicUsize,
    cancel: Cancel,
    options: Options,
}

/// Runs `work` on every job and hands each event to `on_event`, in the
/// caller's thread. Returns whether all jobs finished; after a cancel, jobs in
/// flight are abandoned (their threads are detached and die with the process,
/// as do their sandboxes), so nothing waits for a long test run.
pub fn dispatch<J, R>(
    jobs: impl IntoIterator<Item = J>,
    options: &Options,
    cancel: &Cancel,
    work: impl Fn(&J) -> Attempt<R> + Send + Sync + 'static,
    mut on_event: impl FnMut(Event<J, R>),
) -> bool
where
    J: Send + Sync + 'static,
    R: Send + 'static,
{
    let queue: VecDeque<Arc<J>> = jobs.into_iter().map(Arc::new).collect();
    let mut left = queue.len();
    let workers = options.workers.clamp(1, left.max(1));
    let shared = Arc::new(Shared {
        queue: Mutex::new(queue),
        wake: Condvar::new(),
        running: AtomicUsize::new(0),
        cancel: cancel.clone(),
        options: options.clone(),
    });
    let work = Arc::new(work);
    let (sender, events) = mpsc::channel();
    for _ in 0..workers {
        let (shared, work, sender) = (shared.clone(), work.clone(), sender.clone());
        thread::spawn(move || worker(&shared, &*work, &sender));
    }
    drop(sender);
    while left > 0 && !cancel.is_cancelled() {
        match events.recv_timeout(Duration::from_millis(50)) {
            Ok(event) => {
                if matches!(event, Event::Finished { .. }) {
                    left -= 1;
                }
                on_event(event);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // Every worker is gone although jobs are left: some panicked.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    left == 0
}

fn worker<J, R>(
    shared: &Shared<J>,
    work: &(impl Fn(&J) -> Attempt<R> + ?Sized),
    events: &Sender<Event<J, R>>,
) {
    while let Some(job) = next_job(shared) {
        let started = Instant::now();
        let running = shared.running.load(Ordering::SeqCst);
        let _ = events.send(Event::Started {
            job: job.clone(),
            running,
        });
        // A job that panics is left unfinished; the others still run.
        let result = catch_unwind(AssertUnwindSafe(|| try_job(shared, work, &job, events)));
        shared.running.fetch_sub(1, Ordering::SeqCst);
        shared.wake.notify_one();
        let Ok(result) = result else { continue };
        let event = Event::Finished {
            job,
            result,
            elapsed: started.elapsed(),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

fn try_job<J, R>(
    shared: &Shared<J>,
    work: &(impl Fn(&J) -> Attempt<R> + ?Sized),
    job: &Arc<J>,
    events: &Sender<Event<J, R>>,
) -> R {
    let mut attempt = 1;
    loop {
        match work(job) {
            Attempt::Done(result) => return result,
            Attempt::Retry(result) if attempt >= shared.options.attempts => return result,
            Attempt::Retry(result) => {
                let _ = events.send(Event::Retrying {
                    job: job.clone(),
                    attempt,
                    result,
                });
                thread::sleep(shared.options.backoff * 2u32.pow((attempt - 1).min(10)));
                attempt += 1;
            }
        }
    }
}

/// Takes the next job when the machine has room for it.
fn next_job<J>(shared: &Shared<J>) -> Option<Arc<J>> {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if shared.cancel.is_cancelled() || queue.is_empty() {
            return None;
        }
        let running = shared.running.load(Ordering::SeqCst);
        if running == 0 || has_room(&shared.options) {
            shared.running.fetch_add(1, Ordering::SeqCst);
            return queue.pop_front();
        }
        queue = shared
            .wake
            .wait_timeout(queue, Duration::from_millis(500))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// Whether memory and load allow one more job. Unknown counts as yes.
fn has_room(options: &Options) -> bool {
    available_memory().is_none_or(|free| free >= options.memory_per_job)
        && options
            .load_limit
            .is_none_or(|limit| load_average().is_none_or(|load| load < limit))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes that programs can still have, where the system tells.
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(workers: usize) -> Options {
        Options {
            workers,
            load_limit: None,
            backoff: Duration::ZERO,
            ..Options::default()
        }
    }

    #[test]
    fn every_job_finishes_once_and_the_bound_holds() {
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (b, m) = (busy, most.clone());
        let mut seen = Vec::new();
        let all = dispatch(
            0..200,
            &options(4),
            &Cancel::default(),
            move |job| {
                let now = b.fetch_add(1, Ordering::SeqCst) + 1;
                m.fetch_max(now, Ordering::SeqCst);
                b.fetch_sub(1, Ordering::SeqCst);
                Attempt::Done(job * 2)
            },
            |event| {
                if let Event::Finished { job, result, .. } = event {
                    assert_eq!(*job * 2, result);
                    seen.push(*job);
                }
            },
        );
        seen.sort_unstable();
        assert!(all);
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 4);
    }

    #[test]
    fn a_passing_failure_is_retried_and_a_lasting_one_given_up() {
        let tries = Arc::new(Mutex::new(std::collections::BTreeMap::<i32, u32>::new()));
        let t = tries.clone();
        let mut results = std::collections::BTreeMap::new();
        dispatch(
            [1, 9],
            &Options {
                attempts: 3,
                ..options(2)
            },
            &Cancel::default(),
            move |&job| {
                let mut tries = t.lock().unwrap();
                let n = tries.entry(job).or_default();
                *n += 1;
                if job == 1 && *n == 2 {
                    Attempt::Done("ok")
                } else {
                    Attempt::Retry("infra")
                }
            },
            |event| {
                if let Event::Finished { job, result, .. } = event {
                    results.insert(*job, result);
                }
            },
        );
        assert_eq!(results, [(1, "ok"), (9, "infra")].into());
        assert_eq!(*tries.lock().unwrap(), [(1, 2), (9, 3)].into());
    }

    #[test]
    fn a_job_that_panics_takes_no_other_along() {
        let mut finished = Vec::new();
        let all = dispatch(
            0..8,
            &options(1),
            &Cancel::default(),
            |&job| {
                assert_ne!(job, 3, "on purpose");
                Attempt::Done(job)
            },
            |event| {
                if let Event::Finished { result, .. } = event {
                    finished.push(result);
                }
            },
        );
        assert!(!all);
        assert_eq!(finished, [0, 1, 2, 4, 5, 6, 7]);
    }

    #[test]
    fn cancel_stops_without_waiting_for_jobs_in_flight() {
        let cancel = Cancel::default();
        let c = cancel.clone();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let g = gate.clone();
        let mut finished = 0;
        let all = dispatch(
            0..100,
            &options(2),
            &cancel,
            move |&job| {
                if job == 1 {
                    c.cancel();
                    let mut open = g.0.lock().unwrap();
                    while !*open {
                        open = g.1.wait(open).unwrap();
                    }
                }
                Attempt::Done(())
            },
            |event| finished += usize::from(matches!(event, Event::Finished { .. })),
        );
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        assert!(!all);
        assert!(finished < 100);
    }
}
