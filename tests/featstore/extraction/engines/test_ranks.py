"""Ranks that share nothing but the store leave what one process leaves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractResult, Manifest
from featstore.errors import EncoderError, TooManyFailuresError
from featstore.extraction.engines import Rank, extract_rank, local_device, rank_of
from featstore.extraction.targets import Job, Target
from featstore.manifest import read_manifest
from featstore.testing import toy_manifest
from tests.damage import lasting
from tests.featstore.extraction.conftest import Stop, stop_after
from tests.featstore.extraction.engines.conftest import IMAGES, journalled, settled
from tests.typed import headstock


def _rank(
    manifest: Manifest, choices: list[EncoderSpec], store: Path, rank: int, world: int, **o: Any
) -> list[ExtractResult]:
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(manifest)
    return extract_rank(Job(manifest, "image", choices, store, settled(**o)), Rank(rank, world))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_ranks_in_any_order_gives_the_same_bytes(
    pictures, choices, whole, tmp_path, world_size
):
    store = tmp_path / "store"
    left = []
    for rank in reversed(range(world_size)):
        assert not featstore.open_store(store).sets() if left else not store.exists()
        results = _rank(pictures, choices, store, rank, world_size)
        left.append([result.blocks_left for result in results])
    # 11 blocks: of three ranks, 2 has blocks 2, 5, 8 and 1 has 1, 4, 7, 10.
    assert left == {
        1: [[0, 0]], 2: [[6, 6], [0, 0]], 3: [[8, 8], [4, 4], [0, 0]],
    }[world_size]  # fmt: skip
    assert [(one.failed, one.new + one.reused) for one in results] == [(1, 42), (1, 42)]
    assert lasting(store) == whole
    again = _rank(pictures, choices, store, 0, world_size)
    assert [(one.new, one.revision_id) for one in again] == [
        (0, one.revision_id) for one in results
    ]


def test_a_rank_that_stops_is_made_good_by_another_number_of_ranks(
    pictures, choices, whole, tmp_path
):
    store = tmp_path / "store"
    with pytest.raises(Stop):
        _rank(pictures, choices, store, 1, 2, on_block=stop_after(5))
    assert journalled(store) == 5
    # Batch size and threads of what was begun are taken over without being named.
    begun = {"batch_size": None, "threads": None}
    assert [one.blocks_left for one in _rank(pictures, choices, store, 2, 3, **begun)] == [6, 6]
    assert [one.blocks_left for one in _rank(pictures, choices, store, 0, 3, **begun)] == [3, 3]
    last = _rank(pictures, choices, store, 1, 3, **begun)
    assert [one.blocks_left for one in last] == [0, 0]
    assert sum(one.new for one in last) < 2 * (IMAGES - 1) / 2
    assert lasting(store) == whole


def test_of_two_ranks_that_end_at_once_one_publishes_and_both_end_well(
    pictures, choices, whole, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    both_done = threading.Barrier(2, timeout=20)
    end_part, finish = Target.end_part, Target.finish
    published = []

    def wait_for_the_other(self: Target) -> ExtractResult:
        self.writer.sync()
        both_done.wait()
        return end_part(self)

    def count(self: Target, run: dict[str, Any]) -> ExtractResult:
        published.append(self.spec.key)
        return finish(self, run)

    monkeypatch.setattr(Target, "end_part", wait_for_the_other)
    monkeypatch.setattr(Target, "finish", count)
    with ThreadPoolExecutor(2) as pool:
        ranks = [pool.submit(_rank, pictures, choices[:1], store, rank, 2) for rank in range(2)]
        (first,), (second,) = (rank.result() for rank in ranks)
    assert len(published) == 1
    assert first.blocks_left == second.blocks_left == 0
    assert first.revision_id == second.revision_id
    made = lasting(store)
    del made["log.json"]  # the list of sets is another one, for there is one set only
    assert made.items() <= whole.items()


def test_failures_are_counted_over_all_ranks(pictures, choices, tmp_path):
    store = tmp_path / "store"
    for rank in (0, 2):
        _rank(pictures, choices[:1], store, rank, 3)  # block 5 with the bad picture is rank 2's
    with pytest.raises(TooManyFailuresError, match=r"1 of 43 items .* at most 0 may"):
        _rank(pictures, choices[:1], store, 1, 3, max_failures=0)
    assert not featstore.open_store(store).sets()
    _rank(pictures, choices[:1], store, 1, 3)
    assert featstore.open_store(store).sets()[0].commit.n_failed == 1


def test_a_file_behind_a_link_out_of_the_root_is_not_read(choices, tmp_path):
    manifest = toy_manifest(tmp_path / "m", 12, name="p", sizes=[(36, 40)])
    item, uri = manifest.items("image").select("item_id", "uri").row(4)
    (manifest.root / uri).symlink_to((manifest.root / uri).rename(tmp_path / "secret.png"))
    root: Any = manifest.root
    _rank(root, choices[:1], tmp_path / "store", 0, 2, max_failures=1)
    done = _rank(root, choices[:1], tmp_path / "store", 1, 2, max_failures=1)[0]
    assert list(done.failures) == [item]
    assert "a symbolic link leads out of the root" in done.failures[item]


def test_the_command_says_what_is_left(pictures, choices, tmp_path, capsys, monkeypatch):
    store = tmp_path / "store"
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    command = [
        "extract", str(pictures.root), "--kind", "image", "--encoder", str(choices[0].encoder),
        "--weights", str(choices[0].weights), "--store", str(store), "--jobs", "1",
        "-s", "timeout=0", "--shard", "auto",
    ]  # fmt: skip
    for rank in "10":
        monkeypatch.setenv("SLURM_PROCID", rank)
        # One block of all 43 rows: rank 0 has it, and rank 1 has nothing to do.
        assert headstock(*command) == (0 if rank == "1" else 3)
    shown = capsys.readouterr()
    assert "rank 1 of 2 is done; 1 blocks of p/image/timm.test_vit" in shown.err
    assert "42 new, 1 failed" in shown.out
    assert headstock(*command, "--device", "cpu,cpu") == 2
    assert "A shard is one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "rank", "world_size"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, 1, 4),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, 3, 8),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "8"}, 7, 8),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2",
          "SLURM_ARRAY_TASK_COUNT": "4"}, 2, 4),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_PROCID": "1",
          "SLURM_NTASKS": "4"}, 9, 12),
    ],
)  # fmt: skip
def test_the_environment_says_which_rank_this_is(environment, rank, world_size):
    assert rank_of("auto", environment) == Rank(rank, world_size)


@pytest.mark.parametrize(
    ("shard", "environment", "said"),
    [
        ("auto", {}, "or give --shard I/N"),
        ("auto", {"RANK": "", "WORLD_SIZE": "2"}, "in whole numbers"),
        ("4/4", {}, "Rank 4 of 4 does not exist"),
        # Two of the tasks of an array that are run again know of two only.
        ("auto", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3",
                  "SLURM_ARRAY_TASK_COUNT": "2"}, "Rank 4 of 2 does not exist"),
    ],
)  # fmt: skip
def test_what_no_rank_can_be_is_said(shard, environment, said):
    with pytest.raises(EncoderError, match=said):
        rank_of(shard, environment)


def test_a_rank_takes_the_gpu_of_its_place_on_the_machine(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device("cuda", {"LOCAL_RANK": "2"}) == "cuda:2"
    assert local_device("cuda", {"SLURM_LOCALID": "5"}) == "cuda:1"
    assert local_device("cuda:3", {"LOCAL_RANK": "2"}) == "cuda:3"
    assert local_device("cpu", {"LOCAL_RANK": "2"}) == "cpu"
