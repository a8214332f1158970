"""What a job would do: what is missing, how many bytes, roughly how long. Touches nothing.

Encoders are opened only where their dimension cannot be known otherwise: an encoder that the store
has seen is recorded there, and many dimensions are in `DIMS` or in small JSON files. That takes no
torch, and the hub is asked for one such file at most.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from featstore.command_line import human_bytes
from featstore.encoders.base import IMAGE_KINDS, PRECISIONS, TEXT_KINDS
from featstore.encoders.golden import golden_inputs
from featstore.encoders.weights import cached_file, hub_unreachable, one_line, parse_weights
from featstore.errors import EncoderError, FeatstoreError, needs_extra
from featstore.extraction.batches import torch_threads
from featstore.extraction.job import job_items, open_job
from featstore.extraction.options import (
    MODEL_OPTIONS,
    EncoderSpec,
    ExtractConfig,
    likely_device,
)
from featstore.extraction.targets import (
    Job,
    SetState,
    Target,
    free_bytes,
    inspect_set,
    make_targets,
)
from featstore.identity import encoder_slug
from featstore.manifest.manifest import Manifest
from featstore.store.catalog import finished_sets
from featstore.store.files import read_json
from featstore.store.layout import LayoutLimits, plan_array
from featstore.store.records import read_commit, read_pointer


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
    return JobPlan(sets, free_bytes(job.store))


def plan_items(
    source: Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: Path,
    config: ExtractConfig,
    measure: bool = False,
) -> JobPlan:
    """Say what an extraction of items would do, opening as few encoders as possible.

    Parameters
    ----------
    source, kind, encoders, store, config
        See `featstore.extraction.job.open_job`.
    measure : bool
        Open every encoder, and encode the golden inputs to see how long an item takes.

    Raises
    ------
    FeatstoreError
        If there are no such items, or an encoder has to be opened and cannot be.
    """
    dataset, items = job_items(source, kind, config)
    specs = [one for spec in encoders for one in spec.each_layer()]
    sets: list[SetPlan | None] = []
    for spec in specs:
        if specs.count(spec) > 1:
            raise EncoderError(f"{spec.encoder} is named twice. Name it once.")
        plan = None
        if not measure and isinstance(spec.encoder, str) and config.usual_pixels:
            likely = replace(config, device=likely_device(config.device))
            plan = _recorded(dataset, items, kind, spec, store, likely)
            plan = plan or _from_dim(dataset, items, kind, spec, store, likely)
        sets.append(plan)
    unknown = [spec for spec, plan in zip(specs, sets, strict=True) if plan is None]
    opened: list[SetPlan] = []
    if unknown:
        job = open_job(source, kind=kind, encoders=unknown, store=store, config=config)
        opened = plan_job(job, measure=measure).sets
    rest = iter(opened)
    too_large = source.count_larger(config.max_pixels) if kind in IMAGE_KINDS else 0
    return JobPlan([plan or next(rest) for plan in sets], free_bytes(store), too_large)


@dataclass(frozen=True)
class _Unopened:
    """An encoder as the store records it: enough to say which rows there are."""

    name: str
    space: Mapping[str, Any]
    dim: int
    device: str
    precisions = PRECISIONS

    def best_precision(self) -> tuple[str, str]:
        """Return what ``auto`` probably stands for; the encoder itself would look at its rows."""
        return "bfloat16" if self.device.startswith("cuda") else "float32", "not looked at"

    def compute_in(self, precision: str, reason: str) -> None:
        """Take a precision, which nothing is computed in."""


def _recorded(
    dataset: str,
    items: pl.DataFrame,
    kind: str,
    spec: EncoderSpec,
    store: Path,
    config: ExtractConfig,
) -> SetPlan | None:
    """Return the plan with an encoder that a run in the store has opened the same way."""
    if parse_weights(spec.weights, encoder=str(spec.encoder)).kind in ("file", "folder"):
        return None  # a run records their name alone, which other weights may have too
    kinds = next((kinds for kinds in (IMAGE_KINDS, TEXT_KINDS) if kind in kinds), frozenset())
    for directory in finished_sets(store):
        pointer: dict[str, Any] | None = None
        with contextlib.suppress(FeatstoreError):
            pointer = read_pointer(directory)
        if pointer is None or directory.parent.name not in kinds:
            continue
        if pointer["encoder"] != spec.encoder or not _opened_as(directory, spec):
            continue
        commit = read_commit(directory, str(pointer["revision"]))
        found: Any = _Unopened(str(spec.encoder), pointer["space"], commit.dim, config.device)
        targets = make_targets(
            dataset, items, kind=kind, opened=[(spec, found)], store=store, config=config
        )
        return _plan_set(store, targets[0])
    return None


def _opened_as(directory: Path, spec: EncoderSpec) -> bool:
    """Return whether a run that wrote to a set was given the encoder with these weights."""
    for path in (directory / "runs").glob("*.json"):
        with contextlib.suppress(FeatstoreError, OSError, KeyError, TypeError):
            settings = read_json(path)["settings"]
            # A run records all its encoders: the same name twice does not say which this set is.
            same = [one for one in settings["encoders"] if one["encoder"] == spec.encoder]
            usual = settings["decode"] == "cpu" and settings.get("resize", "pillow") == "pillow"
            if same == [spec.as_dict()] and usual:
                return True
    return False


def _from_dim(
    dataset: str,
    items: pl.DataFrame,
    kind: str,
    spec: EncoderSpec,
    store: Path,
    config: ExtractConfig,
) -> SetPlan | None:
    """Return the plan with an encoder that the store has not seen; None if it must be opened.

    Raises
    ------
    EncoderError
        If the weights are not there.
    """
    name = str(spec.encoder)
    slug = encoder_slug(name)
    if any(store.glob(f"*/*/{slug}-*")):
        return None  # which of their rows are these, the identity of the weights says
    dim = known_dim(spec)
    if dim is None:
        return None
    key = f"{dataset}/{kind}/{slug}"
    limits = LayoutLimits(block_rows=config.block_rows)
    layout = plan_array(items.height, dim, config.dtype, limits)
    size = sum(layout.file_bytes(file) for file in range(layout.n_files))
    state = SetState(
        key=key, state="missing", rows=items.height, blocks=layout.n_blocks, reused=0, staged=0,
        blocks_done=0, known=0, new=items.height, write_bytes=size,
    )  # fmt: skip
    return SetPlan(key, name, state, None, _UNTIMED)


#: Dimensions of encoders by name: of a timm model, the input of its classifier.
DIMS = {
    **dict.fromkeys(
        [f"timm:tf_efficientnet_lite{n}" for n in range(5)]
        + ["timm:efficientnet_b0", "timm:mobilenetv3_large_100"], 1280,
    ),
    **dict.fromkeys(["timm:resnet18", "timm:resnet34"], 512),
    **dict.fromkeys(["timm:resnet50", "timm:resnet101", "timm:resnet152"], 2048),
    "timm:vit_tiny_patch16_224": 192,
    "timm:vit_small_patch16_224": 384,
    **dict.fromkeys(
        [
            "timm:vit_base_patch16_224", "timm:vit_base_patch32_224",
            "timm:beit_base_patch16_224", "timm:deit_base_patch16_224",
        ], 768,
    ),
    **dict.fromkeys(
        [
            "timm:vit_large_patch16_224", "timm:vit_large_patch14_clip_336",
            "timm:beit_large_patch16_224", "timm:convnext_base",
            "timm:swin_base_patch4_window7_224",
        ], 1024,
    ),
    **dict.fromkeys(["timm:convnext_tiny", "timm:convnext_small"], 768),
    **dict.fromkeys(["timm:convnext_large", "timm:convnext_large_mlp"], 1536),
    **dict.fromkeys(["timm:convformer_s18", "timm:caformer_s18"], 2048),
    "timm:tiny_vit_21m_224": 576,
    "st:all-MiniLM-L6-v2": 384,
    "st:all-mpnet-base-v2": 768,
    "st:all-roberta-large-v1": 1024,
    "hf:roberta-base": 768,
    "hf:bert-base-uncased": 768,
}  # fmt: skip

#: Families and poolings that give a vector of the model's own dimension.
_POOLED = {("timm", None), ("oc", None), ("st", None), *(("hf", p) for p in ("cls", "mean"))}

_UNTIMED = "no earlier run of this encoder in the store; --measure times it"


def known_dim(spec: EncoderSpec) -> int | None:
    """Return the dimension of an encoder by name, without opening it; None if that is needed.

    Raises
    ------
    EncoderError
        If the weights are not there, or the hub must be asked for a model's configuration and does
        not give it.
    """
    family, _, model = str(spec.encoder).partition(":")
    source = parse_weights(spec.weights, encoder=str(spec.encoder))
    given = {name for name in MODEL_OPTIONS if getattr(spec, name) is not None}
    if given - {"pool"} or (family, spec.pool) not in _POOLED:
        return None  # whether the model takes them, it says when it is opened
    if family == "timm":
        return DIMS.get(f"timm:{model.partition('.')[0]}")
    if family == "oc":
        return _open_clip_dim(model.partition("/")[0])
    named = DIMS.get(str(spec.encoder).replace("st:sentence-transformers/", "st:"))
    if source.kind == "hub" and named is not None:
        return named
    if source.kind == "file":
        return None
    repo = model if "/" in model or family == "hf" else f"sentence-transformers/{model}"
    with needs_extra(str(spec.encoder)):
        return _text_dim(partial(_model_json, source.path, repo), family)


def _open_clip_dim(model: str) -> int | None:
    """Return the embed_dim of a model that open_clip ships a configuration of."""
    package = find_spec("open_clip")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "model_configs" / f"{model}.json"
        if path.is_file():
            return int(json.loads(path.read_text(encoding="utf-8"))["embed_dim"])
    return None


def _text_dim(read: Callable[[str], Any], family: str) -> int | None:
    """Return the dimension of a text model from its JSON files."""
    if family == "st":
        for module in reversed(read("modules.json") or []):
            facts: dict[str, Any] = {}
            if module.get("path"):
                facts = read(f"{module['path']}/config.json") or {}
            for name in ("out_features", "word_embedding_dimension", "embedding_dimension"):
                if name in facts:
                    modes = sum(on for key, on in facts.items() if key.startswith("pooling_mode_"))
                    listed = facts.get("pooling_mode")  # since sentence-transformers 6
                    modes = len(listed) if isinstance(listed, list) else modes
                    return int(facts[name] * max(1, modes))
    config: dict[str, Any] = read("config.json") or {}
    found = [config[name] for name in ("hidden_size", "d_model", "dim") if name in config]
    return int(found[0]) if found else None


def _model_json(folder: Path | None, repo: str, name: str) -> Any:
    """Return a JSON file of a model from its folder or the hub; None if the model has none.

    Raises
    ------
    EncoderError
        If the hub cannot be reached.
    """
    path = cached_file(repo, name) if folder is None else folder / name
    if folder is None and path is None:
        path = _downloaded(repo, name)
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None


def _downloaded(repo: str, name: str) -> Path | None:
    """Return a file of the hub; None if the repository has none of this name."""
    if reason := hub_unreachable():
        raise EncoderError(
            f"The dimension is not known without {name} of {repo}, and the hub cannot be reached: "
            f"{reason} Set HF_ENDPOINT to a mirror of it, or give the model's folder with "
            "--weights."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name))
    except EntryNotFoundError:
        return None
    except Exception as err:  # errors of several libraries: no such repository, no room
        raise EncoderError(f"The hub did not give {name} of {repo}: {one_line(err)}") from err


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
