"""Open what a job needs: its items, and its encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from featstore.decoding.nvjpeg import RULE
from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EmptySelectionError, EncoderError, ManifestError, needs_extra
from featstore.extraction.image_views import view_items, views_dataset
from featstore.extraction.options import EncoderChoice, Options
from featstore.manifest import Manifest


def job_items(source: Manifest, kind: str, options: Options) -> tuple[str, pl.DataFrame]:
    """Return the dataset and the item table that a job is about.

    Raises
    ------
    ManifestError
        If the manifest has no items of this kind, or views are asked for of what is no image.
    EmptySelectionError
        If there is no item.
    """
    if kind not in source.tables:
        known = ", ".join(source.tables) or "none"
        msg = f"Manifest {source.name} has no items of kind {kind!r}. It has: {known}."
        raise ManifestError(msg)
    items = source.tables[kind]
    items = items if options.limit is None else items.head(options.limit)
    if items.is_empty():
        msg = f"Manifest {source.name} has no {kind} item to extract."
        raise EmptySelectionError(msg)
    if not options.views:
        return source.name, items
    if kind != "image":
        msg = f"Only images have views; {kind} items have none. Leave views out."
        raise ManifestError(msg)
    dataset = views_dataset(source.name, options.views, options.seed)
    return dataset, view_items(items, views=options.views, seed=options.seed)


def open_choices(choices: Sequence[EncoderChoice], kind: str, options: Options) -> list[Encoder]:
    """Open the encoders of a job.

    Raises
    ------
    UnknownEncoderError
        If a name means none; looked at before any weights are read.
    EncoderError
        If one cannot be built, does not take items of this kind, or takes no such option.
    """
    from featstore.encoders.registry import check_options

    if not choices:
        msg = "An extraction needs at least one encoder."
        raise EncoderError(msg)
    for choice in choices:
        if isinstance(choice.encoder, str):
            check_options(
                choice.encoder,
                **choice.model_options(),
                trust_remote_code=options.trust_remote_code,
            )
        elif choice.space is None:
            msg = "An encoder object needs space={...}: the facts that identify its space."
            raise EncoderError(msg)
    opened = [_open(choice, kind, options) for choice in choices]
    for encoder in opened:
        if kind not in encoder.kinds:
            known = " and ".join(sorted(encoder.kinds))
            msg = f"Encoder {encoder.name} encodes {known}, not {kind}."
            raise EncoderError(msg)
    return opened


def default_threads(choices: Sequence[EncoderChoice]) -> int | None:
    """Return the threads that torch would run on, or None for encoder objects alone."""
    if not any(isinstance(choice.encoder, str) for choice in choices):
        return None
    with needs_extra("Encoding with a named encoder"):
        import torch

    return torch.get_num_threads()


def _open(choice: EncoderChoice, kind: str, options: Options) -> Encoder:
    if not isinstance(choice.encoder, str):
        return ObjectEncoder(choice.encoder, space=choice.space or {}, kinds=frozenset({kind}))
    from featstore.encoders.registry import open_encoder

    encoder = open_encoder(
        choice.encoder,
        kind=kind,
        weights=choice.weights,
        device=options.device,
        precision=options.precision,
        **choice.model_options(),
        trust_remote_code=options.trust_remote_code,
        compile=options.compile,
    )
    if options.decode == "gpu" and kind == "image":
        space: Any = encoder.space
        space["preprocessing"]["decode"]["jpeg"] = RULE
    return encoder
