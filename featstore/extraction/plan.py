"""What a job would do: what is missing, how many bytes, roughly how long. Touches nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from featstore.command_line import human_bytes
from featstore.encoders.base import IMAGE_KINDS
from featstore.encoders.golden import golden_inputs
from featstore.errors import FeatstoreError
from featstore.extraction.batches import torch_threads
from featstore.extraction.targets import (
    Job,
    SetState,
    Target,
    free_bytes,
    inspect_set,
)
from featstore.store.catalog import finished_sets
from featstore.store.files import read_json
from featstore.store.records import read_pointer


@dataclass(frozen=True)
class SetPlan:
    """One set of a job, as it would be made.

    Attributes
    ----------
    state : SetState or None
        None if the job would refuse; `error` says why.
    seconds : float or None
        Rough time, None if unknown; `basis` says what it rests on.
    """

    key: str
    encoder: str
    state: SetState | None
    seconds: float | None
    basis: str
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore plan --json`` prints."""
        flat = {} if self.state is None else asdict(self.state)
        return {
            **flat,
            "key": self.key,
            "encoder": self.encoder,
            "seconds": self.seconds,
            "basis": self.basis,
            "error": self.error,
        }


@dataclass(frozen=True)
class JobPlan:
    """Every set of a job, and the room that there is for them.

    Attributes
    ----------
    sets : list of SetPlan
    free_bytes : int
    too_large : int
        Images of which the manifest says that they have more pixels than are decoded.
    """

    sets: list[SetPlan]
    free_bytes: int
    too_large: int = 0

    @property
    def write_bytes(self) -> int:
        """Bytes that the job writes."""
        return sum(one.state.write_bytes for one in self.sets if one.state is not None)

    @property
    def seconds(self) -> float | None:
        """Rough time of the whole job, None if that of a set is unknown."""
        found = [one.seconds for one in self.sets]
        return None if None in found else sum(second for second in found if second is not None)

    @property
    def errors(self) -> list[str]:
        """What stands in the way."""
        errors = [one.error for one in self.sets if one.error]
        if self.write_bytes > self.free_bytes:
            errors.append(
                f"The job writes {human_bytes(self.write_bytes)}, but "
                f"{human_bytes(self.free_bytes)} are free."
            )
        return errors

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore plan --json`` prints."""
        return {
            "sets": [one.as_dict() for one in self.sets],
            "write_bytes": self.write_bytes,
            "free_bytes": self.free_bytes,
            "seconds": self.seconds,
            "too_large": self.too_large,
            "errors": self.errors,
        }


def plan_job(job: Job, *, measure: bool = False) -> JobPlan:
    """Say what a job would do.

    Parameters
    ----------
    job : Job
        See `featstore.extraction.job.open_job`.
    measure : bool
        Encode the golden inputs to see how long an item takes. Otherwise the time is that of
        earlier runs of the encoder in this store.
    """
    measured = partial(_measured, job) if measure else None
    sets = [_plan_set(job.store, target, measured=measured) for target in job.targets]
    large = job.source.count_larger(job.config.max_pixels) if job.kind in IMAGE_KINDS else 0
    return JobPlan(sets, free_bytes(job.store), large)


#: Where no run tells the time of a set.
_UNTIMED = "no earlier run of this encoder in the store; --measure times it"


def _plan_set(
    store: Path, target: Target, *, measured: Callable[[Target], float] | None = None
) -> SetPlan:
    name = target.encoder.name
    try:
        state = inspect_set(target, known=target.known_rows(None))
    except FeatstoreError as err:
        notes = " ".join(getattr(err, "__notes__", []))
        return SetPlan(str(target.spec.key), name, None, None, "", f"{err} {notes}".strip())
    if not state.new:
        return SetPlan(str(target.spec.key), name, state, 0.0, "nothing to encode")
    each: float | None
    if measured is not None:
        each, basis = measured(target), "golden inputs, encoded now; decoding not included"
    else:
        each, basis = _remembered(store, target)
    seconds = None if each is None else each * state.new
    return SetPlan(str(target.spec.key), name, state, seconds, basis)


def _measured(job: Job, target: Target) -> float:
    """Return the seconds of an item, from a second pass over the golden inputs."""
    encoder = target.encoder
    inputs = golden_inputs(encoder.kinds)
    with torch_threads(job.threads):
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            encoder.encode([encoder.prepare(item) for item in inputs])
            seconds = time.perf_counter() - started
    return seconds / len(inputs)


def _remembered(store: Path, target: Target) -> tuple[float | None, str]:
    """Return the seconds of an item in the latest run of this encoder, and which run that was."""
    runs: list[tuple[str, float, str]] = []
    for directory in finished_sets(store):
        try:
            pointer = read_pointer(directory)
        except FeatstoreError:
            continue
        if pointer is None or pointer.get("space_id") != target.spec.space_id:
            continue
        for path in (directory / "runs").glob("*.json"):
            found = _run_speed(path, target)
            if found is not None:
                runs.append((path.name, *found))
    if not runs:
        return None, _UNTIMED
    _, each, date = max(runs)
    return each, f"the run of {date}"


def _run_speed(path: Path, target: Target) -> tuple[float, str] | None:
    """Return (seconds an item, date) of a run on the same device and in the same precision."""
    try:
        run = read_json(path)
        settings = run["settings"]
        count, seconds, date = int(run["encoded"]), float(run["seconds"]), str(run["date"])
        same = run["device"] == target.config.device
        same &= settings["precision"] == target.spec.precision
    except (FeatstoreError, OSError, KeyError, TypeError, ValueError):
        return None
    return (seconds / count, date) if same and count > 0 and seconds > 0 else None
