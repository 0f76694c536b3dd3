//! The binary: settings, start, a few lines of what runs where, wait for a signal, stop, exit code.
//!
//! Exit codes: 0 stopped in order; 1 could not start; 2 bad usage; 3 stopped, but not everything in time; 4 stopped
//! because a part could not go on.

use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use chat_svc::app::{App, DrainReport};
use chat_svc::config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The working folder's own file only: what lies in a folder above was not meant for this service.
    let from_file = dotenvy::from_path(".env");
    let config = Config::from_command_line();
    if let Err(sentence) = start_log(&config) {
        return fail(&sentence);
    }
    match from_file {
        Err(error) if !error.not_found() => return fail(&format!(".env cannot be read: {error}")),
        Ok(_) | Err(_) => {}
    }
    if let Err(sentence) = config.check() {
        return fail(&sentence);
    }
    raise_descriptor_limit();
    small_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers())
        .thread_name("worker")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}")),
    };
    let code = runtime.block_on(run(config));
    // What still runs on a blocking thread had its time in the drain.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn run(config: Config) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen for signals: {error}")),
    };
    let app = match App::start(config.clone()).await {
        Ok(app) => app,
        Err(error) => return fail(&error.to_string()),
    };
    print!("{}", banner(&config, &app));
    let (stop, stopped) = oneshot::channel::<()>();
    let mut served = pin!(app.run(async {
        let _stop_or_gone = stopped.await;
    }));
    let ended = tokio::select! {
        report = &mut served => Some(report),
        () = signals.next() => None,
    };
    drop(stop);
    let report = match ended {
        Some(report) => report,
        None => tokio::select! {
            report = served => report,
            () = signals.next() => return fail("a second signal: ending at once"),
        },
    };
    let DrainReport {
        failure,
        tasks_left,
        is_clean,
        took,
    } = report;
    tracing::info!(
        tasks_left,
        is_clean,
        took_ms = took.as_millis() as u64,
        "stopped"
    );
    if let Some(sentence) = failure {
        fail(&sentence);
        ExitCode::from(4)
    } else if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What runs on what, and where: the few lines that one looks for after a start.
fn banner(config: &Config, app: &App) -> String {
    let local = |address: std::net::SocketAddr| match address.ip().is_unspecified() {
        true => format!("http://localhost:{}", address.port()),
        false => format!("http://{address}"),
    };
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let limits = &config.limits;
    format!(
        "chat-svc {version}\n\
         \x20 chat     {chat}   page, Socket.IO at {path}, REST at /api/chat\n\
         \x20 admin    {admin}   /metrics, /health/ready, /quote-events\n\
         \x20 log      {log}, epoch {epoch}\n\
         \x20 letters  dead ones in {letters}\n\
         \x20 store    {store}\n\
         \x20 uploads  {uploads}, files up to {upload} MiB\n\
         \x20 limits   {connections} connections, {outbox} KiB waiting a socket, {payload} bytes a message; \
         all full: {ceiling} MiB\n",
        version = env!("CARGO_PKG_VERSION"),
        chat = local(app.address),
        path = config.engine.socket_path,
        admin = local(app.admin_address),
        log = app.told.log,
        letters = app.told.letters,
        store = app.told.store,
        epoch = config.journal.log_epoch,
        uploads = config
            .upload_url
            .as_deref()
            .unwrap_or(&config.upload_path.to_string_lossy()),
        upload = megabytes(limits.upload_bytes_max),
        connections = limits.connections_max,
        outbox = limits.outbox_bytes_max >> 10,
        payload = config.engine.payload_bytes_max,
        ceiling = megabytes(config.memory_bytes_max()),
    )
}

/// Begins to log to standard error. Fails when LOG_LEVEL cannot be read.
fn start_log(config: &Config) -> Result<(), String> {
    // The storage engine tells of every step at `info`.
    let filter = EnvFilter::try_new(format!("fjall=warn,lsm_tree=warn,{}", config.log_level));
    let filter = filter.map_err(|error| format!("LOG_LEVEL: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if config.log_json {
        log.json().init()
    } else {
        log.with_target(false).init()
    }
    Ok(())
}

/// What a connection keeps is small and scattered: in huge pages an idle websocket would cost twice the memory.
fn small_pages() {
    // A kernel without them has nothing to turn off.
    let _unsupported = rustix::thread::disable_transparent_huge_pages(true);
}

/// One connection needs one descriptor; the usual soft limit of 1,024 is far below what the service carries.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        tracing::warn!(%error, "the limit of open files was not raised");
    }
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("chat-svc: {sentence}");
    ExitCode::from(1)
}
