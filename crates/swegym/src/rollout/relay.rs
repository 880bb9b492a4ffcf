//! The relay: this program inside a sandbox, where it hands an agent's
//! connections on to the socket of its episode and watches over the agent.
//!
//! It is only a way: all that counts is decided by the proxy, outside.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// First argument that makes this program a relay.
pub const ARGUMENT: &str = "__relay";
/// Folder of the episode inside the sandbox.
pub(super) const DIR: &str = "/run/swegym/agent";
/// Socket in it.
pub(super) const SOCKET: &str = "socket";
/// File in it that ends the agent.
pub(super) const STOP: &str = "stop";
/// File in it with the task.
pub(super) const TASK: &str = "task.md";
/// How often the file that ends the agent is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Runs the relay and ends the process, if that is what it was started for:
/// `__relay SCRIPT`. To be called first of all.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return;
    }
    let script = arguments.next().unwrap_or_default();
    let code = match relay(&script) {
        Ok(code) => code,
        // Nobody else would say it.
        Err(e) => {
            let _ = io::Write::write_all(&mut io::stderr(), format!("relay: {e}\n").as_bytes());
            125
        }
    };
    std::process::exit(code);
}

fn relay(script: &std::ffi::OsStr) -> io::Result<i32> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = format!("http://{}", listener.local_addr()?);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                // A connection that breaks is the client's to notice.
                let _ = pass(connection);
            });
        }
    });
    let mut agent = Command::new("/bin/bash")
        .arg("-c")
        .arg(script)
        .env("OPENAI_BASE_URL", format!("{address}/v1"))
        .env("OPENAI_API_BASE", format!("{address}/v1"))
        .env("ANTHROPIC_BASE_URL", &address)
        .spawn()?;
    let stop = Path::new(DIR).join(STOP);
    loop {
        if let Some(status) = agent.try_wait()? {
            let signal = status.signal().map(|signal| 128 + signal);
            return Ok(status.code().or(signal).unwrap_or(1));
        }
        if stop.exists() {
            // The sandbox ends whatever it has started.
            agent.kill()?;
            return Ok(0);
        }
        thread::sleep(TICK);
    }
}

fn pass(inside: TcpStream) -> io::Result<()> {
    let outside = UnixStream::connect(Path::new(DIR).join(SOCKET))?;
    let (mut from, mut to) = (inside.try_clone()?, outside.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (outside, inside);
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = up.join();
    copied.map(|_| ())
}
