"""What the checks of python clients share: comparing, and running every check on every kind of client and transport.

One line per check; exit code 1 when one fails; the last line counts them.
"""

import os
import traceback

PATIENCE = 20  # seconds
MODES = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


def same(actual, expected, what):
    assert actual == expected, f"{what}: {actual!r} is not {expected!r}"


def passes(name, scene, check):
    try:
        scene = scene()
        check(scene)
        scene.close()
    except Exception:  # noqa: BLE001 — a failed check must not hide the others
        print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"ok   {name}", flush=True)
    return True


def run_all(prefix, scene, kinds, checks):
    """Ends the process. `kinds`: the clients by name; `scene(kind, transports)` is made anew for each check."""
    results = [
        passes(f"{prefix}{kind} {mode}: {check.__doc__}", lambda: scene(kinds[kind], transports), check)
        for kind in kinds
        for mode, transports in MODES.items()
        for check in checks
    ]
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed", flush=True)
    # Client threads of a failed check may still be waiting.
    os._exit(1 if failed or not results else 0)
