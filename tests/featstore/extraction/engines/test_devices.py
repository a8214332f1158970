"""One process a device: killed, interrupted, refused; the store stays the same."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

import featstore
from featstore import EncoderSpec, extract_many
from featstore.errors import DeviceError, EncoderError, WorkerDiedError
from featstore.extraction.engines import extract_on_devices, parse_devices, parts_of
from featstore.extraction.options import Progress
from featstore.extraction.targets import Job
from tests.assertions import ends_what_it_starts
from tests.damage import lasting
from tests.featstore.extraction.conftest import SPACE, MeanColour
from tests.featstore.extraction.engines.conftest import IMAGES, journalled, settled

pytestmark = pytest.mark.usefixtures("forked")


def test_a_process_that_is_killed_ends_the_job_and_the_same_call_does_the_rest(
    pictures, choices, whole, tmp_path
):
    store = tmp_path / "store"
    seen: list[Progress] = []
    before = set(multiprocessing.active_children())

    def kill_one(_: Progress) -> None:
        min(set(multiprocessing.active_children()) - before, key=lambda one: one.name).kill()

    one = Job(pictures, "image", choices, store, settled(on_progress=kill_one))
    match = "ended before its work was done.*run the same command again, with fewer"
    with ends_what_it_starts(), pytest.raises(WorkerDiedError, match=match):
        extract_on_devices(one, "cpu,cpu")
    assert not featstore.open_store(store).sets()
    assert journalled(store) > 0
    again = Job(pictures, "image", choices, store, settled(on_progress=seen.append))
    with ends_what_it_starts():
        results = extract_on_devices(again, "cpu,cpu")
    assert lasting(store) == whole
    assert [(one.failed, one.new + one.reused) for one in results] == [(1, 42), (1, 42)]
    assert 0 < results[0].new < IMAGES - 1
    assert [one.revision_id for one in results] == [
        info.commit.revision_id
        for one in results
        for info in featstore.open_store(store).sets()
        if str(info.key) == one.key
    ]
    assert seen[-1].rows_total == 2 * IMAGES
    assert 0 <= min(one.rows_done for one in seen) < max(one.rows_done for one in seen)


def test_an_interruption_ends_every_process_and_one_alone_goes_on(
    pictures, choices, whole, tmp_path
):
    store = tmp_path / "store"
    before = set(multiprocessing.active_children())

    def interrupt(_: Progress) -> None:  # as Ctrl-C does: every process of the terminal has it
        for child in set(multiprocessing.active_children()) - before:
            os.kill(child.pid or 0, signal.SIGINT)
        raise KeyboardInterrupt

    config = settled(on_progress=interrupt)
    with ends_what_it_starts(), pytest.raises(KeyboardInterrupt):
        extract_on_devices(Job(pictures, "image", choices[:1], store, config), ["cpu"])
    assert not featstore.open_store(store).sets()
    results = extract_many(
        pictures, kind="image", encoders=choices, store=store, config=settled(batch_size=3)
    )
    # What was done when the word came was written down before the process left.
    assert 0 < results[0].new < IMAGES - 1
    assert lasting(store) == whole


def test_what_raises_on_a_device_ends_the_job_and_what_is_done_is_kept(pictures, fickle, tmp_path):
    encoders, alone, store = [fickle("cpu:1")], tmp_path / "alone", tmp_path / "store"
    match = r"A worker on cpu:1 raised RuntimeError: CUDA error: an illegal memory.*blocks are kept"
    with ends_what_it_starts(), pytest.raises(DeviceError, match=match) as raised:
        extract_on_devices(Job(pictures, "image", encoders, store, settled()), "cpu:1,cpu:2")
    # Where the exception came from in the other process.
    assert "fickle.py" in str(raised.value.__cause__)
    assert not featstore.open_store(store).sets()
    assert journalled(store) > 0
    for folder in (store, alone):
        extract_many(pictures, kind="image", encoders=encoders, store=folder, config=settled())
    assert lasting(store) == lasting(alone)


def test_what_other_processes_cannot_have_is_refused_before_any_starts(pictures, choices, tmp_path):
    mine = EncoderSpec(MeanColour(), space=SPACE)
    with pytest.raises(EncoderError, match=r"MeanColour is an object of this process.*Name it"):
        extract_on_devices(Job(pictures, "image", [*choices, mine], tmp_path, settled()), "cpu,cpu")
    with pytest.raises(EncoderError, match="`device=all`, or a list"):
        parse_devices(" , ")
    assert parse_devices("cpu, cpu:1") == ["cpu", "cpu:1"]


def test_all_devices_are_the_gpus_of_this_machine(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert parse_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert parse_devices("cuda:0, cuda:2,cuda,cpu") == ["cuda:0", "cuda:2", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(EncoderError, match=r"no GPU .* `device=cpu,cpu`"):
        parse_devices("all")


@pytest.mark.parametrize(
    ("blocks", "workers", "parts"),
    [(3, 2, 3), (8, 2, 8), (32, 2, 8), (160, 2, 40), (10**4, 2, 64), (12_208, 256, 3052)],
)
def test_parts_are_four_to_32_a_worker_and_more_than_four_only_of_four_blocks(
    blocks, workers, parts
):
    assert parts_of(blocks, workers) == parts
