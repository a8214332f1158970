"""Open what a job is about: its items, and its encoders with the pixels that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from featstore.decoding.pool import RESIZE_RULE, RULE, decode_on_gpu
from featstore.encoders import registry
from featstore.encoders.base import AUTO, Encoder
from featstore.encoders.golden import cosine_of, enlarged_golden
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.encoders.registry import check_kind, check_options
from featstore.errors import EmptySelectionError, EncoderError, ManifestError
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.views import view_items
from featstore.images import SCALED_RULE, SCALED_SIDE, Geometry, decode_image
from featstore.manifest.manifest import Manifest


def job_items(source: Manifest, kind: str, config: ExtractConfig) -> tuple[str, pl.DataFrame]:
    """Return the dataset and the item table that a job is about.

    Raises
    ------
    ManifestError
        If the manifest has no items of this kind, or views are asked for of what is no image.
    EmptySelectionError
        If there is no item.
    """
    items = source.items(kind)
    items = items if config.limit is None else items.head(config.limit)
    if items.is_empty():
        raise EmptySelectionError(f"Manifest {source.name} has no {kind} item to extract.")
    if not config.views:
        return source.name, items
    if kind != "image":
        raise ManifestError(f"Only images have views; {kind} items have none. Leave views out.")
    dataset = f"{source.name}.views{config.views}-seed{config.seed}"  # a dot no manifest has
    return dataset, view_items(items, views=config.views, seed=config.seed)


def open_encoders(
    choices: Sequence[EncoderSpec], kind: str, config: ExtractConfig
) -> list[Encoder]:
    """Open the encoders of a job; layers of one model share it.

    Raises
    ------
    UnknownEncoderError
        If a name means none; looked at before any weights are read.
    EncoderError
        If one cannot be built, does not take items of this kind, or takes no such option.
    """
    for choice in choices:
        if isinstance(choice.encoder, str):
            check_kind(choice.encoder, kind)
            check_options(choice.encoder, **choice.model_options())
        elif choice.space is None:
            raise EncoderError(
                "An encoder object needs space={...}: the facts that identify its space."
            )
    opened: list[Encoder] = []
    for choice in choices:
        pairs = zip(choices, opened, strict=False)
        like: Any = next((one for other, one in pairs if choice.shares_pass(other)), None)
        opened.append(like.beside(choice.pool) if like else _open(choice, kind, config))
    for encoder in opened if kind == "image" and not config.usual_pixels else ():
        record_pixels(encoder, config)
    return opened


def _open(choice: EncoderSpec, kind: str, config: ExtractConfig) -> Encoder:
    encoder: Encoder
    if not isinstance(choice.encoder, str):
        encoder = ObjectEncoder(choice.encoder, space=choice.space or {}, kinds=frozenset({kind}))
        return encoder if kind != "image" else with_pixels(encoder, config)
    encoder = registry.open_encoder(
        choice.encoder,
        kind=kind,
        weights=choice.weights,
        device=config.device,
        # What a precision is best depends on the encoder and the set: see `Job.open`.
        precision="float32" if config.precision == AUTO else config.precision,
        **choice.model_options(),
        compile=config.compile,
    )
    return encoder if kind != "image" else with_pixels(encoder, config)


def with_pixels(encoder: Any, config: ExtractConfig) -> Any:
    """Return an encoder of images as it is opened for these pixels: others make another space.

    Raises
    ------
    EncoderError
        If the encoder has a transform of its own that has to be run as it is, or sees more of a
        picture than scaled decoding leaves.
    """
    if config.usual_pixels:
        return encoder
    usual: Geometry | None = getattr(encoder, "geometry", None)
    if config.resize != "pillow" and usual is None:
        raise EncoderError(
            f"{encoder.name} prepares pictures in a way of its own, so {config.resize} cannot "
            "resize them. Leave resize out."
        )
    if config.decode == "scaled" and usual is not None and min(usual.resize) > SCALED_SIDE:
        raise EncoderError(
            f"{encoder.name} sees pictures of {min(usual.resize)} pixels, and scaled decoding "
            f"leaves {SCALED_SIDE} of a shorter side. Leave decode out."
        )
    keyed = encoder.space.setdefault("preprocessing", {})
    rule = {"gpu": RULE, "scaled": SCALED_RULE}.get(config.decode)
    if rule is not None:
        keyed.setdefault("decode", {})["jpeg"] = rule
    if usual is not None and (config.decode == "gpu" or config.resize != "pillow"):
        # Where others decode: the same pixels for those that are prepared one by one, and in runs.
        device = config.device if config.decode == "gpu" else "cpu"
        encoder.geometry = replace(usual, resizer="torchvision", device=device)
        if "geometry" in encoder.space:  # of an object
            encoder.space["geometry"] = encoder.geometry.facts()
        here = "torchvision, antialiased, on uint8"
        keyed["resizer"] = RESIZE_RULE if config.decode == "gpu" else here
    return encoder


def record_pixels(encoder: Any, config: ExtractConfig) -> None:
    """Note in an encoder's facts how far its pixels turn its vectors from those of the default's.

    Smallest and mean cosine over the golden pictures, enlarged eight times and saved as JPEG.
    """
    geometry: Geometry | None = getattr(encoder, "geometry", None)
    files = enlarged_golden()
    if config.decode == "gpu":
        pictures = [decode_on_gpu(file, config.device) for file in files]
    else:
        pictures = [decode_image(file, scaled=config.decode == "scaled") for file in files]
    ours = encoder.encode([encoder.prepare(picture) for picture in pictures])
    if geometry is not None:
        encoder.geometry = replace(geometry, resizer="pillow")
    usual = encoder.encode([encoder.prepare(decode_image(file)) for file in files])
    if geometry is not None:
        encoder.geometry = geometry
    compute = encoder.facts.setdefault("compute", {})
    compute["cosine_to_usual_pixels"] = cosine_of(ours, usual).as_dict()
