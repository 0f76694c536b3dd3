"""The rows of `targets`, their table and their plot."""

import statistics
from dataclasses import dataclass

from plots import bars
from report import counted, number

# In the order of the columns.
SERVERS = {
    "chat-svc": "chat-svc",
    "socketioxide-relay": "socketioxide",
    "bare-relay": "bare relay",
    "node": "Node",
    "bun": "Bun",
}
# From here on the driver is what limits the server.
DRIVER_FULL = 0.93


@dataclass
class Row:
    title: str
    flags: list
    unit: str = "µs"
    # chat-svc: until the last message is stored, too.
    stored: bool = False
    # Of what socketioxide needs, at most.
    asked: float | None = None

    @property
    def mode(self):
        return self.flags[self.flags.index("--mode") + 1] if "--mode" in self.flags else "chat"


ROWS = {
    "full": Row("100 clients, 8 messages in flight each", ["--clients", "100", "--in-flight", "8"], stored=True, asked=0.85),
    "full-1000": Row("1,000 clients, 8 in flight each", ["--clients", "1000", "--in-flight", "8"], stored=True, asked=0.85),
    "lone-1000": Row("1,000 clients, 1 in flight each", ["--clients", "1000", "--in-flight", "1"], stored=True, asked=0.78),
    "rate-8000": Row("8,000 messages/s offered, 1,000 clients", ["--clients", "1000", "--rate", "8000"], asked=0.98),
    "flood": Row("20 clients, 200 messages/s, beside a pair with 256 in flight each", ["--clients", "20", "--rate", "200", "--flood", "256"]),
    "rate-1000": Row("1,000 messages/s offered, 100 clients", ["--clients", "100", "--rate", "1000"]),
    "typing": Row("typing, 100 clients, 8 signals in flight each", ["--mode", "typing", "--clients", "100", "--in-flight", "8"], asked=0.31),
    "rooms": Row(
        "rooms of 50, 200 clients, a message under way for each: per delivery",
        ["--mode", "rooms", "--clients", "200", "--room", "50", "--in-flight", "50"],
        stored=True,
    ),
    "connect": Row("connect, join, leave, 50 at a time", ["--mode", "connect", "--clients", "50"], asked=0.74),
    "idle": Row("5,000 idle connections: memory each", ["--mode", "idle", "--clients", "5000"], unit="bytes", asked=0.10),
}

# Rows whose latency is told, and at what.
LATENCY = {"rate-8000": "8,000 messages/s", "flood": "20 quiet clients beside a flood"}


def cost(run):
    """What the server spent on one message, delivery, signal or connection, in the row's unit."""
    server = run["report"]["server"]
    return server["resident_bytes_per_connection"] if run["report"]["mode"] == "idle" else server["cpu_us_per_unit"]


def per_second(run):
    report = run["report"]
    return report["traffic"]["delivered_per_second"] if report.get("traffic") else report["connections"]["opened_per_second"]


def figure(row, run):
    said = f"{number(cost(run))} {ROWS[row].unit}"
    return said if row == "idle" else f"{said}, {number(per_second(run))}/s"


# === Page ===


def write(runs, folder, notes):
    """Writes DATE-targets.md and DATE-targets.svg into `folder`; their paths."""
    by = {(run["row"], run["server"]): run for run in runs}
    rows = [row for row in ROWS if any((row, server) in by for server in SERVERS)]
    servers = [server for server in SERVERS if any((row, server) in by for row in rows)]
    date = max(run["at"] for run in runs)[:10]
    folder.mkdir(parents=True, exist_ok=True)
    plot = plotted(by, rows, servers)
    paths = [folder / f"{date}-targets.md"]
    if plot:
        paths.append(folder / f"{date}-targets.svg")
        paths[1].write_text(plot)
    paths[0].write_text(page(by, rows, servers, date, bool(plot), notes))
    return paths


def plotted(by, rows, servers):
    groups = [
        (ROWS[row].title, [(SERVERS[server], server, cost(by[row, server])) for server in servers if (row, server) in by])
        for row in rows
        if row != "idle"
    ]
    what = "µs of the server, user and system, per message, delivery, signal or connection; logarithmic; less is better"
    return bars("CPU time for one", what, groups, "µs", logarithmic=True, ratio=True)


def page(by, rows, servers, date, plot, notes):
    last = max(by.values(), key=lambda run: run["at"])
    loads = [run["load_average_before"] for run in by.values()]
    seconds = sorted({round(run["report"]["seconds"]) for run in by.values() if run["report"]["mode"] != "idle"})
    versions = {name: version for run in by.values() for name, version in run["versions"].items()}
    commits = sorted({run["commit"] for run in by.values()})
    lines = [
        f"# {date}: chat-svc beside servers that keep nothing",
        "",
        f"Machine: {last['machine']}. Commit {' and '.join(commits)}; {', '.join(f'{name} {versions[name]}' for name in sorted(versions))}. "
        f"By `load-tests/compare/targets`: {rounds(by)}, {' or '.join(map(str, seconds or [3]))} s measured each time, from {min(run['at'] for run in by.values())} "
        f"to {last['at'][11:]}, load average before {min(loads):.1f} to {max(loads):.1f}.",
        "Each server just started, on core 0 with one worker thread, the driver on core 1. chat-svc syncs every message to its journal and "
        "stores it; the others keep nothing.",
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
        *([f"![CPU time]({date}-targets.svg)", ""] if plot else []),
        "## What one costs",
        "",
        *cost_table(by, rows, servers),
        "",
        "CPU time is the server's process, user and system. In brackets: the same until the last message is stored. Of several rounds the server's "
        "middle one is shown, and of the ratios, each of one round, the middle one with the least and the most. Asked: the targets that the project "
        "set itself, which were taken on another machine, as a ratio.",
        "",
        "## How many a second",
        "",
        *rate_table(by, rows, servers),
        "",
        "Deliveries, signals or handshakes. †: the driver's core was full, the server could carry more.",
    ]
    if any(row in LATENCY for row in rows):
        lines += ["", "## Latency", "", *latency_table(by, servers), "", *machine_alone(by)]
    if found := list(faulty(by, rows, servers)):
        lines += ["", "## Counted", "", *found]
    return "\n".join([*lines, ""])


def cost_table(by, rows, servers):
    yield head(["", *(SERVERS[server] for server in servers), "chat-svc ÷ socketioxide", "asked", "chat-svc ÷ bare relay"])
    for row in rows:
        cells = [priced(row, by.get((row, server))) for server in servers]
        asked = f"{ROWS[row].asked:.2f}" if ROWS[row].asked else ""
        of_peer, of_bare = (paired(by, row, to) for to in ("socketioxide-relay", "bare-relay"))
        yield line([ROWS[row].title, *cells, of_peer, asked, of_bare])


def rate_table(by, rows, servers):
    yield head(["", *(SERVERS[server] for server in servers), "chat-svc ÷ socketioxide", "chat-svc ÷ bare relay"])
    for row in rows:
        if row in ("idle", "flood") or row.startswith("rate-"):
            continue
        cells = [rated(by.get((row, server))) for server in servers]
        title = "handshakes, 50 at a time" if row == "connect" else ROWS[row].title
        yield line([title, *cells, *(ratio(by, row, to, per_second) for to in ("socketioxide-relay", "bare-relay"))])


def latency_table(by, servers):
    yield head(["ms, p50 / p99 of the middle round (p99 of all)", *(SERVERS[server] for server in servers)])
    for row, at in LATENCY.items():
        for name, event in (("ack", "messageSent"), ("delivery", "newMessage")):
            if any((row, server) in by for server in servers):
                yield line([f"{at}: {event}", *(late(by.get((row, server)), name) for server in servers)])


def late(run, name):
    """The middle round's, by its p99, and between which p99 lay."""
    report = (run or {}).get("report", {})
    found = [latency[name] for latency in (run or {}).get("latencies", [report.get("latency_ms")]) if latency]
    if not found:
        return ""
    found.sort(key=lambda of: of["p99"])
    of = found[(len(found) - 1) // 2]
    lay = f" ({number(found[0]['p99'])} to {number(found[-1]['p99'])})" if len(found) > 1 else ""
    return f"{number(of['p50'])} / {number(of['p99'])}{lay}"


def machine_alone(by):
    """How quiet the machine was, and what a sync takes."""
    found = [alone for run in by.values() for alone in run.get("alone", [])]
    if not found:
        return
    shares, longest = ([alone["core"][name] for alone in found] for name in ("share", "longest"))
    p50, p99 = ([alone["sync"][name] for alone in found] for name in ("p50", "p99"))
    yield (
        "The machine alone, before each round, with no server and no driver: from a program that only looks at the clock the server's core was "
        f"taken away for {min(shares):.1%} to {max(shares):.1%} of the time, by {number(max(longest))} ms at the longest. "
        f"4 KiB written over and synced take the disk {number(min(p50))} to {number(max(p50))} ms at p50, {number(min(p99))} to "
        f"{number(max(p99))} ms at p99. Both are in the latencies above, the sync in chat-svc's only."
    )


def priced(row, run):
    if not run:
        return ""
    stored = run["report"].get("stored")
    per = run["report"]["traffic"]["delivered"] / run["report"]["traffic"]["acknowledged"] if stored else 1
    more = f" ({number(stored['cpu_us_per_message'] / per)})" if stored else ""
    return f"{number(cost(run))}{more} {ROWS[row].unit}"


def rated(run):
    if not run:
        return ""
    return number(per_second(run)) + (" †" if run["report"]["driver_cores"] > DRIVER_FULL else "")


def ratio(by, row, to, value):
    ours, theirs = by.get((row, "chat-svc")), by.get((row, to))
    return f"{value(ours) / value(theirs):.2f}" if ours and theirs and value(theirs) else ""


def paired(by, row, to):
    """The middle of the ratios that each round gave, and between which they lie."""
    ours, theirs = ((by.get((row, server)) or {}).get("costs", []) for server in ("chat-svc", to))
    if len(ours) != len(theirs) or len(ours) < 2:
        return ratio(by, row, to, cost)
    ratios = [our / their for our, their in zip(ours, theirs) if their]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def rounds(by):
    most = max(len(run.get("costs", [0])) for run in by.values())
    return "one run of each" if most == 1 else f"{most} rounds, in each of them every server once, in turn"


def faulty(by, rows, servers):
    for row in rows:
        for server in servers:
            report = by[row, server]["report"] if (row, server) in by else {}
            if traffic := report.get("traffic"):
                for what, counts in (("", traffic), (", the flood", report.get("flood"))):
                    if counts and (said := counted(counts)) != "nothing":
                        yield f"- {ROWS[row].title}, {SERVERS[server]}{what}: {said}"
            elif report and report["connections"]["failed"]:
                yield f"- {ROWS[row].title}, {SERVERS[server]}: {report['connections']['failed']:,} failed"


def head(cells):
    return line(cells) + "\n" + line(["---"] * len(cells))


def line(cells):
    return f"| {' | '.join(cells)} |"
