"""One process a device: killed, interrupted, refused; the store stays the same."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.errors import DeviceError, EncoderError, WorkerDiedError
from featstore.extraction import workers
from featstore.extraction.progress import BlockDone, Progress
from featstore.extraction.targets import Job, SetState
from featstore.extraction.workers import (
    Crew,
    Gone,
    conduct,
    extract_on_devices,
    parse_devices,
    parts_of,
    run_part,
    settle,
)
from tests.assertions import ends_what_it_starts
from tests.damage import lasting
from tests.featstore.extraction.engines.conftest import IMAGES, settled

pytestmark = pytest.mark.usefixtures("forked")


def job(manifest: Manifest, choices: list[EncoderSpec], store: Path, config: ExtractConfig) -> Job:
    return Job(manifest, "image", choices, store, config)


def test_a_process_that_is_killed_is_replaced_and_the_store_is_the_same(
    pictures, choices, whole, tmp_path, caplog
):
    store = tmp_path / "store"
    seen: list[Progress] = []
    killed: list[int | None] = []
    before = set(multiprocessing.active_children())

    def kill_one(_: BlockDone) -> None:
        if not killed:
            child = min(set(multiprocessing.active_children()) - before, key=lambda one: one.name)
            killed.append(child.pid)
            child.kill()

    with ends_what_it_starts(), caplog.at_level(logging.WARNING):
        results = extract_on_devices(
            job(pictures, choices, store, settled(on_block=kill_one, on_progress=seen.append)),
            "cpu,cpu",
        )
    assert f"Process {killed[0]} on cpu ended with SIGKILL" in caplog.text
    assert lasting(store) == whole
    assert [(one.failed, one.new + one.reused) for one in results] == [(1, 42), (1, 42)]
    assert [one.revision_id for one in results] == [
        info.commit.revision_id
        for one in results
        for info in featstore.open_store(store).sets()
        if str(info.key) == one.key
    ]
    assert seen[-1].rows_total == 2 * IMAGES
    assert 0 <= min(one.rows_done for one in seen) < max(one.rows_done for one in seen)
    assert "ottleneck" in seen[-1].bottleneck


def test_an_interruption_ends_every_process_and_one_alone_goes_on(
    pictures, choices, whole, tmp_path
):
    store = tmp_path / "store"

    def interrupt(_: BlockDone) -> None:
        raise KeyboardInterrupt

    with ends_what_it_starts(), pytest.raises(KeyboardInterrupt):
        extract_on_devices(job(pictures, choices[:1], store, settled(on_block=interrupt)), ["cpu"])
    assert not featstore.open_store(store).sets()
    results = extract_many(
        pictures, kind="image", encoders=choices, store=store, config=settled(batch_size=3)
    )
    # What was done when the word came was written down before the process left.
    assert 0 < results[0].new < IMAGES - 1
    assert lasting(store) == whole


def test_what_raises_on_two_devices_ends_the_job_and_what_is_done_is_kept(
    pictures, fickle, tmp_path, journalled
):
    encoders, alone, store = [fickle("cpu:1+cpu:2")], tmp_path / "alone", tmp_path / "store"
    both = r"Part \d of 8 failed\. Worker . on cpu:. raised RuntimeError: .* Worker . on cpu:."
    with ends_what_it_starts(), pytest.raises(DeviceError, match=both) as raised:
        extract_on_devices(job(pictures, encoders, store, settled()), "cpu:1,cpu:2")
    assert {"cpu:1", "cpu:2"} <= set(str(raised.value).split())
    # Where the exception came from in the other process.
    assert "fickle.py" in raised.value.__cause__.__notes__[0]
    assert not featstore.open_store(store).sets()
    begun = journalled(store)
    assert begun > 0
    with pytest.raises(DeviceError, match=r"Worker 0 on cpu:1 raised Runtime.*blocks are kept"):
        extract_on_devices(job(pictures, encoders, store, settled()), "cpu:1")
    assert journalled(store) > begun
    extract_many(pictures, kind="image", encoders=encoders, store=store, config=settled())
    extract_many(pictures, kind="image", encoders=encoders, store=alone, config=settled())
    assert lasting(store) == lasting(alone)


def test_a_device_that_cannot_be_opened_costs_a_retry_and_not_the_job(
    pictures, choices, whole, tmp_path, monkeypatch, caplog
):
    """It is seen when the job is begun, and lost when its process begins."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(workers, "RESTARTS", 0)
    with caplog.at_level(logging.WARNING):
        extract_on_devices(job(pictures, choices, tmp_path / "store", settled()), "cuda:0,cpu")
    assert "Worker 0 on cuda:0 raised DeviceError: Cannot use the device 'cuda:0'" in caplog.text
    assert lasting(tmp_path / "store") == whole


class Scripted:
    """A crew whose workers end every part as a function says: with an answer, or an exception."""

    def __init__(self, workers: int, ends: Callable[[int], Exception | None]) -> None:
        self._ends = ends
        self.told: list[tuple[int, int]] = []
        self.crew = Crew([f"gpu {worker}" for worker in range(workers)], 1, self._spawn)

    def _spawn(self, _cores: int, device: str) -> Any:
        worker = int(device.partition(" ")[2])

        def call(work: Any, arguments: Any, _: Any) -> Any:
            if work is run_part and arguments[0]:
                self.told.append((worker, arguments[0][0]))
                if (error := self._ends(worker)) is not None:
                    raise error
            state = SetState("a", "missing", 16, 4, 0, 0, 0, 0, 16, 0)
            return ({"a": {}}, [state], "") if work is settle else []

        ended = "Process 7 was killed."
        return SimpleNamespace(device=device, call=call, stop=int, end=lambda _: ended)

    def conduct(self) -> list[Any]:
        with self.crew as crew:
            return conduct(crew, settled(), encoders=1)


def _gone(error: Exception, *workers: int) -> Callable[[int], Exception | None]:
    return lambda worker: error if worker in workers else None


def test_a_part_goes_to_another_device_once_and_not_back_to_the_same():
    crew = Scripted(3, _gone(DeviceError("out of memory"), 1))
    assert crew.conduct() == []
    failed = [part for worker, part in crew.told if worker == 1]
    assert failed
    for part in failed:  # worker 1 is idle again at once, and takes another part
        assert len({worker for worker, own in crew.told if own == part}) == 2
        assert [worker for worker, own in crew.told if own == part].count(1) == 1
    crew = Scripted(3, _gone(RuntimeError("broken."), 0, 1, 2))
    every = r"Part \d of 4 failed\. (Worker . on gpu . raised RuntimeError: broken\. ){1,3}"
    with pytest.raises(DeviceError, match=every):
        crew.conduct()


def test_without_another_device_the_job_ends_and_with_an_error_of_the_job_at_once(monkeypatch):
    with pytest.raises(DeviceError, match=r"Part 0 of 4 failed. Worker 0 on gpu 0 raised"):
        Scripted(1, _gone(MemoryError("none"), 0)).conduct()
    crew = Scripted(2, _gone(EncoderError("no such pool"), 1))
    with pytest.raises(EncoderError, match=r"^no such pool$"):
        crew.conduct()
    assert [worker for worker, _ in crew.told].count(1) == 1
    with pytest.raises(WorkerDiedError, match=r"^Part 0 of 4 failed. (Process 7 was killed. ){3}"):
        Scripted(1, _gone(Gone(), 0)).conduct()
    monkeypatch.setattr(workers, "RESTARTS", 0)
    with pytest.raises(WorkerDiedError, match=r"^Part . of . failed. Process 7 was killed. Fin"):
        Scripted(2, _gone(Gone(), 0, 1)).conduct()

    def dies_elsewhere(worker: int) -> Exception:
        return ValueError("odd") if worker == 0 else Gone()

    with pytest.raises(DeviceError, match="Worker 0 on gpu 0 raised ValueError: odd"):
        Scripted(2, dies_elsewhere).conduct()


class Mine:
    def encode(self, items: list[Any]) -> Any:
        raise AssertionError


def test_what_other_processes_cannot_have_is_refused_before_any_starts(pictures, choices, tmp_path):
    mine = EncoderSpec(Mine(), space={"name": "mine"})
    with pytest.raises(EncoderError, match=r"Mine is an object of this process.*Name it"):
        extract_on_devices(job(pictures, [*choices, mine], tmp_path, settled()), "cpu,cpu")
    with pytest.raises(EncoderError, match="--device all, or a list"):
        parse_devices(" , ")
    assert parse_devices("cpu, cpu:1") == ["cpu", "cpu:1"]


def test_all_devices_are_the_gpus_of_this_machine(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert parse_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert parse_devices("cuda:0, cuda:2,cuda,cpu") == ["cuda:0", "cuda:2", "cuda", "cpu"]
    with pytest.raises(EncoderError, match=r"no cuda:3: torch can use cuda:0, cuda:1, cuda:2\."):
        parse_devices("cuda:2,cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(EncoderError, match=r"no GPU .* --device cpu,cpu"):
        parse_devices("all")
    with pytest.raises(EncoderError, match=r"no GPU .* --device cpu,cpu"):
        parse_devices("cuda:0")


@pytest.mark.parametrize(
    ("blocks", "workers", "parts"),
    [(3, 2, 3), (8, 2, 8), (32, 2, 8), (160, 2, 40), (10**4, 2, 64), (12_208, 256, 3052)],
)
def test_parts_are_four_to_32_a_worker_and_more_than_four_only_of_four_blocks(
    blocks, workers, parts
):
    assert parts_of(blocks, workers) == parts
