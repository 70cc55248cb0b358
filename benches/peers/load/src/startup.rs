//! From starting a proxy to the first byte that came back through it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::{Args, wrong};

/// Spawns the command that follows `--`, tries until a byte comes back, prints how long that took, stops the command.
pub fn run(args: &Args) -> io::Result<()> {
    let target: SocketAddr = args.need("target")?;
    let timeout = args.seconds("timeout")?;
    let (program, arguments) = args.rest.split_first().ok_or_else(|| wrong("no command after `--`"))?;
    let start = Instant::now();
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let first_byte = loop {
        if echo(target).is_ok() {
            break Some(start.elapsed());
        }
        if start.elapsed() > timeout || child.try_wait()?.is_some() {
            break None;
        }
        std::thread::sleep(PAUSE);
    };
    if child.try_wait()?.is_none() {
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        child.wait()?;
    }
    match first_byte {
        Some(elapsed) => println!("{{\"startup_ms\":{:.3},\"errors\":0}}", elapsed.as_secs_f64() * 1e3),
        None => println!("{{\"startup_ms\":0,\"errors\":1}}"),
    }
    Ok(())
}

fn echo(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// Between two tries. A refused connection costs some 10 us, so this takes little from the proxy that is starting.
const PAUSE: Duration = Duration::from_micros(200);
