"""Commands of fitters, killed or refused at their file calls, end in the same bytes if typed again.

The faults are those of tests/faults/shim.c. A default run kills at every rename and folder, and at
a fixed sample of the other calls; ``HEADSTOCK_FAULTS=all`` kills at every one.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import HERE, PICTURES, REPOSITORY, Children
from tests.fitters.toy_store import HEAD, NAMES, X, Y, write_toy_store

EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"
KILLED = -9

#: What no finished command leaves: names that begin with a dot.
LITTER = re.compile(r"(^|/)\.")

SETS = ["--x", X, "--head", HEAD, "--head-names", NAMES]
REAL = [*SETS, "--y", Y]

#: What is there before, and the command that is killed.
COMMANDS = {
    "fit": ([], ["fit", "ridge", *SETS, "-o", "R/deep/a"]),
    "fit from cached moments": ([], ["fit", "ridge", *REAL, "--criterion", "error", "-o", "R/a"]),
    "fit over another": (
        [["fit", "ridge", *SETS, "-o", "R/a"]],
        ["fit", "procrustes", *SETS, "-o", "R/a", "--force"],
    ),
    "fit of seeds": (
        [],
        ["fit", "procrustes", *REAL, "--mix", "1", "--n-pairs", "9", "--seeds", "0-1", "-o", "R/a"],
    ),
    "training": ([], ["fit", "paper-mlp", *SETS, "--epochs", "2", "-o", "R/a"]),
    "apply": (
        [["fit", "ridge", *SETS, "-o", "R/a"]],
        ["apply", "R/a", "--view", X, "-o", "R/rows.npy"],
    ),
    "export": (
        [["fit", "ridge", *SETS, "-o", "R/a"], ["export", "R/a", "-o", "R/head.npz"]],
        ["export", "R/a", "--names", NAMES, "-o", "R/head.npz"],
    ),
    "cache gc": (
        [["fit", "ridge", *REAL, "--criterion", "error", "-o", "R/a"]], ["cache", "gc", "--all"],
    ),
}  # fmt: skip


class Killed(Children):
    """Children with the commands of fitters, and faults in their file calls."""

    def __init__(self, shim: Path) -> None:
        more = {"LD_PRELOAD": str(shim), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fitters.fault_server"], cwd=REPOSITORY,
            env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    pytest.importorskip("PIL", reason=PICTURES)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fault-injecting layer is C for Linux; there is no compiler here")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    found = Killed(shim)
    yield found
    found.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "store"
    write_toy_store(root)
    return root


def tree(root: Path) -> dict[str, bytes | None]:
    """Return every file's bytes, and None for every folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def entries(root: Path) -> set[tuple[str, bytes | None]]:
    """Return the files below a folder, and folders, as pairs of name and bytes."""
    return set(tree(root).items())


def line(words: list[str], root: Path, store: Path) -> list[str]:
    placed = [f"{root}{word[1:]}" if word.startswith("R/") else word for word in words]
    return placed if words[0] == "cache" else [*placed, "--store", str(store)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_is_typed_again(
    killed: Killed, toy: Path, tmp_path: Path, name: str
) -> None:
    before, words = COMMANDS[name]
    root, start, messages = tmp_path / "root", tmp_path / "start", tmp_path / "messages"

    def run(lines: list[list[str]], **fault: object) -> dict[str, Any]:
        placed = [line(words, root, toy) for words in lines]
        args = {"lines": placed, "messages": str(messages)}
        return killed.run("run_fitters", root, args=args, fault={"mode": "none", **fault})

    root.mkdir()
    assert set(run(before)["value"]) <= {0}, messages.read_text()
    shutil.copytree(root, start)
    report = run([words])
    assert report["value"] == [0], messages.read_text()
    whole, calls = tree(root), report["calls"]
    assert whole != tree(start)
    assert not any(map(LITTER.search, whole)), whole.keys()
    faults = ("before", "after", "torn", *(["fail"] if words[0] != "cache" else []))
    for mode in faults:
        for at, call in enumerate(calls, 1):
            often = mode == "before" and call.startswith(("rename", "mkdir"))
            if not (EVERYTHING or often or (at + len(mode)) % 8 == 0):
                continue
            where = f"{mode} call {at} of {len(calls)}, {call}"
            shutil.rmtree(root)
            shutil.copytree(start, root)
            report = run([words], mode=mode, at=at, errno=errno.ENOSPC)
            if mode != "fail":
                assert report["code"] == KILLED, where
            elif report["value"] == [1]:
                said = messages.read_text().splitlines()[-1]  # a slow machine shows progress
                assert "No space left on device. Free space, and run" in said, f"{where}: {said}"
                # What was there is there; what is new, at most the rest that the next run takes up.
                assert entries(start) <= entries(root), where
            assert run([words])["value"] == [0], f"{where}: {messages.read_text()}"
            found = tree(root)
            assert found.keys() == whole.keys(), where
            assert found == whole, where


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)  # fmt: skip
def test_a_fit_on_a_full_disk_names_file_and_remedy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.fitters.full_disk", str(disk)],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    full = {message for message in said if message != "fitted"}
    where = f"1 fitters: error: {disk}/aligners/a cannot be written"
    assert full == {
        f"{where}: No space left on device. Free space, and run the same command again."
    }
    assert "fitted" in said
