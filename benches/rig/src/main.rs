//! The rig's parts as programs, for a driver that is none.

use std::collections::HashMap;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use rig::backends::{Backends, Spec};
use rig::draw::{Requests, Work};
use rig::link::{Conditions, Direction, End, Link};
use rig::load::{self, Plan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "\
usage: rig COMMAND [--OPTION VALUE]...

  backends  --backends NAME=IP:PORT=SPEED,... [--workers 4] [--netns FILE]
            prints `ready`; takes commands on standard input, a line each, and ends with it:
            NAMES speed X | ramp X SECONDS | stall MS | refuse | reset | silent | heal     (NAMES may end in a *)
            at its end prints the answers given by each, as JSON
  load      --targets IP:PORT,... --rates SECOND:PER_SECOND,... --seconds S [--timeout S] [--mean-ms 20] [--sigma 1]
            [--rare SHARE:MS] [--requests N | SHAPE:LEAST:MOST] [--think-ms 0] [--seed 1] [--netns FILE]
            [--spans NAME:FROM:TO,...]
            connections on a timetable; prints what they saw as JSON: the spans, and the answers of each second
  link      --near FILE,DEVICE,ADDRESS/LENGTH --far FILE,DEVICE,ADDRESS/LENGTH --delay-ms D [--jitter-ms J] [--loss P]
            [--mbit R] [--queue-kib Q]
            joins two network namespaces; prints `ready`; takes new conditions on standard input, a line each
            (`[out|back] delay-ms=D jitter-ms=J loss=P mbit=R queue-kib=Q`, what is left out is as a good line has it),
            and ends with it; at its end prints what each direction did, as JSON";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("rig: {error}\n{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("rig: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or_else(|| wrong("no command"))?;
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or_else(|| wrong(format!("unexpected `{word}`")))?;
        let value = words.next().ok_or_else(|| wrong(format!("--{name} needs a value")))?;
        options.0.insert(name.to_owned(), value);
    }
    raise_descriptor_limit();
    match command.as_str() {
        "backends" => backends(&options),
        "load" => put_load(&options),
        "link" => link(&options),
        other => Err(wrong(format!("unknown command `{other}`"))),
    }
}

#[derive(Default)]
struct Options(HashMap<String, String>);

impl Options {
    fn text(&self, name: &str) -> io::Result<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| wrong(format!("--{name} is needed")))
    }

    fn value<T: FromStr>(&self, name: &str, default: T) -> io::Result<T> {
        self.0.get(name).map_or(Ok(default), |text| parse(text))
    }

    fn netns(&self) -> Option<PathBuf> {
        self.0.get("netns").map(PathBuf::from)
    }
}

fn backends(options: &Options) -> io::Result<()> {
    let workers = options.value("workers", 4)?;
    let mut specs = Vec::new();
    for entry in options.text("backends")?.split(',') {
        let [name, address, speed] = parts(entry, '=')?;
        specs.push(Spec { name: name.into(), address: parse(address)?, workers, speed: parse(speed)? });
    }
    let backends = Backends::start(&specs, options.netns().as_deref())?;
    ready()?;
    for line in io::stdin().lock().lines() {
        match line?.parse() {
            Ok(command) => backends.command(command),
            Err(error) => return Err(wrong(error)),
        }
    }
    let names = specs.iter().map(|spec| spec.name.as_str());
    print_json(&names.zip(backends.answered()).collect::<HashMap<_, _>>())
}

fn put_load(options: &Options) -> io::Result<()> {
    let plan = plan(options)?;
    let run = || load::run(&plan);
    let outcome = match options.netns() {
        Some(file) => rig::netns::enter(&file, run)?,
        None => run()?,
    };
    let mut spans = HashMap::from([("all", outcome.summary(Duration::ZERO, Duration::MAX))]);
    for entry in options.0.get("spans").map_or("", String::as_str).split(',').filter(|entry| !entry.is_empty()) {
        let [name, from, to] = parts(entry, ':')?;
        spans.insert(name, outcome.summary(seconds(from)?, seconds(to)?));
    }
    print_json(&serde_json::json!({ "spans": spans, "seconds": outcome.seconds(plan.length) }))
}

fn plan(options: &Options) -> io::Result<Plan> {
    let targets = options.text("targets")?.split(',').map(parse::<SocketAddr>).collect::<io::Result<_>>()?;
    let mut rates = Vec::new();
    for entry in options.text("rates")?.split(',') {
        let [from, rate] = parts(entry, ':')?;
        rates.push((seconds(from)?, parse(rate)?));
    }
    let mut work = Work::log_normal(millis(options.value("mean-ms", 20.0)?), options.value("sigma", 1.0)?);
    if let Some(rare) = options.0.get("rare") {
        let [share, rare] = parts(rare, ':')?;
        (work.rare_share, work.rare) = (parse(share)?, millis(parse(rare)?));
    }
    let requests = options.value("requests", "1".to_owned())?;
    let requests = match parts(&requests, ':') {
        Ok([shape, least, most]) => Requests::Pareto { shape: parse(shape)?, least: parse(least)?, most: parse(most)? },
        Err(_) => Requests::Exactly(parse(&requests)?),
    };
    Ok(Plan {
        targets,
        rates,
        length: seconds(options.text("seconds")?)?,
        timeout: Duration::from_secs_f64(options.value("timeout", 5.0)?),
        requests,
        think: millis(options.value("think-ms", 0.0)?),
        work,
        seed: options.value("seed", 1)?,
    })
}

fn link(options: &Options) -> io::Result<()> {
    let settings = ["delay-ms", "jitter-ms", "loss", "mbit", "queue-kib"];
    let given = settings.iter().filter_map(|name| options.0.get(*name).map(|value| (*name, value.as_str())));
    let link = Link::new(&end(options.text("near")?)?, &end(options.text("far")?)?, conditions(given)?)?;
    ready()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace().peekable();
        let direction = words.next_if(|word| ["out", "back"].contains(word));
        let pairs = words.map(|word| parts(word, '=').map(|[name, value]| (name, value)));
        let conditions = conditions(pairs.collect::<io::Result<Vec<_>>>()?.into_iter())?;
        match direction {
            Some("out") => link.set(Direction::Out, conditions),
            Some(_) => link.set(Direction::Back, conditions),
            None => link.set_both(conditions),
        }
    }
    print_json(&serde_json::json!({ "out": link.counts(Direction::Out), "back": link.counts(Direction::Back) }))
}

fn end(text: &str) -> io::Result<End> {
    let [netns, device, address] = parts(text, ',')?;
    Ok(End { netns: netns.into(), device: device.into(), address: address.into() })
}

fn conditions<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> io::Result<Conditions> {
    let mut conditions = Conditions::delay(Duration::ZERO);
    for (name, value) in settings {
        match name {
            "delay-ms" => conditions.delay = millis(parse(value)?),
            "jitter-ms" => conditions.jitter = millis(parse(value)?),
            "loss" => conditions.loss = parse(value)?,
            "mbit" => conditions.bits_per_second = Some(parse::<u64>(value)? * 1_000_000),
            "queue-kib" => conditions.queue_bytes = parse::<usize>(value)? << 10,
            _ => return Err(wrong(format!("unknown setting `{name}`"))),
        }
    }
    Ok(conditions)
}

fn ready() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()
}

fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn parts<const N: usize>(text: &str, separator: char) -> io::Result<[&str; N]> {
    let parts: Vec<&str> = text.split(separator).collect();
    parts.try_into().map_err(|_| wrong(format!("`{text}` should have {N} parts between `{separator}`")))
}

fn parse<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| wrong(format!("not understood: `{text}`")))
}

fn seconds(text: &str) -> io::Result<Duration> {
    Duration::try_from_secs_f64(parse(text)?).map_err(|_| wrong(format!("not a time: `{text}`")))
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis.max(0.0) / 1000.0)
}

fn wrong(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

/// To the hard limit. Best effort: a shortage shows as counted errors later.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was, which is all that can be done about it here.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
