//! A load driver for rates that scripting tools cannot reach: Socket.IO over raw websockets, parsed by hand, one task a
//! client, few allocations, so that its own CPU stays far below the server's. It counts as well as it measures: every
//! message is numbered, so lost, doubled and reordered ones are known, not guessed.

#![allow(
    clippy::unwrap_used,
    reason = "a tool at the terminal: it stops with a message"
)]

mod archive;
mod client;
mod connect;
mod idle;
mod options;
mod pacer;
mod process;
mod report;
mod script;
mod stamp;
mod traffic;
mod underway;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use options::{Mode, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()
        .expect("a runtime");
    let report = runtime.block_on(async {
        options.check()?;
        match options.mode {
            Mode::Chat | Mode::Typing | Mode::Rooms => traffic::run(&options).await,
            Mode::Idle => idle::run(&options).await,
            Mode::Connect => connect::run(&options).await,
            Mode::Steps | Mode::Burst => script::run(&options).await,
        }
    });
    match report {
        Ok(report) => {
            report.print();
            if let Some(path) = &options.json {
                let json = serde_json::to_vec_pretty(&report).expect("a report is JSON");
                std::fs::write(path, json).expect("writing the report");
            }
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
    }
}
