//! Load and backends for measuring layer-4 proxies on one machine.
//!
//! Each command is one process: a backend (`serve`) or a client. Clients print one line of JSON and nothing else, so the
//! driver never parses prose. Everything runs on readiness events in one or two threads, because on a small machine the
//! generator shares the cores with the proxy it measures: its own cost has to be small, and the same for every proxy.

mod args;
mod bulk;
mod idle;
mod net;
mod on_the_way;
mod outcome;
mod requests;
mod serve;
mod short;
mod startup;
mod udp;
mod udp_exchange;
mod udp_flows;
mod udp_serve;

use std::io;
use std::process::ExitCode;

use crate::args::Args;

const USAGE: &str = "\
usage: load COMMAND [--OPTION VALUE]...

  serve     --kind echo|sink|source --addresses A,B,... [--threads 1]
            backends; prints `ready`, runs until its standard input closes, prints the connections accepted per address
  bulk      --targets A,B,... --direction down|up --streams N --seconds S [--threads 1]
  requests  --targets A,B,... --connections N --seconds S [--rate R] [--count N] [--threads 1]
            64 bytes there and back; without a rate every connection sends as soon as it has its answer
  short     --targets A,B,... --sources IP,... --concurrency N --seconds S [--rate R] [--count N]
            connect, 64 bytes there, 64 back, close
  idle      --targets A,B,... --sources IP,... --connections N
            one exchange on each, then holds them until its standard input closes
  startup   --target A --timeout S -- COMMAND [ARGUMENT]...
            from spawning the command to the first byte echoed through it

  udp-serve     --addresses A,B,... [--segment BYTES]
                an echo; with a segment size trains of such segments come and go whole (GRO and GSO)
  udp-exchange  --targets A,B,... --flows N --bytes B --seconds S (--window W | --rate R) [--segments 1] [--count N]
                datagrams there and back: on every flow W messages on the way, or R messages a second over all flows; a
                message is a train of so many segments
  udp-flows     --targets A,B,... --concurrency N --seconds S [--count N] [--hold yes]
                one datagram there and back from ever new sources; holds the flows until its standard input closes";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("load: {error}\n{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let (command, args) = Args::parse(std::env::args().skip(1))?;
    net::raise_descriptor_limit();
    match command.as_str() {
        "serve" => serve::run(&args),
        "bulk" => bulk::run(&args),
        "requests" => requests::run(&args),
        "short" => short::run(&args),
        "idle" => idle::run(&args),
        "startup" => startup::run(&args),
        "udp-serve" => udp_serve::run(&args),
        "udp-exchange" => udp_exchange::run(&args),
        "udp-flows" => udp_flows::run(&args),
        other => Err(args::wrong(format!("unknown command `{other}`"))),
    }
}
