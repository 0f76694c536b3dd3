"""Servers under load, each pinned to core 0, and the driver, on core 1: what `run` and `targets` share."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
STARTED_WITHIN = 60
# Of each of 100 clients, in closed loops. On Kafka with 8 the brokers are waited for, not the server.
IN_FLIGHT = {"saturation": 8, "deep": 64}


class Server:
    """A process that listens, with its address and, of chat-svc, that of its admin listener."""

    def __init__(self, name, command, ready, folder, env):
        self.name, self.log = name, pathlib.Path(folder) / "log"
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        own |= {"PORT": "0", "NODE_ENV": "production"} | env
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["taskset", "-c", "0", *command], env=own, cwd=folder, stdout=log, stderr=log)
        self.pid = self.process.pid
        found = self.await_line(ready)
        self.url = f"ws://127.0.0.1:{found['port']}"
        self.admin = f"127.0.0.1:{found['admin']}" if "admin" in found.groupdict() else None

    def await_line(self, pattern):
        deadline = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(pattern, self.said()):
                return found
            time.sleep(0.1)
        self.stop()
        sys.exit(f"compare: {self.name} did not start:\n{self.said()}")

    def said(self):
        return self.log.read_text(errors="replace")

    def cpu(self):
        """Seconds, user and system."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def chat_svc(binary, folder, env=None):
    ready = r"chat +http://[^\s:]+:(?P<port>\d+)[\s\S]*admin +http://[^\s:]+:(?P<admin>\d+)"
    own = {"HOST": "127.0.0.1", "ADMIN_ADDR": "127.0.0.1:0", "DATA_DIR": f"{folder}/data", "UPLOAD_PATH": f"{folder}/uploads"}
    return Server("chat-svc", [binary], ready, folder, own | (env or {}))


def relay(name, command, folder, env=None):
    """One that says `listens on PORT`."""
    return Server(name, command, r"listens on (?P<port>\d+)", folder, env or {})


def driven(server, driver, flags, folder):
    """The driver's report."""
    out = pathlib.Path(folder) / "report.json"
    command = ["taskset", "-c", "1", driver, "--url", server.url, "--pid", str(server.pid), "--json", out, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not out.exists():
        sys.exit(f"compare: the driver failed: {done.stderr}\n{server.said()}")
    return json.loads(out.read_text())


# === Around them ===


def install(folder):
    """npm's packages of `folder`, unless they are there; whether they are now."""
    lock, made = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if made.exists() and made.stat().st_mtime >= lock.stat().st_mtime:
        return True
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder)
    if done.returncode == 0:
        made.touch()
    return done.returncode == 0


def stop_at_signals():
    """So that what was started is stopped."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False).stdout.strip()


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{os.cpu_count()} × {cpu[1] if cpu else os.uname().machine}, {memory} GiB, Linux {os.uname().release}"


def node_versions():
    return {"node": output("node", "--version")} | json.loads((HERE / "node" / "package.json").read_text())["dependencies"]


def faults(traffic):
    """What the driver counted that should not be, without zeros."""
    names = ("lost", "doubled", "reordered", "unacknowledged", "given_up", "unsent", "cut")
    return {name: traffic[name] for name in names if traffic.get(name)}
