"""Options of an extraction, those that its runs recorded, and what it reports.

Each field is a keyword argument of `featstore.extract`, and a flag or a setting (``-s``) of
``headstock extract``.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from featstore.encoders.base import AUTO, Precision
from featstore.errors import EncoderError
from featstore.images import MAX_PIXELS
from featstore.options import (
    check_values,
    option,
    option_names,
    options_of,
    take_options,
    with_options,
)
from featstore.store import BLOCK_ROWS

if TYPE_CHECKING:
    from featstore.store.store import SetInfo

logger = logging.getLogger(__name__)

_Config = TypeVar("_Config", "ExtractConfig", "HeadConfig")

#: Seconds that one image may take to decode.
DECODE_TIMEOUT = 60.0

#: What can be asked of a named encoder; each value that is given makes another space.
MODEL_OPTIONS = ("pool", "prompt_name", "prefix", "max_length")

#: Takes what a part has counted, and its items that failed.
OnPart = Callable[[Mapping[str, float], set[str]], object]

#: How plain JPEG files are decoded.
Decode = Literal["cpu", "scaled"]


def ignore(*_: object) -> None:
    """Ignore a report: the default of every callback."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes
    ----------
    rows_done, rows_total : int
        Rows that are encoded, copied or were there, and all; over every set of the job.
    failed : int
        Items without an embedding so far.
    per_second : float
        Items a second since the beginning; an item is done when every encoder asked for has its
        row.
    eta_seconds : float or None
        What is left, at that speed; None while it is unknown.
    bottleneck : str
        One sentence about what takes most of the time; empty if nothing does.
    """

    rows_done: int
    rows_total: int
    failed: int
    per_second: float
    eta_seconds: float | None
    bottleneck: str


@dataclass(frozen=True)
class ExtractResult:
    """What became of one set.

    Attributes
    ----------
    key : str
        ``dataset/kind/encoder`` with the full directory name.
    reused, new : int
        Rows that were there already, in this set or in another of the same space, and rows
        that this call encoded.
    failed : int
        Items of the set without an embedding, whenever they failed.
    failures : dict
        item_id -> reason, for the items that failed.
    truncated : int
        Texts longer than the encoder's context, cut by its tokenizer in this call.
    copied : int
        Of the reused rows, those copied from another set, where an item has the same content.
    truncated_items : list of str
        item_ids of the truncated texts.
    blocks_left : int
        Of a part (``--shard``) only: blocks of the set that no process has done yet. The set is
        published when there are none, and has no revision before.

    Examples
    --------
    >>> done = ExtractResult("birds/image/toy", reused=2, new=3, failed=0, revision_id="5f1c")
    >>> done.reused + done.new
    5
    """

    key: str
    reused: int
    new: int
    failed: int
    revision_id: str
    failures: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    copied: int = 0
    truncated_items: list[str] = field(default_factory=list)
    blocks_left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return what ``headstock extract --json`` prints."""
        return dict(vars(self))


@with_options
@dataclass(frozen=True)
class EncoderSpec:
    """One encoder of a job.

    Attributes
    ----------
    {options}
    space : mapping, optional
        Of an encoder object, which needs it: the facts that identify its embedding space, at
        least ``name``. Same facts, same space_id: that promise is the caller's.

    Examples
    --------
    >>> EncoderSpec("timm:resnet50", pool="layer:layer3").pool
    'layer:layer3'
    """

    encoder: Any = option(
        help="Encode with this encoder, given as family:name, such as timm:resnet50. Repeat it "
        "to decode each image once for several encoders; then repeat --weights and the "
        "model's options as well, with - for a default.",
        flag=None,
    )
    weights: str | None = option(
        None,
        help="Load the weights from package:NAME, a file, a folder or hub [default: hub].",
        flag=None,
    )
    pool: str | None = option(
        None,
        help="Pool the tokens in this way: cls, patch_mean, cls+patch_mean or layer:NAME (timm), "
        "or cls, mean, pooler or last (hf) [default: for timm the input of the head].",
        flag="-s",
    )
    layers: tuple[str, ...] = option(
        (),
        help="Store the output of each of these modules of a timm model as a set of its own, "
        "such as blocks.5,blocks.11. Tokens or positions are averaged as by pool="
        "layer:NAME, and one forward pass serves all.",
        flag="-s",
    )
    prefix: str | None = option(
        None, help="Put this prefix before every text, such as 'query: ' (st, hf).", flag="-s"
    )
    prompt_name: str | None = option(
        None, help="Put the model's own prompt of this name before every text (st).", flag="-s"
    )
    max_length: int | None = option(
        None,
        help="Truncate texts to this many tokens, fewer than the model's maximum (st, hf).",
        at_least=1,
        flag="-s",
    )
    trust_remote_code: bool = option(False, help="Run Python code that comes with the model.")
    space: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.layers and self.pool is not None:
            raise EncoderError(
                f"{self.encoder} is asked for layers {', '.join(self.layers)} and for pool "
                f"{self.pool!r}. Layers are averaged: leave the pool out, or name the encoder once "
                "more for it."
            )

    def each_layer(self) -> list[EncoderSpec]:
        """Return a spec for every set: one for each layer, or this one if it names none."""
        pools = [f"layer:{name}" for name in self.layers]
        return [replace(self, layers=(), pool=pool) for pool in pools] or [self]

    def shares_pass(self, other: EncoderSpec) -> bool:
        """Return whether both are layers of one model, opened in the same way."""
        layers = all(str(one.pool).startswith("layer:") for one in (self, other))
        return layers and replace(self, pool=other.pool) == other

    def model_options(self) -> dict[str, Any]:
        """Return what `open_encoder` takes beside name and weights; each is keyed."""
        return {name: getattr(self, name) for name in (*MODEL_OPTIONS, "trust_remote_code")}

    def as_dict(self) -> dict[str, Any]:
        """Return what the provenance records: no object, and no path of this machine."""
        name = self.encoder if isinstance(self.encoder, str) else type(self.encoder).__qualname__
        found: dict[str, Any] = {"encoder": name}
        if self.weights is not None:
            shared = self.weights == "hub" or self.weights.startswith("package:")
            found["weights"] = self.weights if shared else Path(self.weights).name
        given = {name: getattr(self, name) for name in MODEL_OPTIONS}
        return found | {option: value for option, value in given.items() if value is not None}


@with_options
@dataclass(frozen=True)
class ExtractConfig:
    """The options of an extraction, all but manifest, kind, encoders and store.

    Attributes
    ----------
    {options}
    device_reason : str
        Why the device was taken in place of ``auto``; empty if it was asked for.
    part : (rank, world size), optional
        Of an engine: encode every world-size-th block beside the other ranks, and publish nothing.
    pinned : mapping, optional
        Of an engine: by set_id the batch size, threads and device type that all parts of a set
        share.
    on_part : callable, optional
        Of an engine: called at the end with what was counted and the items that failed, in place of
        `on_progress`.
    on_block, on_progress : callable, optional
        Called with the number of every block that is safely on disk, and after every batch.

    Raises
    ------
    EncoderError
        If an option has a value that it does not take.

    Examples
    --------
    >>> ExtractConfig(batch_size=64, dtype="float32").precision
    'auto'
    """

    device: str = option(
        AUTO,
        help="Run the encoder on this device, named as in torch; auto takes a GPU if torch can "
        "use one, else the CPU, and the CPU for a head.",
        flag=None,
    )
    precision: Precision | Literal["auto"] = option(
        AUTO,
        help="Compute in this precision. auto keeps that of a "
        "set that is there, else takes bfloat16 on cuda if the cosine is at least 0.999, "
        "else float32.",
    )
    dtype: str = option(
        "float16",
        help="Store embeddings of images and texts in this dtype; heads are stored in float32.",
        choices=("float16", "bfloat16", "float32"),
        flag="--dtype",
    )
    batch_size: int | None = option(
        None,
        help="Encode this many items at once. A resumed job keeps its number, and begins anew with "
        "another [default: the encoder's, 256 on cuda].",
        at_least=1,
    )
    threads: int | None = option(
        None,
        help="Compute with this many threads [default: the cores that the job may use]. A "
        "resumed job keeps its number, and begins anew with another.",
        at_least=1,
        flag="-s",
    )
    jobs: int | None = option(
        None,
        help="Decode images in this many processes [default: chosen by the number of cores].",
        at_least=1,
    )
    decode_timeout: float | None = option(
        DECODE_TIMEOUT,
        help="Allow this many seconds for an image. Images are decoded in processes of their "
        "own, so that a crash or a hang costs only that image; 0 decodes in threads without "
        "a limit.",
        at_least=0,
        flag="-s timeout",
    )
    decode: Decode = option(
        "cpu",
        help="Decode JPEG files in this way: cpu decodes them whole, scaled at a lower "
        "resolution where the shorter side has 1,024 pixels or more, which makes another "
        "embedding space.",
        flag="-s",
    )
    tiff: bool = option(
        False, help="Also decode the first page of TIFF files (off by default).", flag="-s"
    )
    max_pixels: int = option(
        MAX_PIXELS,
        help="Leave out images of more pixels than this, and list them. While one is decoded, it "
        "takes four bytes a pixel.",
        at_least=1,
        below=2**34,
        flag="-s",
    )
    thumbnails: bool = option(
        False, help="Keep a small WebP thumbnail of every image in the store."
    )
    views: int = option(
        0,
        help="Encode this many seeded augmented views of each image instead of the image, as a "
        "dataset of their own.",
        at_least=0,
        flag="--augment",
    )
    seed: int = option(
        0, help="Draw the augmented views with this random seed.", at_least=0, flag=None
    )
    limit: int | None = option(
        None, help="Encode only the first N items of the manifest [default: all].", at_least=1
    )
    max_failures: int | None = option(
        None,
        help="Let this many items fail before the job stops [default: the larger of 10 and 0.1 %, "
        "besides images that max_pixels or tiff would take].",
        at_least=0,
    )
    retry_failed: bool = option(
        False, help="Try the failed items of a finished set again, which makes a new revision."
    )
    repair: bool = option(
        False,
        help="Encode again what is damaged of finished sets, with batch size, threads and device "
        "as recorded. `headstock store repair` prints the whole command.",
    )
    wait: float = option(
        0.0, help="Wait this many seconds for another writer of the set.", at_least=0
    )
    staging: Path | None = option(
        None,
        help="Keep unfinished sets of a store in a bucket in this folder [default: in the user's "
        "cache].",
        flag=None,
    )
    block_rows: int = option(BLOCK_ROWS, help="Rows of a block.", flag=None, at_least=1)
    device_reason: str = field(default="", repr=False)
    part: tuple[int, int] | None = None
    pinned: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)
    on_part: OnPart | None = field(default=None, repr=False)
    on_block: Callable[[int], None] | None = field(default=None, repr=False)
    on_progress: Callable[[Progress], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_values(self, EncoderError, of="an extraction")
        if self.decode_timeout == 0:
            object.__setattr__(self, "decode_timeout", None)
        if self.repair and self.part is not None:
            raise EncoderError("A repair runs in one process: without --shard, devices or engine.")

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for the provenance: no path, no callable."""
        names = option_names(type(self))
        return {name: getattr(self, name) for name in names if name != "staging"}


@with_options
@dataclass(frozen=True)
class HeadConfig:
    """The options of the extraction of a classification head.

    Attributes
    ----------
    {options}
    device, wait, staging, repair
        As in `ExtractConfig`.

    Examples
    --------
    >>> HeadConfig(label_set="imagenet1k").device
    'cpu'
    """

    label_set: str | None = option(
        None,
        help="Name the label set of a head, if its weights do not tell it. Of a file of classes "
        "it is the name of the new set.",
        flag="-s",
    )
    label_file: Path | None = option(
        None,
        help="Read the classes of a head, in the order of its rows, from this .txt, .csv or "
        ".json file instead of MANIFEST.",
        flag=None,
    )
    device: str = "cpu"
    wait: float = 0.0
    staging: Path | None = None
    repair: bool = False

    def __post_init__(self) -> None:
        # A GPU gains nothing: four pictures are encoded, in float32.
        if self.device == AUTO:
            object.__setattr__(self, "device", "cpu")


def tell_how(line: str) -> None:
    """Log how a job encodes, once a job; a command shows it on stderr."""
    if line:
        logger.info(line)


def settle_device(config: ExtractConfig, choices: Collection[EncoderSpec]) -> ExtractConfig:
    """Return the config with a device in place of ``auto``, and why that one.

    Parameters
    ----------
    config : ExtractConfig
    choices : collection of EncoderSpec
        Without an encoder by name the CPU is stated, and torch not imported.
    """
    if config.device != AUTO:
        return config
    needed = any(isinstance(one.encoder, str) for one in choices)
    if not needed or not (sys.modules.get("torch") or find_spec("torch")):
        return replace(config, device="cpu", device_reason="no encoder of torch is run")
    from featstore.parallel import best_device  # multiprocessing, which a help does without

    best = best_device()
    reason = "torch can use this GPU" if best != "cpu" else "torch can use no GPU here"
    return replace(config, device=best, device_reason=reason)


def settle_options(
    encoder: Any, config: _Config, options: Mapping[str, Any], *, of: str
) -> tuple[EncoderSpec, _Config]:
    """Return encoder and config with keyword arguments taken in: fields of the one or the other.

    Parameters
    ----------
    encoder : str, EncoderSpec or object
    config : ExtractConfig or HeadConfig
    options : mapping
    of : str
        Name of the function that was called, for an error.

    Raises
    ------
    OptionError
        If neither has a field of a name.
    """
    spec = encoder if isinstance(encoder, EncoderSpec) else EncoderSpec(encoder)
    own, more = take_options(options, EncoderSpec, type(config), of=of)
    return replace(spec, **own), replace(config, **more)


def run_settings(directory: Path) -> list[dict[str, Any]]:
    """Return batch size, threads and device type of the runs of a set."""
    from featstore.store.records import runs

    return [
        {
            "device": str(run.get("device", "cpu")).partition(":")[0],
            **{name: _count(run.get(name)) for name in ("batch", "threads")},
        }
        for run in runs(directory)
    ]


def recorded_choice(directory: Path, encoder: str, *, local: str = "") -> EncoderSpec:
    """Return how the newest run of a set asked for its encoder.

    Parameters
    ----------
    directory : Path
        Folder of the set.
    encoder : str
        Name of the encoder: a run may have had several.
    local : str
        What stands for the folder of weights of one's own, of which their name alone is recorded;
        by default they are left out.
    """
    from featstore.store.records import runs

    for run in runs(directory):
        package = mapping_of(mapping_of(run.get("encoder")).get("weights")).get("package")
        weights = f"package:{package}" if isinstance(package, str) else None
        requested = mapping_of(run.get("settings")).get("encoders")
        ways = [mapping_of(one) for one in requested] if isinstance(requested, list) else []
        way = next((way for way in ways if way.get("encoder") == encoder), {})
        chosen = {name: way[name] for name in MODEL_OPTIONS if name in way}
        if weights is None and local and way.get("weights", "hub") != "hub":
            weights = f"{local}/{way['weights']}"
        return EncoderSpec(encoder, weights=weights, **chosen)
    return EncoderSpec(encoder)


def recorded_weights(root: Path, sets: Iterable[SetInfo]) -> str | None:
    """Return the weights that the newest run of one of these sets records, or None.

    A set that was pulled has no runs: the first of the others answers.
    """
    choices = (recorded_choice(one.key.directory(root), one.encoder) for one in sets)
    return next((one.weights for one in choices if one.weights), None)


#: The options of an extraction that decide which set it makes, or which images it decodes.
_DECISIVE = (
    "dtype", "precision", "views", "seed", "decode", "tiff", "max_pixels",
)  # fmt: skip


def typed_options(directory: Path) -> str:
    """Return the options of the runs of a set, as they are typed."""
    from featstore.store.records import runs

    every = [mapping_of(run.get("settings")) for run in runs(directory)] or [{}]
    # What one of them decoded is decoded again.
    largest = max(_count(one.get("max_pixels")) or MAX_PIXELS for one in every)
    tiff = any(one.get("tiff") is True for one in every)
    chosen, typed = {**every[0], "tiff": tiff, "max_pixels": largest}, ""
    for one in options_of(ExtractConfig):
        value = chosen.get(one.name, one.default)
        if one.name in _DECISIVE and value != one.default and one.takes(value):
            value = "yes" if value is True else shlex.quote(str(value))
            typed += f" {one.shown_flag}{'=' if one.setting else ' '}{value}"
    return typed


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def mapping_of(value: Any) -> dict[str, Any]:
    """Return a value that should be a mapping, or an empty one."""
    return value if isinstance(value, dict) else {}
