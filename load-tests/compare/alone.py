"""What a machine does to latencies by itself: nothing else runs while this is measured."""

import os
import statistics
import tempfile
import time

CORE_SECONDS = 3
# Shorter interruptions are the kernel's own: its clock's ticks, its interrupts.
TAKEN_AWAY_MS = 0.5
SYNCS = 1_000
SYNC_BYTES = 4_096


def alone(folder):
    """For how long the server's core was taken away from a program that only looks at the clock, and how long a sync takes of the
    disk that `folder` is on. Milliseconds."""
    return {"core": core(), "sync": syncs(folder)}


def core():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    try:
        gaps = []
        begun = last = time.perf_counter()
        while last - begun < CORE_SECONDS:
            now = time.perf_counter()
            if now - last > TAKEN_AWAY_MS / 1e3:
                gaps.append((now - last) * 1e3)
            last = now
    finally:
        os.sched_setaffinity(0, allowed)
    return {"share": sum(gaps) / 1e3 / CORE_SECONDS, "longest": max(gaps, default=0)}


def syncs(folder):
    """Of small writes over what is there, so that no length has to be made durable."""
    bytes, took = os.urandom(SYNC_BYTES), []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(b"\0" * SYNC_BYTES * SYNCS)
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(SYNCS):
            begun = time.perf_counter()
            file.write(bytes)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e3)
    cuts = statistics.quantiles(took, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "max": max(took)}
