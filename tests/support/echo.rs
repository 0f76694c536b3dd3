//! The echo example as a process on a free port. Dropping it kills it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub struct Echo {
    pub address: SocketAddr,
    process: Child,
}

impl Echo {
    /// Starts it; it is built when all of the package is (`cargo test`, `cargo build --examples`).
    pub fn start(args: &[&str]) -> Echo {
        let target = Path::new(env!("CARGO_BIN_EXE_chat-svc")).parent().unwrap();
        let binary = target.join("examples/echo");
        let mut process = Command::new(&binary)
            .args(["--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("echo listens on http://");
        let address = address.and_then(|address| address.parse().ok());
        Echo {
            address: address.unwrap_or_else(|| panic!("it said {line:?}")),
            process,
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}
