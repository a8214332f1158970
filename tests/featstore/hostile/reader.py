"""Open stores in processes of little memory: the libraries are loaded once, and forked often.

A script: it reads one JSON request a line, a store, a set and a folder to work in, and answers
with one JSON line, what the process that read it said and how it ended. Libraries are only
imported here, never used: their threads would not survive a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import numpy as np
import polars as pl

from featstore import FeatstoreError, open_store
from featstore.store import verify_store

#: What the process that opens a hostile store may add to its address space.
MEMORY_BYTES = 512 * 2**20

#: Seconds that it may take.
PATIENCE = 100


def read(root: str, key: str) -> None:
    """Read and verify a store, and print what comes of it."""
    # Thread pools are made before the limit.
    pl.DataFrame({"a": [1]}).write_parquet("warm.parquet")
    pl.read_parquet("warm.parquet")
    np.ones((8, 8)) @ np.ones((8, 8))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    seen: list[str] = []

    def audit(event: str, _: object) -> None:
        if event in ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect"):
            seen.append(event)

    sys.addaudithook(audit)
    try:
        store = open_store(root)
        _ = store.view(key).items
        store.view(key).numpy()
        store.failures(key)
        store.thumbnails("birds")
    except FeatstoreError as err:
        print(type(err).__name__, str(err)[:500])
    else:
        print("served")
    try:
        print("verify", len(verify_store(Path(root)).problems))
    except FeatstoreError as err:
        print(type(err).__name__, str(err)[:500])
    else:
        print("served")
    assert not seen, seen


def _child(request: dict[str, str], said: int) -> None:
    """Do as asked, with both outputs in a file, and end."""
    code = 1
    try:
        sys.stdin.close()
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.alarm(PATIENCE)
        os.chdir(request["folder"])
        read(request["root"], request["key"])
        Path("modules").write_text("\n".join(sorted(sys.modules)))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        # A second thread's locks would be copied in whatever state they are.
        assert threading.active_count() == 1
        with tempfile.TemporaryFile() as said:
            pid = os.fork()
            if pid == 0:
                _child(request, said.fileno())
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            text = said.read().decode()
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "text": text}), flush=True)
        _load(Path(request["folder"]) / "modules")


def _load(listed: Path) -> None:
    """Import what a child has imported, so that the next need not."""
    if listed.exists():
        for name in listed.read_text().split():
            if name not in sys.modules:
                importlib.import_module(name)


if __name__ == "__main__":
    main()
