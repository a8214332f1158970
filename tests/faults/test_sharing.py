"""A kill at the requests of push, init, tag, repair and pull, on a bucket.

Whether the request takes effect or not, the same command again ends well, the store verifies,
nothing is left over, and the files are those of a run that nobody disturbed. A default run kills at
every fifth request, ``HEADSTOCK_FAULTS=all`` at each. Kills at file calls are in the matrix.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="needs the extra `remote`")

from featstore.share import make_tag
from featstore.store import verify_store
from featstore.store.tables import write_thumbnails
from tests.faults import scenarios
from tests.faults.conftest import EVERYTHING, KILLED, Children
from tests.faults.trees import litter, tree
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.s3_server import Request, s3_server


@pytest.fixture(scope="module")
def whole(whole):
    """The same with thumbnails and a tag."""
    write_thumbnails(whole / "birds" / "image", {"birds/image00": b"picture"})
    make_tag(whole, "v1")
    return whole


def _run(children: Children, root: Path, arguments: list[str], **request: Any) -> dict[str, Any]:
    messages = root.with_name(f"{root.name}.messages")
    args = {"arguments": arguments, "messages": str(messages)}
    return {**children.run("command", root, args=args, **request), "said": messages.read_text()}


def leave(_: Request) -> None:
    """Do nothing to a request."""


@pytest.fixture
def bucket(memory):
    with s3_server() as state:
        yield state


def _killer(at: int, pid: list[int], *, takes_effect: bool) -> Callable[[Request], None]:
    """Return what kills a child at its `at`-th request; its connection ends with it."""

    def kill(request: Request) -> None:
        if request.number == at:
            os.kill(pid[0], signal.SIGKILL)
            if not takes_effect:
                raise ConnectionError

    return kill


@pytest.mark.parametrize("takes_effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("command", ["push", "init", "tag", "repair", "pull"])
def test_a_kill_at_the_requests(children, bucket, whole, damaged, memory, command, *, takes_effect):
    address, root = "s3://team/store", memory / f"requests-{command}"
    asks = {"environment": {**environment(bucket.url), "XDG_CACHE_HOME": str(root / "cache")}}
    key = str(scenarios.key_of(whole))
    arguments = {
        "push": ["store", "push", str(whole), address],
        "init": ["store", "init", address],
        "tag": ["store", "tag", address, "v2"],
        "repair": ["store", "repair", str(root / "store"), key, "--copy", address],
        "pull": ["store", "pull", address, str(root / "store")],
    }[command]
    filled: dict[str, bytes] = {}

    def begin() -> None:
        bucket.before = bucket.after = leave
        bucket.objects = dict(filled)
        root.mkdir()
        if command == "repair":
            shutil.copytree(damaged, root / "store")
        bucket.requests.clear()

    if command not in ("push", "init"):
        root.mkdir()
        assert _run(children, root, ["store", "push", str(whole), address], **asks)["value"] == 0
        filled.update(bucket.objects)
        shutil.rmtree(root)
    begin()
    report = _run(children, root, arguments, **asks)
    assert report["value"] == 0, report
    n, right = len(bucket.requests), dict(bucket.objects)
    here = tree(root / "store") if (root / "store").exists() else {}
    shutil.rmtree(root)
    assert n > 3
    for at in range(1, n + 1, 1 if EVERYTHING else 5):
        begin()
        pid: list[int] = []
        kill = _killer(at, pid, takes_effect=takes_effect)
        if takes_effect:
            bucket.after = kill
        else:
            bucket.before = kill
        args = {"arguments": arguments, "messages": str(memory / "killed")}
        pid.append(children.start("command", root, args=args, **asks))
        assert children.wait(pid[0])["code"] == KILLED
        where = f"killed at request {at} of {n}, {bucket.requests[at - 1]}"
        bucket.before = bucket.after = leave
        report = _run(children, root, arguments, **asks)
        assert report["value"] == 0, f"{where}: {report['said']}"
        assert bucket.objects == right, where
        if here:
            assert verify_store(root / "store").problems == [], where
            assert tree(root / "store") == here, where
            assert litter(root / "store") == [], where
        shutil.rmtree(root)
