"""The table and the plots of measurements made by `run`."""

from plots import bars, ranges
from servers import IN_FLIGHT

NAMES = {"chat-svc": "chat-svc", "node": "Node"}
FAULTS = ("lost", "doubled", "reordered", "unacknowledged", "cut")


def write(runs, folder, notes):
    """Writes DATE-compare.md, with notes, and its plots into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    by = {(run["on"], run["load"], run["server"]): run for run in runs}
    date = max(run["date"] for run in runs)
    plots = {name: svg for name, svg in plotted(by).items() if svg}
    paths = []
    for name, svg in plots.items():
        paths.append(folder / f"{date}-compare-{name}.svg")
        paths[-1].write_text(svg)
    paths.insert(0, folder / f"{date}-compare.md")
    paths[0].write_text(page(by, date, list(plots), notes))
    return paths


# === Plots ===


def plotted(by):
    chats = [key for key in pairs(by) if key[1] not in ("connects", "idle")]
    latencies = [key for key in chats if key[1].isdigit()]
    connects = [key for key in pairs(by) if key[1] == "connects"]
    idle = [key for key in pairs(by) if key[1] == "idle"]
    full = [key for key in chats if key[1] in IN_FLIGHT]
    per_second = lambda run: run["report"]["traffic"]["acknowledged_per_second"]
    opened = lambda run: run["report"]["connections"]["opened_per_second"]
    return {
        "cpu": bars(
            "CPU time of the server per message", "µs, user and system, until the message is stored; logarithmic; less is better",
            groups(by, chats, lambda run: run["cpu_us_per_message"]), "µs", logarithmic=True, ratio=True,
        ),
        "rate": bars(
            "What one core carries", "messages or connections a second; logarithmic; more is better",
            groups(by, full, per_second) + groups(by, connects, opened), "/s", logarithmic=True,
        ),
        "latency": ranges(
            "From chatMessage to messageSent", "ms, half of all (p50) to 99 of 100 (p99); logarithmic; less is better",
            groups(by, latencies, lambda run: tuple(run["report"]["latency_ms"]["ack"][at] for at in ("p50", "p99"))), "ms",
        ),
        "memory": bars(
            "Resident memory per idle connection", "KiB, of 5,000 websockets in their rooms; less is better",
            groups(by, idle, lambda run: run["report"]["server"]["resident_bytes_per_connection"] / 1024), "KiB",
        ),
    }


def pairs(by):
    """What both servers were measured with, in order."""
    found = {(on, load) for on, load, _ in by if all((on, load, server) in by for server in NAMES)}
    order = {"saturation": 0, "deep": 1, "connects": 1e8, "idle": 1e9}
    return sorted(found, key=lambda key: (key[0] != "services", order.get(key[1]) if key[1] in order else int(key[1])))


def groups(by, keys, value):
    return [(title(*key), [(NAMES[server], server, value(by[*key, server])) for server in NAMES]) for key in keys]


def title(on, load):
    if load in ("connects", "idle"):
        return {"connects": "connect, join, leave", "idle": "idle connections"}[load]
    what = f"100 clients, {IN_FLIGHT[load]} in flight each" if load in IN_FLIGHT else f"{int(load):,} messages/s offered"
    return f"{what}, " + ("Kafka and MongoDB protocol" if on == "services" else "no services (Node keeps nothing)")


# === Page ===


def page(by, date, plots, notes):
    some = max(by.values(), key=lambda run: run["date"])
    versions = some["versions"]
    loads = [run["load_average_before"] for run in by.values()]
    seconds = max(run["report"]["seconds"] for run in by.values())
    lines = [
        f"# {date}: chat-svc beside a plain Node service",
        "",
        f"Machine: {some['machine']}. One run of each, by `load-tests/compare/run`: {seconds:.0f} s measured, text of {some.get('text_bytes', 120)} bytes. "
        "Servers and driver on one machine, the server pinned to core 0, the driver (`load-tests/driver`) to core 1, brokers and database on both.",
        f"Node {versions['node']}, socket.io {versions['socket.io']}, kafkajs {versions['kafkajs']}, mongoose {versions['mongoose']} "
        "(`load-tests/compare/node`). CPU time is that of the server's process, from before the first connection until the last message is stored.",
        "",
        f"- Load average before the measurements: {min(loads):.1f} to {max(loads):.1f}.",
        *(f"- {note}" for note in notes),
        "",
        *(f"![{name}]({date}-compare-{name}.svg)\n" for name in plots),
    ]
    for on, heading in (("services", "Kafka and MongoDB's protocol"), ("alone", "Without services: chat-svc keeps everything (journal, synced; store), Node nothing")):
        keys = [key for key in pairs(by) if key[0] == on and key[1] not in ("connects", "idle")]
        if keys:
            lines += [f"## {heading}", "", *chat_table(by, keys), ""]
    keys = [key for key in pairs(by) if key[1] in ("connects", "idle")]
    if keys:
        lines += ["## Connections", "", *connection_table(by, keys), ""]
    return "\n".join(lines)


def chat_table(by, keys):
    yield "| load | server | acknowledged/s | CPU each | ratio | messageSent p50 / p99 | newMessage p50 / p99 | counted |"
    yield "|---|---|---|---|---|---|---|---|"
    for on, load in keys:
        for server in NAMES:
            run = by[on, load, server]
            traffic, latency = run["report"]["traffic"], run["report"]["latency_ms"]
            times = [f"{number(latency[at]['p50'])} / {number(latency[at]['p99'])} ms" for at in ("ack", "delivery")]
            ratio = run["cpu_us_per_message"] / by[on, load, "chat-svc"]["cpu_us_per_message"]
            load_name = f"{IN_FLIGHT[load]} in flight a client" if load in IN_FLIGHT else f"{int(load):,}/s offered"
            yield (
                f"| {load_name} | {NAMES[server]} | {traffic['acknowledged_per_second']:,.0f} | {number(run['cpu_us_per_message'])} µs | "
                f"{'1' if server == 'chat-svc' else f'{ratio:.1f}'} | {times[0]} | {times[1]} | {counted(traffic)} |"
            )


def connection_table(by, keys):
    yield "| load | server | figure | ratio |"
    yield "|---|---|---|---|"
    for on, load in keys:
        for server in NAMES:
            report = by[on, load, server]["report"]
            value = cost(report)
            ratio = value / cost(by[on, load, "chat-svc"]["report"])
            figure = f"{value / 1024:.1f} KiB each"
            if load == "connects":
                figure = f"{report['connections']['opened_per_second']:,.0f}/s, {value:.0f} µs of CPU each"
            yield f"| {title(on, load)} | {NAMES[server]} | {figure} | {'1' if server == 'chat-svc' else f'{ratio:.1f}'} |"


def cost(report):
    server = report["server"]
    return server["resident_bytes_per_connection"] if report["mode"] == "idle" else server["cpu_us_per_unit"]


def counted(traffic):
    """What went wrong, in words."""
    found = [f"{traffic[fault]:,} {fault}" for fault in FAULTS if traffic[fault]]
    refused = sum(traffic.get("refused", {}).values())
    if refused:
        found.append(f"{refused:,} refused")
    if traffic.get("given_up"):
        found.append(f"{traffic['given_up']:,} given up")
    if traffic["unsent"]:
        found.append(f"{traffic['unsent']:,} not sent in time")
    return f"{', '.join(found)} of {traffic['sent']:,}" if found else "nothing"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
