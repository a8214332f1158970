"""Ray for real, on this machine: an actor is killed in the middle, and the store is the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from featstore import extract_many
from featstore.errors import DeviceError
from featstore.extraction.engines import extract_on_ray
from featstore.extraction.options import Progress
from featstore.extraction.targets import Job
from tests.damage import lasting
from tests.featstore.extraction.engines.conftest import IMAGES, settled

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason="needs the extra `ray`")


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
def test_an_actor_killed_in_the_middle_is_restarted_and_the_store_is_the_same(
    pictures, choices, whole, tmp_path
):
    store = tmp_path / "store"
    seen: list[Progress] = []
    kind = Counted("image")
    kind.file = tmp_path / "reads"

    def kill_one(progress: Progress) -> None:
        if not seen:
            os.kill(int(kind.file.read_text().split()[0]), signal.SIGKILL)
        seen.append(progress)

    config = settled(on_progress=kill_one)
    results = extract_on_ray(Job(pictures, kind, choices, store, config), "cpu,cpu")
    assert [(one.failed, one.new + one.reused) for one in results] == [(1, 42), (1, 42)]
    assert lasting(store) == whole
    assert 0 <= min(one.rows_done for one in seen) < max(one.rows_done for one in seen)
    assert seen[-1].rows_total == 2 * IMAGES
    # Of ten tasks: each process reads the request once, and one was started again.
    readers = kind.file.read_text().split()
    assert len(readers) == len(set(readers)) == 3


@pytest.mark.usefixtures("ray_cluster")
def test_what_an_actor_raises_ends_the_job(pictures, fickle, tmp_path):
    encoders, alone, store = [fickle("cpu:1")], tmp_path / "alone", tmp_path / "store"
    with pytest.raises(DeviceError, match="A worker on cpu:1 raised RuntimeError: CUDA error"):
        extract_on_ray(Job(pictures, "image", encoders, store, settled()), "cpu:0,cpu:1")
    for folder in (store, alone):
        extract_many(pictures, kind="image", encoders=encoders, store=folder, config=settled())
    assert lasting(store) == lasting(alone)
