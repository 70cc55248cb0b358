//! The command line: what can be asked for, and how it is answered.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

use std::io::{ErrorKind, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::ask::{self, Question};
use crate::config::{self, AdminAddress, Config, Report, limits};
use crate::explain;

/// A layer-4 load balancer that finds its backends by itself and puts every client on the one that will answer soonest.
#[derive(Debug, Parser)]
#[command(name = "dislocate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What dislocate can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve, in the foreground
    Run(ConfigArgs),
    /// Check a configuration and list everything that is wrong with it
    Check(CheckArgs),
    /// Say which backend a running dislocate would pick now, and why
    Explain(ExplainArgs),
    /// Tell a running dislocate that the sources of a service are right: backends that none of them names leave now
    AcceptEmpty(AcceptEmptyArgs),
    /// Show dislocate at work on this machine, without configuration
    Demo(DemoArgs),
    /// Print what a configuration may contain
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell
    Completions {
        /// The shell to complete for
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Which configuration is meant.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(short, long = "config", value_name = "FILE", default_value = limits::FILE)]
    pub config: PathBuf,
}

/// How to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which file.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// Print the problems as a JSON list, for editors and scripts
    #[arg(long)]
    pub json: bool,
}

/// What to explain, and whom to ask.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The listener at which the client arrives
    pub listener: String,
    /// The client's address, which decides under source_hash and maglev
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Whom to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Print the answer as JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// Which service, and whom to tell.
#[derive(Debug, Args)]
pub struct AcceptEmptyArgs {
    /// The service
    pub service: String,
    /// Whom to tell.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Which running program is meant.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The configuration, which says where the admin listener is.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// The admin listener to ask, as IP:PORT or unix:/PATH, without reading a configuration
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub admin: Option<AdminAddress>,
}

impl AdminArgs {
    /// Where its admin listener is.
    ///
    /// *Errors*: the exit code for a configuration that cannot be used.
    fn address(&self) -> Result<AdminAddress, ExitCode> {
        match &self.admin {
            Some(admin) => Ok(admin.clone()),
            None => load(&self.file.config).map(|config| config.admin.listen),
        }
    }
}

/// How to show.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run for half a minute, print a verdict, and exit with 0 or 1
    #[arg(long)]
    pub script: bool,
    /// Leave the configuration that it runs in this directory; without --script, do only that
    #[arg(long, value_name = "DIR")]
    pub write_config: Option<PathBuf>,
}

/// What to print about configurations.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The JSON Schema, for completion in editors
    Schema,
    /// A file with every key at its default, explained
    Default,
}

/// Does what was asked, and says how it went.
pub fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => crate::run::run(&args.config),
        Command::Check(args) => check(&args),
        Command::Explain(args) => explain_pick(&args),
        Command::AcceptEmpty(args) => accept_empty(&args),
        Command::Demo(args) => crate::demo::demo(&args),
        Command::Config(ConfigCommand::Schema) => print(&format!("{:#}\n", config::schema())),
        Command::Config(ConfigCommand::Default) => print(config::DEFAULT),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dislocate", &mut script);
            print_bytes(&script)
        }
        Command::Man => manual(),
    }
}

/// Reads a configuration for a command that needs one. Problems go to standard error; warnings are the caller's.
///
/// *Errors*: the exit code for a configuration that cannot be used.
pub fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path).map_err(|report| {
        refuse(&report);
        ExitCode::from(USAGE)
    })
}

/// Says on standard error why a command failed.
pub fn fail(why: &str) -> ExitCode {
    eprintln!("dislocate: {why}");
    ExitCode::FAILURE
}

fn explain_pick(args: &ExplainArgs) -> ExitCode {
    let admin = match args.admin.address() {
        Ok(admin) => admin,
        Err(code) => return code,
    };
    let question = Question { listener: &args.listener, source: args.source };
    match ask::explanation(&admin, &question) {
        Ok((json, _)) if args.json => print(&format!("{json}\n")),
        Ok((_, told)) => print(&explain::table(&told)),
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn accept_empty(args: &AcceptEmptyArgs) -> ExitCode {
    let told = match args.admin.address() {
        Ok(admin) => ask::accept_empty(&admin, &args.service),
        Err(code) => return code,
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    let checked = config::load(&args.file.config);
    let code = if checked.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
    let report = checked.as_ref().map_or_else(|report| report, |config| &config.warnings);
    let printed = match (&checked, args.json) {
        (_, true) => print(&format!("{:#}\n", report.json())),
        (Ok(config), false) => {
            tell(report);
            print(&summary(&args.file.config, config))
        }
        (Err(report), false) => {
            refuse(report);
            ExitCode::SUCCESS
        }
    };
    if printed == ExitCode::SUCCESS { code } else { printed }
}

fn summary(path: &Path, config: &Config) -> String {
    let backends = config.services.iter().map(|service| service.backends.len()).sum();
    let counts = [
        (config.listeners.len(), "listener"),
        (config.services.len(), "service"),
        (backends, "backend"),
        (config.warnings.problems().len() + config.warnings.omitted(), "warning"),
    ];
    let counts = counts.map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }));
    format!("{}: ok, {}\n", path.display(), counts.join(", "))
}

fn refuse(report: &Report) {
    tell(report);
    let total = report.problems().len() + report.omitted();
    eprintln!("{} is refused: {total} problem{}", report.file(), if total == 1 { "" } else { "s" });
}

fn tell(report: &Report) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Where standard error is closed there is nobody to tell; the exit code still says it.
    let _ = std::io::stderr().write_all(report.render(colours).as_bytes());
}

/// One page for the program and all its commands, since that is what `dislocate man | man -l -` shows.
fn manual() -> ExitCode {
    let mut page = Vec::new();
    match write_manual(&mut page) {
        Ok(()) => print_bytes(&page),
        Err(error) => fail(&format!("cannot write the manual page: {error}")),
    }
}

fn write_manual(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let man = Man::new(program.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    let (groups, commands): (Vec<_>, Vec<_>) =
        program.get_subcommands().cloned().partition(clap::Command::has_subcommands);
    let nested = groups.iter().flat_map(clap::Command::get_subcommands).cloned();
    for command in commands.into_iter().chain(nested) {
        let heading = command.get_bin_name().unwrap_or_default().to_owned();
        writeln!(page, ".SH {}", heading.to_uppercase())?;
        let mut section = Vec::new();
        let man = Man::new(command);
        man.render_synopsis_section(&mut section)?;
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        // The same headings as a page of its own would have, one level deeper.
        page.extend(String::from_utf8_lossy(&section).replace(".SH ", ".SS ").into_bytes());
    }
    man.render_version_section(page)
}

fn print(text: &str) -> ExitCode {
    print_bytes(text.as_bytes())
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no failure.
fn print_bytes(bytes: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(&format!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The exit code for wrong usage and wrong configuration, the one that clap uses too.
const USAGE: u8 = 2;
