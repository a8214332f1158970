"""The fault-injecting layer, and the processes it is loaded into."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

#: All attempts, in place of a sample, the same one every time.
EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"

#: The exit code of a child that was killed.
KILLED = -9

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

#: What the fault-injecting layer does at a call, by number.
MODES = ("none", "before", "after", "torn", "short", "fail", "fail_from", "stop")

#: Why the children cannot start: what they extract are pictures.
PICTURES = "needs Pillow, of the extra `extract`"

#: Makes a child of the superuser, to whom no file is read-only, someone else.
PLAIN_USER: dict[str, Any] = {}
if hasattr(os, "getuid") and os.getuid() == 0 and os.access("/dev/shm", os.W_OK):
    PLAIN_USER["user"] = {"uid": 12_010, "gid": 12_010}


#: Makes a child of the superuser someone who owns nothing.
READER: dict[str, Any] = {}
if hasattr(os, "getuid") and os.getuid() == 0:
    READER["user"] = {"uid": 65_534, "gid": 65_534}


@contextlib.contextmanager
def only_to_read(root: Path, but: Collection[Path] = ()) -> Iterator[None]:
    """Let nobody write below a folder, `READER` read it, and write below some of its folders."""
    paths = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    for path in paths:
        if any(path.is_relative_to(folder) for folder in but):
            if READER:
                os.chown(path, READER["user"]["uid"], READER["user"]["gid"])
        else:
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in filter(Path.is_dir, paths):
            path.chmod(0o755)


#: A process that forks must have no other thread, and children that share two cores need none.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def can_have_own_pids() -> bool:
    """Return whether a process here can have process ids of its own; only the superuser can."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_OWN_PIDS, "true"], check=False, capture_output=True).returncode == 0


_OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")


class Children:
    """Starts children of the server and waits for them.

    Parameters
    ----------
    preload : str
        The fault-injecting layer.
    same_pid : bool
        Every child has the same process id, as processes of a container that is started anew have.
    """

    def __init__(self, preload: str = "", *, same_pid: bool = False) -> None:
        self._server = subprocess.Popen(
            [
                *(_OWN_PIDS if same_pid else ()),
                sys.executable,
                "-m",
                "tests.faults.server",
                *(["same-pid"] if same_pid else []),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "LD_PRELOAD": preload, "PYTHONPATH": str(REPOSITORY), **_ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def start(self, scenario: str, root: Path, **request: Any) -> int:
        """Start a child and return its process id."""
        return int(self._ask(op="start", scenario=scenario, root=str(root), **request)["pid"])

    def wait(self, pid: int) -> dict[str, Any]:
        """Wait for a child: its exit code (negative: the signal) and its report."""
        return self._ask(op="wait", pid=pid)

    def ended(self, pid: int) -> dict[str, Any]:
        """Return what `wait` does of a child that has ended; nothing of one that still runs."""
        return self._ask(op="wait", pid=pid, flags=os.WNOHANG)

    def run(self, scenario: str, root: Path, **request: Any) -> dict[str, Any]:
        """Start a child and wait for it."""
        return self.wait(self.start(scenario, root, **request))

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()


def compiler() -> str | None:
    """Return the compiler of the fault-injecting layer, or None where there can be none."""
    return (shutil.which("gcc") or shutil.which("cc")) if sys.platform == "linux" else None


def build_shim(folder: Path) -> Path:
    """Compile the fault-injecting layer into a folder."""
    shim = folder / "shim.so"
    command = [str(compiler()), "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c")]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return shim


@pytest.fixture(scope="session")
def children():
    """Children without faults."""
    pytest.importorskip("PIL", reason=PICTURES)
    found = Children()
    yield found
    found.close()


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """Children whose file calls can be made to fail."""
    pytest.importorskip("PIL", reason=PICTURES)
    if compiler() is None:
        pytest.skip("the fault-injecting layer is C for Linux; there is no compiler here")
    found = Children(preload=str(build_shim(tmp_path_factory.mktemp("shim"))))
    yield found
    found.close()


@pytest.fixture
def store(tmp_path):
    """Where a test's store will be."""
    return tmp_path / "store"


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A folder in memory where there is one: these tests count calls and lose no power."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if PLAIN_USER:
            os.chown(folder, PLAIN_USER["user"]["uid"], PLAIN_USER["user"]["gid"])
        yield Path(folder)


@pytest.fixture(scope="module")
def trees(children, memory):
    """The trees of the two revisions of a set, written undisturbed by one user."""
    from tests.faults import scenarios
    from tests.faults.trees import tree

    found = {}
    for n in scenarios.SIZES:
        assert children.run("once", memory / "undisturbed", args={"n": n})["code"] == 0
        found[n] = tree(memory / "undisturbed")
    return found


@pytest.fixture(scope="module")
def whole(faulty, memory):
    """A set in two revisions, and a head."""
    root = memory / "whole"
    assert faulty.run("grow", root, fault={"mode": "none"})["code"] == 0
    return root


@pytest.fixture(scope="module")
def damaged(whole, memory):
    """The same with a bad block, one of its rows failed, and without golden vectors."""
    from tests.faults import scenarios

    root = memory / "damaged"
    shutil.copytree(whole, root)
    scenarios.damage(root)
    return root
