"""Two machines that die at any moment while they extract into one bucket: the set of one.

A default run is small; ``HEADSTOCK_FAULTS=all`` kills 200 times at requests and 100 times between.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="needs the extra `remote`")

from featstore import copy_sets, open_store
from tests.faults.conftest import EVERYTHING, KILLED
from tests.faults.scenarios import extract, pictures
from tests.faults.test_publishers import Mischief
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.s3_server import Bucket, Request, s3_server

ADDRESS = "s3://team/store"

#: Kills at a request, before or after it takes effect, and at a random time.
AT_REQUESTS, BETWEEN = (200, 100) if EVERYTHING else (6, 3)

MACHINES = ("m0", "m1")


def _deadly(request: Request) -> float:
    return 0.08 if request.method in ("PUT", "POST") else 0.01


def _published(bucket: Bucket) -> dict[str, bytes]:
    return {name: data for name, data in bucket.objects.items() if "/runs/" not in name}


def _expected(root: Path, manifest: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return the bucket after a local extraction and a push."""
    extract(root / "local", manifest=manifest, thumbnails=True)
    with s3_server() as bucket, monkeypatch.context() as patch:
        for name, value in environment(bucket.url).items():
            patch.setenv(name, value)
        copy_sets(root / "local", ADDRESS)
    return _published(bucket)


@pytest.mark.slow
def test_two_machines_that_die_at_any_moment_make_the_set_of_one(children, memory, monkeypatch):
    root = memory / "extraction"
    root.mkdir()
    manifest = pictures(root / "one", "one", 60)
    expected = _expected(root, manifest, monkeypatch)
    chance = random.Random(11)
    died = whole = 0
    with s3_server() as bucket:
        for name, value in environment(bucket.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        reaper = Mischief(root, AT_REQUESTS, _deadly)
        bucket.before, bucket.after = reaper.before, reaper.after
        between = BETWEEN

        def start(name: str) -> int:
            variables = {
                **environment(bucket.url), "AWS_ACCESS_KEY_ID": name,
                "XDG_CACHE_HOME": str(root / f"{name}.cache"),
            }  # fmt: skip
            args = {"address": ADDRESS, "name": name, "manifest": manifest, "nap": 0.02}
            return children.start("extract_into", root, args=args, environment=variables)

        while reaper.left > 0 or between > 0 or not whole:
            bucket.objects.clear()
            results: dict[str, Any] = {}
            running = {name: start(name) for name in MACHINES}
            while running:
                time.sleep(0.02)
                for name, pid in list(running.items()):
                    if between > 0 and chance.random() < 0.01:
                        os.kill(pid, signal.SIGKILL)
                        between -= 1
                    report = children.ended(pid)
                    if not report:
                        continue
                    del running[name]
                    assert report["code"] in (0, KILLED), report
                    if report["code"] == KILLED:
                        died += 1
                        running[name] = start(name)
                    else:
                        results[name] = report["value"]
            assert len({result["revision_id"] for result in results.values()}) == 1
            assert _published(bucket) == expected
            store = open_store(ADDRESS, verify="first-touch")
            for info in store.sets():
                store.view(str(info.key)).numpy()
            assert not list(root.glob("m?/*/store/**/data-*.bin"))
            whole += 1
    print(f"{died:,} kills, {whole:,} sets, {len(bucket.requests):,} requests")
    assert died >= (AT_REQUESTS + BETWEEN) // 2
