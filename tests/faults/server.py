"""Start children with the libraries loaded: imports once, forks often.

A script: it reads one JSON request a line and answers with one JSON line. ``start`` forks a
child that runs a scenario, ``wait`` waits for its end. A child is an ordinary process: it may be
killed or stopped by anyone who may signal it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore import FeatstoreError
from tests.faults import publishers, scenarios, steps, team, typed
from tests.faults.conftest import MODES

_SET_DUMPABLE = 4


def run_child(request: dict[str, Any], report: Path) -> int:
    """Arm the faults, run the scenario, and write down how it ended."""
    root = Path(request["root"])
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"]) if os.environ.get("LD_PRELOAD") else None
    handle = os.open(report, os.O_WRONLY)  # before this process becomes someone else
    if "user" in request:
        _become(**request["user"])
    os.environ.update(request.get("environment", {}))
    if "umask" in request:
        os.umask(request["umask"])
    if "file_size" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
    if shim is not None and "fault" in request:
        fault = request["fault"]
        shim.faults_threads(int(fault.get("threads", False)))
        shim.faults_arm(
            os.fsencode(root), MODES.index(fault["mode"]), fault.get("at", 0), fault.get("errno", 0)
        )
    result: dict[str, Any] = {}
    code = 0
    try:
        known = (scenarios, team, steps, publishers, typed)
        where = next(module for module in known if hasattr(module, request["scenario"]))
        result["value"] = getattr(where, request["scenario"])(root, **request.get("args", {}))
    except FeatstoreError as err:
        code = 1
        result |= {"error": type(err).__name__, "message": str(err)}
    except BaseException as err:
        code = 70
        result |= {"error": type(err).__name__, "message": traceback.format_exc()}
    if shim is not None and "fault" in request:
        shim.faults_trace.restype = ctypes.c_char_p
        result["calls"] = shim.faults_trace().decode().splitlines()
        result["fired"] = shim.faults_fired()
        shim.faults_arm(b"", 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    if request.get("learn"):
        result["modules"] = sorted(sys.modules)
    os.write(handle, json.dumps(result).encode())
    return code


def preload() -> None:
    """Import what a child will need: another user may not be able to read this Python.

    A child tries everything and says what it has imported. The libraries are only imported
    here, never used: their threads would not survive a fork.
    """
    handle, name = tempfile.mkstemp()
    os.close(handle)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            team.warm_up()
            Path(name).write_text("\n".join(sorted(sys.modules)))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0, "team.warm_up failed"
    import_all(Path(name).read_text().split())
    Path(name).unlink()


def import_all(modules: Iterable[str]) -> None:
    """Import what a child had imported, so that the next ones need not."""
    for module in modules:
        with contextlib.suppress(ImportError):  # some libraries make modules of their own
            importlib.import_module(module)


def _become(uid: int, gid: int) -> None:
    """Give up this process's rights for those of another user; only the superuser can."""
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    # So that the layer may still read /proc/self/fd.
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1)


def main() -> None:
    """Serve until standard input ends."""
    preload()
    reports: dict[int, Path] = {}
    folder = Path(tempfile.mkdtemp())
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "start":
            # A second thread's locks would be copied in whatever state they are.
            assert threading.active_count() == 1
            handle, name = tempfile.mkstemp(dir=folder)
            os.close(handle)
            if "same-pid" in sys.argv:
                Path("/proc/sys/kernel/ns_last_pid").write_text("1000")
            pid = os.fork()
            if pid == 0:
                code = 70
                try:
                    sys.stdin.close()
                    nothing = os.open(os.devnull, os.O_RDWR)
                    os.dup2(nothing, 0)
                    os.dup2(nothing, 1)  # the pipe is for answers
                    code = run_child(request, Path(name))
                finally:
                    os._exit(code)
            reports[pid] = Path(name)
            answer: dict[str, Any] = {"pid": pid}
        else:
            ended, status = os.waitpid(request["pid"], request.get("flags", 0))
            if not ended:
                print("{}", flush=True)
                continue
            path = reports.pop(request["pid"])
            text = path.read_text()
            path.unlink()
            answer = {"code": os.waitstatus_to_exitcode(status)}
            answer |= json.loads(text) if text else {}
            import_all(answer.pop("modules", ()))
        print(json.dumps(answer), flush=True)
    folder.rmdir()


if __name__ == "__main__":
    main()
