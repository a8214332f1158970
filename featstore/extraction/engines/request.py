"""What a worker in another process needs to know of a job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featstore.errors import EncoderError
from featstore.extraction.options import EncoderChoice, Options
from featstore.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class JobRequest:
    """The arguments of `extract_many`, ready to be sent: encoders by name, no callbacks."""

    manifest: Manifest
    kind: str
    encoders: tuple[EncoderChoice, ...]
    store: Path
    options: Options


def make_request(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderChoice],
    store: str | Path,
    options: Options,
) -> JobRequest:
    """Check what can be checked before any process starts, and return what is sent to them.

    Raises
    ------
    EncoderError
        If an encoder is an object: it lives in this process alone; or its family does not take
        an option.
    UnknownEncoderError
        If a name means none.
    """
    from featstore.encoders.registry import check_options

    for choice in encoders:
        if not isinstance(choice.encoder, str):
            msg = (
                f"The encoder {type(choice.encoder).__qualname__} is an object of this process, "
                "and other processes must open encoders themselves. Name it (family:name, with "
                "weights), or extract without devices and engine."
            )
            raise EncoderError(msg)
        check_options(
            choice.encoder, **choice.model_options(), trust_remote_code=options.trust_remote_code
        )
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    return JobRequest(
        source,
        kind,
        tuple(encoders),
        Path(store).absolute(),
        replace(options, on_block=None, on_progress=None),
    )


def share_of_cores(workers: int) -> int:
    """Return the cores for each of several workers on this machine, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers)
