//! Moving bytes between the supervisor and a command, without ever blocking
//! on one stream while another is full.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use crate::capture::Capture;

/// A pipe: our end, which never blocks, and theirs.
pub fn pipe_from_them() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// The other way round.
pub fn pipe_to_them() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    Ok((write, read))
}

/// What becomes of the bytes of a stream.
pub enum Sink {
    /// Head and tail are kept.
    Capture(Capture),
    /// The first bytes are kept, up to a limit.
    Head(Vec<u8>, usize),
}

/// A stream that is read.
pub struct Stream<'a> {
    fd: BorrowedFd<'a>,
    sink: Sink,
    open: bool,
}

impl<'a> Stream<'a> {
    /// Keeps head and tail of a stream.
    pub fn capture(fd: &'a OwnedFd, limit: usize) -> Self {
        Self {
            fd: fd.as_fd(),
            sink: Sink::Capture(Capture::new(limit)),
            open: true,
        }
    }

    /// Keeps the beginning of a stream.
    pub fn head(fd: &'a OwnedFd, limit: usize) -> Self {
        Self {
            fd: fd.as_fd(),
            sink: Sink::Head(Vec::new(), limit),
            open: true,
        }
    }

    /// What was kept so far of a stream of which the head is kept.
    pub fn bytes(&self) -> &[u8] {
        match &self.sink {
            Sink::Head(bytes, _) => bytes,
            Sink::Capture(_) => &[],
        }
    }

    /// Whether the other end may still write.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What was kept.
    pub fn into_sink(self) -> Sink {
        self.sink
    }

    /// Reads what is there, at most about a megabyte so that other streams
    /// have their turn.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 64 << 10];
        for _ in 0..16 {
            match rustix::io::read(self.fd, &mut buffer) {
                Ok(([], _)) => {
                    self.open = false;
                    return Ok(());
                }
                Ok((read, _)) => match &mut self.sink {
                    Sink::Capture(capture) => capture.push(read),
                    Sink::Head(bytes, limit) => {
                        let room = limit.saturating_sub(bytes.len());
                        bytes.extend_from_slice(&read[..read.len().min(room)]);
                    }
                },
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Bytes on their way into a command.
pub struct Feed<'a> {
    pipe: Pipe<'a>,
    rest: &'a [u8],
}

enum Pipe<'a> {
    /// Stays open for more.
    Lent(BorrowedFd<'a>),
    /// Is closed behind the last byte.
    Given(OwnedFd),
}

impl AsFd for Pipe<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Lent(fd) => *fd,
            Self::Given(fd) => fd.as_fd(),
        }
    }
}

impl<'a> Feed<'a> {
    /// Feeds bytes into a pipe that stays open.
    pub fn more(fd: &'a OwnedFd, bytes: &'a [u8]) -> Self {
        Self {
            pipe: Pipe::Lent(fd.as_fd()),
            rest: bytes,
        }
    }

    /// Feeds bytes into a pipe, and closes it.
    pub fn all(fd: OwnedFd, bytes: &'a [u8]) -> Self {
        Self {
            pipe: Pipe::Given(fd),
            rest: bytes,
        }
    }

    /// Whether all is written, or nobody reads any more.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    fn write(&mut self) {
        while !self.rest.is_empty() {
            match rustix::io::write(&self.pipe, self.rest) {
                Ok(n) => self.rest = &self.rest[n..],
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.rest = &[],
            }
        }
    }
}

/// Why pumping stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// `done` said so, or every stream has ended.
    Done,
    /// Time is up.
    Deadline,
}

/// Moves bytes until `done`, or until the deadline. What the streams hold
/// when `done` turns true is read too.
pub fn pump(
    streams: &mut [Stream<'_>],
    feed: &mut Option<Feed<'_>>,
    deadline: Option<Instant>,
    done: impl Fn(&[Stream<'_>]) -> bool,
) -> io::Result<Stopped> {
    loop {
        if let Some(feed) = feed {
            feed.write();
        }
        if feed.as_ref().is_some_and(Feed::is_done) {
            *feed = None;
        }
        if done(streams) {
            for stream in streams.iter_mut().filter(|s| s.open) {
                stream.read()?;
            }
            return Ok(Stopped::Done);
        }
        let mut polled: Vec<PollFd<'_>> = streams
            .iter()
            .filter(|s| s.open)
            .map(|s| PollFd::from_borrowed_fd(s.fd, PollFlags::IN))
            .collect();
        if polled.is_empty() {
            return Ok(Stopped::Done);
        }
        polled.extend(feed.as_ref().map(|f| PollFd::new(&f.pipe, PollFlags::OUT)));
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(Stopped::Deadline);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        for (stream, ready) in streams.iter_mut().filter(|s| s.open).zip(ready) {
            if ready {
                stream.read()?;
            }
        }
    }
}
