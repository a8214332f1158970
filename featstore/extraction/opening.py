"""Open what a job needs: its items, and its encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from featstore.decoding.nvjpeg import RULE
from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EmptySelectionError, EncoderError, ManifestError
from featstore.extraction.image_views import view_items, views_dataset
from featstore.extraction.options import EncoderChoice, Options
from featstore.images import ImageError, decode_image
from featstore.manifest import Manifest
from featstore.sources import ByteReader

#: Images on which the head identity W f + b = logits is checked before the first block.
HEAD_CHECK_IMAGES = 4


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
    from featstore.encoders.registry import check_name

    if not choices:
        msg = "An extraction needs at least one encoder."
        raise EncoderError(msg)
    for choice in choices:
        if isinstance(choice.encoder, str):
            check_name(choice.encoder)
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


def check_heads(encoders: Sequence[Encoder], items: pl.DataFrame, reader: ByteReader) -> None:
    """Check W f + b = logits on the first readable images, for encoders that have a head."""
    checks = [encoder for encoder in encoders if hasattr(encoder, "check_head")]
    if not checks:
        return
    pictures = []
    for item in items.head(5 * HEAD_CHECK_IMAGES).iter_rows(named=True):
        try:
            pictures.append(decode_image(reader.read(item)))
        except (ImageError, OSError):
            continue  # the job itself lists it
        if len(pictures) == HEAD_CHECK_IMAGES:
            break
    for encoder in checks if pictures else []:
        check: Any = encoder
        check.check_head([encoder.prepare(picture) for picture in pictures])


def default_threads(choices: Sequence[EncoderChoice]) -> int | None:
    """Return the threads that torch would run on, or None for encoder objects alone."""
    if not any(isinstance(choice.encoder, str) for choice in choices):
        return None
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
        pool=choice.pool,
        prompt_name=choice.prompt_name,
        prefix=choice.prefix,
        max_length=choice.max_length,
        trust_remote_code=options.trust_remote_code,
        compile=options.compile,
    )
    if options.decode == "gpu" and kind == "image":
        space: Any = encoder.space
        space["preprocessing"]["decode"]["jpeg"] = RULE
    return encoder
