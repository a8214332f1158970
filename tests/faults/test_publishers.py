"""Many publishers of the same sets in one bucket: nothing is lost, and no entry goes back.

Each extends one of a few sets by an item, pushes, and begins anew where another was first. Requests
come late and overtake one another; publishers die before and after their requests take effect, and
are started again. A default run is small; ``HEADSTOCK_FAULTS=all`` makes 16 publishers commit
1,008 times in all, and ``HEADSTOCK_COMMITS=1000`` each of them so many times.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore", reason="needs the extra `remote`")

from featstore import copy_sets, open_store
from featstore.store import SetKey, verify_store
from tests.faults.conftest import EVERYTHING, KILLED, Children
from tests.faults.publishers import row_of
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.s3_server import Bucket, Request, s3_server

ADDRESS = "s3://team/store"

PUBLISHERS, DATASETS, COMMITS, KILLS = (16, 8, 63, 400) if EVERYTHING else (4, 2, 3, 20)

#: Commits of each publisher may be said. Sets grow in number with them: a pull reads every part.
COMMITS = int(os.environ.get("HEADSTOCK_COMMITS", COMMITS))
DATASETS = max(DATASETS, COMMITS // 8)

#: The files whose puts decide who publishes: most publishers die there.
DECIDES = re.compile(r".*/(embedding/c/0/0|log\.json)")


class Mischief:
    """Delays every request, and kills publishers at some, until it has killed enough.

    Parameters
    ----------
    root : Path
        Where publishers write down their process ids: ``<client>.pid``.
    kills : int
    deadly : callable
        Of a request the chance to die there.
    """

    def __init__(self, root: Path, kills: int, deadly: Callable[[Request], float]) -> None:
        self._root = root
        self.left = kills
        self._deadly = deadly
        self._chance = random.Random(17)

    def before(self, request: Request) -> None:
        """Delay a request, or kill its client and let it take effect all the same, or not."""
        time.sleep(self._chance.random() * 0.004)
        if self._dies(request) and self._chance.random() < 0.7:
            raise ConnectionError

    def after(self, request: Request) -> None:
        """Delay an answer, or kill the client that waits for it."""
        time.sleep(self._chance.random() * 0.004)
        self._dies(request)

    def _dies(self, request: Request) -> bool:
        pid = self._root / f"{request.client}.pid"
        if self.left <= 0 or self._chance.random() > self._deadly(request) or not pid.exists():
            return False
        self.left -= 1
        os.kill(int(pid.read_text()), signal.SIGKILL)
        pid.unlink()
        return True


def _deadly(request: Request) -> float:
    """Return the chance to die where it is decided who publishes, and anywhere else."""
    decides = request.method == "PUT" and DECIDES.fullmatch(request.path)
    return (0.1 if EVERYTHING else 0.3) if decides else 0.005


def _run(children: Children, root: Path, bucket: Bucket) -> int:
    """Run the publishers, start again what dies, and return how often one died."""
    waiting: dict[int, int] = {}
    died = 0

    def start(number: int) -> None:
        name = f"p{number}"
        variables = {
            **environment(bucket.url), "AWS_ACCESS_KEY_ID": name,
            "XDG_CACHE_HOME": str(root / f"{name}.cache"),
        }  # fmt: skip
        args = {
            "address": ADDRESS, "name": name, "number": number, "datasets": DATASETS,
            "commits": COMMITS,
        }  # fmt: skip
        waiting[children.start("publish", root, args=args, environment=variables)] = number

    for number in range(PUBLISHERS):
        start(number)
    while waiting:
        time.sleep(0.02)
        for pid, number in list(waiting.items()):
            report = children.ended(pid)
            if report:
                del waiting[pid]
                assert report["code"] in (0, KILLED), report
                if report["code"] == KILLED:
                    died += 1
                    start(number)
    return died


def _operations(root: Path) -> list[dict[str, Any]]:
    """Return the pushes and reads that publishers wrote down, and that ended."""
    lines = (path.read_text().splitlines() for path in sorted(root.glob("p*.jsonl")))
    return [line for line in map(json.loads, chain.from_iterable(lines)) if "end" in line]


def test_nothing_is_lost_and_each_push_follows_the_one_that_it_read(children, memory, monkeypatch):
    root = memory / "publishers"
    root.mkdir()
    with s3_server() as bucket:
        mischief = Mischief(root, KILLS, _deadly)
        bucket.before, bucket.after = mischief.before, mischief.after
        bucket.keep_puts = lambda path: path.endswith("log.json")
        died = _run(children, root, bucket)
        bucket.before = bucket.after = lambda _: None
        for name, value in environment(bucket.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        pulled = root / "pulled"
        assert not copy_sets(ADDRESS, pulled).failed
    assert died >= KILLS // 4
    assert verify_store(pulled).problems == []
    chains = {}
    for info in open_store(pulled).sets():
        chains[info.key.dataset] = [*reversed(info.commit.published)]
    seen = _operations(root)
    pushes = [one for one in seen if one["kind"] == "push" and one["ok"]]
    expected = {
        new: (name, old) for name, ids in chains.items() for old, new in pairwise(["", *ids])
    }
    assert {one["value"]: (one["set"], one["base"]) for one in pushes} == expected
    assert {one["value"] for one in seen if one["kind"] == "read"} <= {"", *expected}
    refused = sum(one["kind"] == "push" and not one["ok"] for one in seen)
    counts = f"{len(pushes):,} commits, {refused:,} refused, {died:,} kills"
    print(f"{counts}, {len(bucket.requests):,} requests")
    assert len(pushes) == PUBLISHERS * COMMITS
    for info in open_store(pulled).sets():
        view = open_store(pulled).view(str(info.key))
        names = view.items["item_id"].to_list()
        assert len(set(names)) == len(names) == len(chains[info.key.dataset])
        np.testing.assert_array_equal(view.numpy(), np.stack([row_of(name) for name in names]))
    _check_logs(bucket, chains)


def _check_logs(bucket: Bucket, chains: dict[str, list[str]]) -> None:
    """Assert that no entry of the log went back, and that the last one is what there is."""
    at: dict[str, int] = {}
    for _, data in bucket.puts:
        now = {}
        for name, digest in json.loads(data)["sets"].items():
            chain = chains[SetKey(*name.split("/")).dataset]
            commit = json.loads(bucket.objects[f"team/store/{name}/revisions/{digest}.json"])
            # One that joins parts has the revisions of the one before it.
            revision = digest if digest in chain else commit["history"][-1][0]
            now[name.partition("/")[0]] = chain.index(revision)
        assert set(at) <= set(now)
        assert all(now[name] >= number for name, number in at.items())
        at = now
    assert at == {name: len(chain) - 1 for name, chain in chains.items()}
