"""Plant what is no file in place of a store's files, and run commands on the store.

A script: it imports once and forks a child for each case, which an alarm ends if it hangs. It
reads cases from standard input and prints an answer for each, one JSON line either way.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featstore import FeatstoreError, open_store
from featstore.errors import StoreWriteError
from featstore.store import SetWriter, write_thumbnails
from tests.faults import scenarios
from tests.faults.server import import_all
from tests.typed import headstock

#: Seconds after which a child hangs.
PATIENCE = 30


def make_world(root: Path) -> None:
    """Make a store that has every kind of file: finished, being extended, in parts, tagged."""
    scenarios.write(root, scenarios.SIZES[0])
    scenarios.write(root, 5, kind="head_weight")
    write_thumbnails(root / "birds" / "image", {"birds/000": b"x"})
    _typed("store", "tag", root, "v1")
    _typed("store", "card", root, "--out", root)

    def stop(_: SetWriter, block: int) -> None:
        if block == 4:
            raise StoreWriteError("stopped")

    for dataset in ("birds", "fish"):
        with contextlib.suppress(StoreWriteError):
            scenarios.write(root, scenarios.SIZES[1], dataset=dataset, before_block=stop)
    with contextlib.suppress(StoreWriteError):
        scenarios.write(root, scenarios.SIZES[1], dataset="frogs", part=(0, 2))


def _typed(*arguments: object) -> None:
    """Run a command; what goes wrong in another way than with an error message is raised."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        headstock(*arguments)


def look(root: Path, key: str) -> None:
    """Read a store in every way."""
    for arguments in (
        ["ls", root], ["ls", root, "--json"], ["show", root, key], ["doctor", root],
        ["store", "verify", root], ["store", "verify", root, "--quick"],
        ["store", "gc", root, "--dry-run", "--grace", "0s"], ["store", "diff", root, root],
        ["store", "repair", root, key, "--dry-run"],
    ):  # fmt: skip
        _typed(*arguments)
    for mode in ("map", "pread"):
        with contextlib.suppress(FeatstoreError):
            open_store(root, mode=mode, verify="full").view(key).numpy(np.float32)
    with contextlib.suppress(FeatstoreError):
        open_store(root, revision="v1").sets()
    with contextlib.suppress(FeatstoreError):
        open_store(root).thumbnails("birds")


def clean(root: Path, key: str) -> None:
    """Collect litter of any age."""
    _typed("store", "gc", root, "--grace", "0s")


def remove(root: Path, key: str) -> None:
    """Remove a set."""
    _typed("store", "rm", root, key, "--yes")


def extend(root: Path, key: str) -> None:
    """Go on with each set that was begun."""
    for dataset in (key.split("/")[0], "fish", "frogs"):
        with contextlib.suppress(FeatstoreError):
            scenarios.write(root, scenarios.SIZES[1], dataset=dataset)


def write(root: Path, key: str) -> None:
    """Do everything else that writes."""
    with contextlib.suppress(FeatstoreError):
        write_thumbnails(root / "birds" / "image", {"birds/001": b"y"})
    _typed("store", "repair", root, key)
    _typed("store", "tag", root, "v2")
    _typed("store", "push", root, root.with_name(f"{root.name} copy"))
    _typed("store", "init", root)


ACTIONS: dict[str, Callable[[Path, str], None]] = {
    "look": look, "clean": clean, "remove": remove, "extend": extend, "write": write,
}  # fmt: skip


def _plant(path: Path, what: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(path.parents[0] / "nowhere")
    else:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 107 bytes
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)


def run_case(world: Path, key: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run an action in a copy of the world, something planted; answer how it ended."""
    root = world.with_name("case")
    for left in (root, world.with_name("case copy")):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(world, root)
    if case.get("name"):
        _plant(root / case["name"], case["what"])
    report = world.with_name("report")
    report.write_text("{}")
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            signal.alarm(PATIENCE)
            opened: set[str] = set()
            if not case.get("name"):
                _watch(root, opened)
            ACTIONS[case["action"]](root, key)
            report.write_text(json.dumps({"opened": sorted(opened), "modules": [*sys.modules]}))
            code = 0
        except BaseException:
            report.write_text(json.dumps({"message": traceback.format_exc()}))
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    answer: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status), **case}
    answer["followed"] = any(path.name == "nowhere" for path in root.rglob("nowhere"))
    return answer | json.loads(report.read_text())


def _watch(root: Path, opened: set[str]) -> None:
    """Note the name of every file below `root` that is opened."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(arguments[0], int):
            path = Path(os.fsdecode(arguments[0]))
            with contextlib.suppress(OSError):
                if path.is_relative_to(root) and not stat.S_ISDIR(path.lstat().st_mode):
                    opened.add(path.relative_to(root).as_posix())

    sys.addaudithook(hook)


def main() -> None:
    """Serve until standard input ends."""
    world = Path(sys.argv[1]) / "world"
    # In a child: the libraries' threads would not survive the forks of those to come.
    pid = os.fork()
    if pid == 0:
        try:
            make_world(world)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    key = str(scenarios.key_of(world))
    for line in sys.stdin:
        answer = run_case(world, key, json.loads(line))
        import_all(answer.pop("modules", ()))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
