"""Ray for real, on this machine: an actor is killed in the middle, and the store is the same."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from featstore import extract_many
from featstore.extraction import engines, workers
from featstore.extraction.engines import RayActor, extract_on_ray
from featstore.extraction.progress import BlockDone, Progress
from featstore.extraction.targets import Job
from tests.damage import lasting
from tests.featstore.extraction.engines.conftest import IMAGES, settled

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason="needs the extra `ray`")


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_killed_in_the_middle_is_restarted_and_the_store_is_the_same(
    pictures, choices, whole, tmp_path, monkeypatch, caplog
):
    store = tmp_path / "store"
    actors: list[RayActor] = []
    made = RayActor.__init__
    before: list[int] = []
    seen: list[Progress] = []

    def make(self: RayActor, *given: Any) -> None:
        made(self, *given)
        actors.append(self)

    def kill_one(_: BlockDone) -> None:
        if not before:
            before.extend(
                ray.get(one.actor.__ray_call__.remote(lambda _: os.getpid())) for one in actors
            )
            os.kill(before[0], signal.SIGKILL)

    monkeypatch.setattr(RayActor, "__init__", make)
    monkeypatch.setattr(engines, "LOOK", 0.02)  # or all is over before one looks
    monkeypatch.setattr(workers, "PARTS_PER_WORKER", (1, 1))
    config = settled(on_block=kill_one, on_progress=seen.append)
    with caplog.at_level(logging.WARNING):
        results = extract_on_ray(Job(pictures, "image", choices, store, config), "cpu,cpu")
    assert len(before) == 2
    assert len(actors) in (2, 3)  # none, where the other was idle first and took its part
    assert "An actor of Ray is lost" in caplog.text
    assert [(one.failed, one.new + one.reused) for one in results] == [(1, 42), (1, 42)]
    assert lasting(store) == whole
    assert 0 <= min(one.rows_done for one in seen) < max(one.rows_done for one in seen)


class Counted(str):
    """A text that leaves a line in a file each time that it is unpickled."""

    file: Path

    def __reduce__(self) -> Any:
        return _unpickled, (str(self), self.file)


def _unpickled(text: str, file: Path) -> str:
    with file.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    return text


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_that_raises_is_made_good_and_each_process_reads_the_request_once(
    pictures, fickle, tmp_path, caplog, monkeypatch
):
    encoders, alone, store = [fickle("cpu:1")], tmp_path / "alone", tmp_path / "store"
    extract_many(pictures, kind="image", encoders=encoders, store=alone, config=settled())
    kind = Counted("image")
    kind.file = tmp_path / "reads"
    monkeypatch.setattr(engines, "LOOK", 0.02)
    with caplog.at_level(logging.WARNING):
        (done,) = extract_on_ray(Job(pictures, kind, encoders, store, settled()), "cpu:0,cpu:1")
    said = r"Worker 1 on cpu:1 \(pid=\d+, ip=[\d.]+\) raised RuntimeError: CUDA error: an illegal"
    assert re.search(said, caplog.text)
    assert (done.new + done.reused, done.failed) == (IMAGES - 1, 1)
    assert lasting(store) == lasting(alone)
    # Of ten tasks in two actors, of which one may have been started again.
    readers = (tmp_path / "reads").read_text().split()
    assert len(readers) == len(set(readers)) in (2, 3)
