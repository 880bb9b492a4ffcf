//! Messages of the spawner, sorted by who waits for them.
//!
//! There is no thread that reads: of those who wait, one does, for all. That
//! spares a hand-over between threads for every message.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::backend::lock;
use super::wire::{FromSpawner, Link, Report};

/// Where messages of the spawner are waited for.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    /// A message was sorted, or its reader stopped reading.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What has come for each number that somebody will ask for.
    expected: HashMap<u64, Option<Report>>,
    /// Somebody is reading.
    reading: bool,
    /// The spawner has ended.
    gone: bool,
}

/// Why no message came.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The spawner has ended.
    Gone,
    /// Time is up.
    Late,
}

impl Inbox {
    /// A message for this number will be asked for; others are not kept.
    pub fn expect(&self, id: u64) {
        lock(&self.state).expected.insert(id, None);
    }

    /// Waits for the message for a number.
    pub fn wait(&self, link: &Link, id: u64, limit: Duration) -> Result<Report, Missing> {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.state);
        loop {
            if let Some(report) = state.expected.get_mut(&id).and_then(Option::take) {
                state.expected.remove(&id);
                return Ok(report);
            }
            if state.gone {
                return Err(Missing::Gone);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missing::Late);
            }
            if state.reading {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.reading = true;
            drop(state);
            let message = read(link, left);
            state = lock(&self.state);
            state.reading = false;
            match message {
                Ok(Some(message)) => state.sort(message),
                Ok(None) => {}
                Err(SpawnerGone) => state.gone = true,
            }
            self.changed.notify_all();
        }
    }
}

impl State {
    fn sort(&mut self, message: FromSpawner) {
        match message {
            FromSpawner::Report { id, report } => {
                if let Some(place) = self.expected.get_mut(&id) {
                    *place = Some(report);
                }
            }
            FromSpawner::Started(_) => self.gone = true,
        }
    }
}

struct SpawnerGone;

/// Reads a message; `None` if none comes in time.
fn read(link: &Link, limit: Duration) -> Result<Option<FromSpawner>, SpawnerGone> {
    let mut fds = [PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(|_| SpawnerGone)?;
    match rustix::event::poll(&mut fds, Some(&limit)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
        Ok(_) => match link.recv() {
            Ok(Some((message, _))) => Ok(Some(message)),
            Ok(None) | Err(_) => Err(SpawnerGone),
        },
        Err(_) => Err(SpawnerGone),
    }
}
