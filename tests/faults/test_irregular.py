"""Nothing but a regular file is ever opened: pipes, sockets, folders and links are refused.

A default run plants them in place of a fixed sample of the files of a store, and pipes for all that
writers share; ``HEADSTOCK_FAULTS=all`` plants everything everywhere.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featstore import FeatstoreError, open_store
from featstore.errors import StoreWriteError
from featstore.store import SetWriter, write_thumbnails
from tests.faults import scenarios
from tests.faults.conftest import EVERYTHING, PICTURES
from tests.typed import headstock

THINGS = ("pipe", "socket", "folder", "link")

#: Seconds after which an action hangs.
PATIENCE = 30

#: Names that a stranger may put into a store, though no writer makes them.
ODD = [
    "birds/image/{set}/.staging/w9x-y", "birds/image/{set}/.staging/w000009-0123abcd",
    "birds/image/{set}/.staging/part-00000-of-00002", "birds/image/{set}/.staging/part-x",
    "birds/image/{set}/runs/zz.json", "birds/image/thumbnails-0badcafe.parquet",
    "birds/image/items-0badcafe.parquet", "tags/zz.json",
    "birds/zz", "birds/image/zz", ".log.json.0badcafe.staged",
    "birds/image/.thumbnails-0badcafe.parquet.0badcafe.staged",
    "fish/image/{set}/.staging/w9x-y/claim",
]  # fmt: skip


def _typed(*arguments: object) -> None:
    """Run a command; what goes wrong in another way than with an error message is raised."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        headstock(*arguments)


@pytest.fixture(scope="module")
def world(memory):
    """A store that has every kind of file: finished, being extended, in parts, tagged."""
    pytest.importorskip("PIL", reason=PICTURES)
    root = memory / "world"
    scenarios.write(root, scenarios.SIZES[0])
    scenarios.write(root, 5, kind="head_weight")
    write_thumbnails(root / "birds" / "image", {"birds/image00": b"x"})
    _typed("store", "tag", root, "v1")
    _typed("store", "card", root, "--out", root)

    def stop(_: SetWriter, block: int) -> None:
        if block == 4:
            raise StoreWriteError("stopped")

    for dataset, options in (("birds", {}), ("fish", {}), ("frogs", {"part": (0, 2)})):
        with contextlib.suppress(StoreWriteError):
            scenarios.write(root, scenarios.SIZES[1], dataset=dataset, before_block=stop, **options)
    return root


def look(root: Path, key: str) -> None:
    """Read a store in every way."""
    for arguments in (
        ["ls", root], ["ls", root, "--json"], ["show", root, key], ["doctor", root],
        ["store", "verify", root], ["store", "verify", root, "--quick"],
        ["store", "gc", root, "--dry-run", "--grace", "0"], ["store", "diff", root, root],
        ["store", "repair", root, key, "--dry-run"],
    ):  # fmt: skip
        _typed(*arguments)
    for mode in ("map", "pread"):
        with contextlib.suppress(FeatstoreError):
            open_store(root, mode=mode, verify="first-touch").view(key).numpy(np.float32)
    with contextlib.suppress(FeatstoreError):
        open_store(root, revision="v1").sets()
        open_store(root).thumbnails("birds")


def extend(root: Path, key: str) -> None:
    """Go on with each set that was begun."""
    for dataset in (key.split("/")[0], "fish", "frogs"):
        with contextlib.suppress(FeatstoreError):
            scenarios.write(root, scenarios.SIZES[1], dataset=dataset)


def write(root: Path, key: str) -> None:
    """Do everything else that writes."""
    with contextlib.suppress(FeatstoreError):
        write_thumbnails(root / "birds" / "image", {"birds/image01": b"y"})
    _typed("store", "repair", root, key)
    _typed("store", "tag", root, "v2")
    _typed("store", "push", root, root.with_name("copy"))
    _typed("store", "init", root)


ACTIONS: dict[str, Callable[[Path, str], None]] = {
    "look": look, "extend": extend, "write": write,
    "clean": lambda root, _: _typed("store", "gc", root, "--grace", "0"),
    "remove": lambda root, key: _typed("store", "rm", root, key, "--yes"),
}  # fmt: skip


def _plant(path: Path, what: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(path.parent / "nowhere")
    else:
        with contextlib.chdir(path.parent):  # the name of a socket may have 107 bytes
            socket.socket(socket.AF_UNIX).bind(path.name)


def _hangs(*_: object) -> None:
    raise TimeoutError


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("what", THINGS)
def test_nothing_hangs_and_nothing_is_followed(world, tmp_path, what, action):
    key = str(scenarios.key_of(world))
    odd = [name.format(set=key.split("/")[2]) for name in ODD]
    files = (path.relative_to(world).as_posix() for path in world.rglob("*") if path.is_file())
    names = sorted({*files, *odd})
    assert len(names) > 40
    chosen = set(names if EVERYTHING else names[THINGS.index(what) + len(action) :: 13])
    if what == "pipe" and action != "look":
        chosen |= {n for n in names if n.split("/")[-1] in ("lock", "claim", "journal.jsonl")}
    before = signal.signal(signal.SIGALRM, _hangs)
    for name in sorted(chosen):
        root = tmp_path / "case"
        shutil.copytree(world, root)
        _plant(root / name, what)
        signal.alarm(PATIENCE)
        try:
            ACTIONS[action](root, key)
        finally:
            signal.alarm(0)
        assert not any(root.rglob("nowhere")), name
        for left in (root, tmp_path / "copy"):
            shutil.rmtree(left, ignore_errors=True)
    signal.signal(signal.SIGALRM, before)
