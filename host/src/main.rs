//! The `streamgate` binary: flags, run, print one error, exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use streamgate::{
    cli::{self, Cli, Command},
    config::{Config, SeedEnvironment, Settings},
    server, shutdown, telemetry, wasm,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::error;

// Batches are allocated on one thread and freed on another, which it is made for.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Threads that serve sockets, for each processor: the other half of them run rules.
const IO_THREADS_DIVISOR: usize = 2;

/// Clean drain: all is sent, or safe in a spool.
const SUCCESS: u8 = 0;
/// Events were left behind, or something failed at run time.
const FAILURE: u8 = 1;
/// Bad usage or config, as clap has it too, or a start that was refused.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // A panic of this thread has told its reason; 101 would be a code of its own.
    std::panic::catch_unwind(run).unwrap_or(ExitCode::from(FAILURE))
}

fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve(cli.settings),
        Some(Command::Serve(settings)) => serve(*settings),
        Some(Command::Apply(args)) => {
            cli::manifest::apply(&args).unwrap_or_else(|error| fail(USAGE, &error))
        }
        Some(Command::Diff(args)) => {
            cli::manifest::diff(&args).unwrap_or_else(|error| fail(USAGE, &error))
        }
        Some(Command::Status(args)) => {
            cli::manifest::status(&args).unwrap_or_else(|error| fail(USAGE, &error))
        }
        Some(Command::Token(command)) => {
            cli::token::run(command).unwrap_or_else(|error| fail(USAGE, &error))
        }
        Some(Command::Module(command)) => match telemetry::init() {
            Ok(()) => cli::module::run(command).unwrap_or_else(|error| fail(FAILURE, &error)),
            Err(error) => fail(FAILURE, &error),
        },
        Some(Command::CompileModule {
            cpu_seconds,
            address_space,
        }) => match wasm::child(cpu_seconds, address_space) {
            Ok(()) => ExitCode::from(SUCCESS),
            Err(error) => fail(FAILURE, &error),
        },
    }
}

fn serve(settings: Settings) -> ExitCode {
    let config = match Config::load(settings, SeedEnvironment::read()) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    if let Err(error) = telemetry::init() {
        return fail(FAILURE, &error);
    }
    cli::environment::warn_of_unknown();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / IO_THREADS_DIVISOR).max(1))
        .thread_name("io")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, &error),
    };
    let ended = runtime.block_on(async {
        let (trigger, end) = shutdown::channel();
        let (terminate, interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        // A limit on the size of files (`LimitFSIZE=` of systemd) is an error of that write, like a
        // full disk, and not the end of the process.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        let _ignored = ignore_signals()?;
        tokio::spawn(end_on_signals(terminate, interrupt, trigger));
        tokio::spawn(server::run(config, end))
            .await
            .unwrap_or_else(|error| Err(server::ServerError::Io(std::io::Error::other(error))))
    });
    // An output that hangs in a write must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => {
            telemetry::finish(None);
            ExitCode::from(SUCCESS)
        }
        Err(error) => fail(if error.is_refusal() { USAGE } else { FAILURE }, &error),
    }
}

/// Signals that would end the process without a drain, and that process managers, log rotation and
/// users send by mistake, do nothing, as long as what is returned is kept.
fn ignore_signals() -> std::io::Result<[Signal; 4]> {
    Ok([
        signal(SignalKind::hangup())?,
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::alarm())?,
    ])
}

/// The first signal begins the drain, the second ends the process at once.
async fn end_on_signals(mut terminate: Signal, mut interrupt: Signal, trigger: shutdown::Trigger) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    trigger.begin();
    next().await;
    error!("second signal: ending at once");
    telemetry::finish(None);
    std::process::exit(i32::from(FAILURE));
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let text = error.to_string();
    // One sentence on one line, whatever a message from elsewhere holds.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    telemetry::finish(Some(&format!("streamgate: {text}")));
    ExitCode::from(code)
}
