"""``--shard``: processes that someone else starts, Slurm or torchrun.

The ranks share only the store. Each one encodes its part; the rank that then finds every block
done gathers and publishes, and the others report what is left and exit with code 0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from featstore.errors import ClaimLostError, EncoderError, needs_extra
from featstore.extraction.options import settle_device, tell_how
from featstore.extraction.progress import ExtractResult
from featstore.extraction.targets import Job
from featstore.extraction.workers import merge_results, open_on, run_part, settle
from featstore.parallel import available_cores

#: Seconds that a rank waits for another one to end its publishing.
PATIENCE = 600.0


@dataclass(frozen=True)
class Rank:
    """Which of several processes this one is."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise EncoderError(
                f"Rank {self.rank} of {self.world_size} does not exist: ranks are 0 to "
                "world size - 1. Give a --shard I/N that fits."
            )


def extract_rank(job: Job, place: Rank) -> list[ExtractResult]:
    """Do one rank's share of a job; the last rank to end publishes.

    Every rank is called with the same job but, if it likes, another device. It takes its share of
    the cores of its node: see `featstore.parallel.available_cores`. Batch size and threads must be
    the same in all of them, for blocks of different ones are not mixed: name the threads if the
    nodes have different numbers of cores, or of ranks.

    Parameters
    ----------
    job : Job
        Of a manifest that was read `unchecked`, if it is large: each rank looks for its own files.
    place : Rank

    Returns
    -------
    list of ExtractResult
        One an encoder; while others are not done, with ``blocks_left`` and no revision.

    Raises
    ------
    EncoderError
        If the batch size is "auto": ranks cannot agree on one.
    FeatstoreError
        As for `extract`.
    """
    if job.config.batch_size == "auto" and place.world_size > 1:
        raise EncoderError(
            "Ranks cannot agree on --batch-size auto. Give a number: what one process found is "
            "in its log and in the runs/ of its sets."
        )
    config = settle_device(job.config, job.encoders)
    config = replace(config, part=None, wait=max(config.wait, PATIENCE))
    device = local_device(config.device)
    with contextlib.closing(
        open_on(replace(job, config=config), device, cores=available_cores())
    ) as opened:
        pinned, _, how = settle(opened)
        tell_how(how)
        try:
            done = run_part(opened, (place.rank, place.world_size), pinned, count_left=True)
        except ClaimLostError:
            # Others may have finished everything while this process stood still.
            found = [target.finished() for target in opened.targets]
            if None in found:
                raise
            return [one for one in found if one is not None]
        if any(result.blocks_left for result in done):
            return done
        return merge_results([done], run_part(opened, None, pinned))


def rank_of(shard: str, environment: Mapping[str, str] | None = None) -> Rank:
    """Return which process this is: of ``I/N`` the I-th, of ``auto`` what the environment says.

    Looked at in this order: torchrun's ``RANK`` and ``WORLD_SIZE``; a Slurm array's
    ``SLURM_ARRAY_TASK_ID``, ``_MIN``, ``_STEP`` and ``_COUNT``, whose tasks may have several
    processes each; ``SLURM_PROCID`` and ``SLURM_NTASKS``.

    Raises
    ------
    EncoderError
        If there is no such rank, or the environment does not say.

    Examples
    --------
    >>> rank_of("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    Rank(rank=3, world_size=8)
    """
    if shard != "auto":
        return Rank(*map(int, shard.split("/")))
    found = {**(os.environ if environment is None else environment)}
    if {"RANK", "WORLD_SIZE"} <= found.keys():
        return Rank(_number(found, "RANK"), _number(found, "WORLD_SIZE"))
    processes = _number(found, "SLURM_NTASKS", 1)
    process = _number(found, "SLURM_PROCID", 0)
    if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= found.keys():
        first = _number(found, "SLURM_ARRAY_TASK_MIN", 0)
        step = max(1, _number(found, "SLURM_ARRAY_TASK_STEP", 1))
        task = (_number(found, "SLURM_ARRAY_TASK_ID") - first) // step
        tasks = _number(found, "SLURM_ARRAY_TASK_COUNT")
        return Rank(task * processes + process, tasks * processes)
    if {"SLURM_PROCID", "SLURM_NTASKS"} <= found.keys():
        return Rank(process, processes)
    raise EncoderError(
        "--shard auto finds neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and "
        "SLURM_NTASKS, nor a Slurm array. Start it there, or give --shard I/N."
    )


def local_device(device: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the GPU of this process: ``cuda`` is ``cuda:<local rank>``.

    Local ranks beyond the GPUs that the process sees wrap around: under Slurm each one may see
    a single GPU, which is its first.
    """
    if device != "cuda":
        return device
    with needs_extra("--device cuda"):
        import torch

    found = os.environ if environment is None else environment
    local = int(found.get("LOCAL_RANK", found.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % max(1, torch.cuda.device_count())}"


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise EncoderError(f"{name} is {text!r}, not a number. Give --shard I/N.") from None
