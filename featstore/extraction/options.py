"""What a job is asked for: its encoders, and everything else that can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from featstore.errors import EncoderError
from featstore.extraction.progress import BlockDone, Progress
from featstore.store.layout import BLOCK_ROWS

#: Stored dtype of image and text embeddings.
DEFAULT_DTYPE = "float16"

#: Seconds that one image may take to decode.
DECODE_TIMEOUT = 60.0

#: What can be asked of a named encoder; each value that is given makes another space.
MODEL_OPTIONS = ("pool", "prompt_name", "prefix", "max_length")

OnError = Literal["skip", "fail"]

#: Where plain JPEG files are decoded.
Decode = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class EncoderChoice:
    """One encoder of a job.

    Attributes
    ----------
    encoder : str or object
        ``family:name``, or any object with ``encode(list of PIL images or str) -> (b, d)``.
    weights, pool, prompt_name, prefix, max_length : optional
        Of a name; see `featstore.encoders.open_encoder`.
    space : mapping, optional
        Of an object, which needs it: the facts that identify its embedding space.
    """

    encoder: Any
    weights: str | None = None
    pool: str | None = None
    prompt_name: str | None = None
    prefix: str | None = None
    max_length: int | None = None
    space: Mapping[str, Any] | None = None

    def model_options(self) -> dict[str, Any]:
        """Return what `open_encoder` takes beside name and weights; each is keyed."""
        return {option: getattr(self, option) for option in MODEL_OPTIONS}

    def as_dict(self) -> dict[str, Any]:
        """Return what the provenance records: no object, and no path of this machine."""
        name = self.encoder if isinstance(self.encoder, str) else type(self.encoder).__qualname__
        found: dict[str, Any] = {"encoder": name}
        if self.weights is not None:
            shared = self.weights == "hub" or self.weights.startswith("package:")
            found["weights"] = self.weights if shared else Path(self.weights).name
        given = self.model_options().items()
        return found | {option: value for option, value in given if value is not None}


@dataclass(frozen=True)
class Options:
    """The options of `extract`, all but manifest, kind, encoders and store; see there.

    Two more are for engines. ``part`` is (rank, world size): encode every world-size-th block
    beside the other ranks, and publish nothing. ``pinned`` has, by set_id, the batch size,
    threads and sort of device that all parts of a set share.
    """

    dtype: str = DEFAULT_DTYPE
    precision: str = "float32"
    device: str = "cpu"
    batch_size: int | Literal["auto"] | None = None
    threads: int | None = None
    workers: int | None = None
    decode_timeout: float | None = DECODE_TIMEOUT
    decode: Decode = "cpu"
    tiff: bool = False
    thumbnails: bool = False
    views: int = 0
    seed: int = 0
    limit: int | None = None
    on_error: OnError = "skip"
    max_failures: int | None = None
    retry_failed: bool = False
    trust_remote_code: bool = False
    compile: bool = False
    wait: float = 0.0
    block_rows: int = BLOCK_ROWS
    log: Path | None = None
    part: tuple[int, int] | None = None
    pinned: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)
    on_block: Callable[[BlockDone], None] | None = field(default=None, repr=False)
    on_progress: Callable[[Progress], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        faults = [
            (self.on_error not in ("skip", "fail"), "on_error", "skip or fail"),
            (
                self.decode == "gpu" and not self.device.startswith("cuda"),
                "device",
                "a GPU (cuda) if it is to decode",
            ),
            (self.views < 0, "views", "at least 0"),
            (self.seed < 0, "seed", "at least 0"),
            (self.workers is not None and self.workers < 1, "workers", "at least 1"),
            (self.threads is not None and self.threads < 1, "threads", "at least 1"),
            (self.limit is not None and self.limit < 1, "limit", "at least 1"),
            (
                self.batch_size not in (None, "auto")
                and not (isinstance(self.batch_size, int) and self.batch_size > 0),
                "batch_size",
                "a positive number, or 'auto'",
            ),
            (
                self.decode_timeout is not None and not self.decode_timeout > 0,
                "decode_timeout",
                "a positive number of seconds, or None for no limit",
            ),
        ]
        for wrong, name, what in faults:
            if wrong:
                msg = f"The '{name}' of an extraction must be {what}; got {getattr(self, name)!r}."
                raise EncoderError(msg)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for the provenance: no path, no callable."""
        left_out = {"log", "part", "pinned", "on_block", "on_progress"}
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in left_out
        }
