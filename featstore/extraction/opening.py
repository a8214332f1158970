"""Open what a job is about: its items, its encoders, and their golden vectors.

Reference vectors tell whether an encoder is still the one that a set was made with.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import parse_json, read_json, same_file
from featstore.encoders import registry
from featstore.encoders.base import (
    AUTO,
    Encoder,
    golden_inputs,
)
from featstore.encoders.registry import ObjectEncoder, check_kind, check_options
from featstore.errors import (
    CorruptStoreError,
    EmptySelectionError,
    EncoderError,
    ManifestError,
)
from featstore.extraction.batches import BatchRunner
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.images import (
    SCALED_RULE,
    SCALED_SIDE,
    Geometry,
    view_items,
)
from featstore.manifest import Manifest
from featstore.store.records import Commit


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
    return opened


def _open(choice: EncoderSpec, kind: str, config: ExtractConfig) -> Encoder:
    encoder: Encoder
    if isinstance(choice.encoder, str):
        encoder = registry.open_encoder(
            choice.encoder,
            kind=kind,
            weights=choice.weights,
            device=config.device,
            # What a precision is best depends on the encoder and the set: see `Job.open`.
            precision="float32" if config.precision == AUTO else config.precision,
            **choice.model_options(),
        )
    else:
        encoder = ObjectEncoder(choice.encoder, space=choice.space or {}, kinds=frozenset({kind}))
    return encoder if kind != "image" else with_pixels(encoder, config)


def with_pixels(encoder: Any, config: ExtractConfig) -> Any:
    """Return an encoder of images as it is opened for these pixels: others make another space.

    Raises
    ------
    EncoderError
        If the encoder sees more of a picture than scaled decoding leaves.
    """
    if config.decode == "cpu":
        return encoder
    usual: Geometry | None = getattr(encoder, "geometry", None)
    if usual is not None and min(usual.resize) > SCALED_SIDE:
        raise EncoderError(
            f"{encoder.name} sees pictures of {min(usual.resize)} pixels, and scaled decoding "
            f"leaves {SCALED_SIDE} of a shorter side. Leave decode out."
        )
    encoder.space.setdefault("preprocessing", {}).setdefault("decode", {})["jpeg"] = SCALED_RULE
    return encoder


#: A smaller cosine between stored and present golden vectors means another space.
GOLDEN_COSINE = 0.999

GOLDEN_FILE = "golden.json"


class Golden:
    """The golden vectors of an encoder, computed when first needed.

    Parameters
    ----------
    encoder : Encoder
    threads : int, optional
        Threads of torch to compute them on, as the rows are.
    """

    def __init__(self, encoder: Encoder, threads: int | None = None) -> None:
        self._encoder = encoder
        self._threads = threads
        self._vectors: np.ndarray | None = None
        self._agreed: np.ndarray | None = None

    @property
    def vectors(self) -> np.ndarray:
        """The (g, d) vectors, float64, to six decimals as they are stored."""
        if self._vectors is None:
            encoder = self._encoder
            batch = [encoder.prepare(item) for item in golden_inputs(encoder.kinds)]
            runner = BatchRunner(
                encoder,
                len(batch),
                device="its device",
                threads=self._threads,
            )
            found = runner.encode(batch)
            self._vectors = np.round(found.astype(np.float64), 6)
        return self._vectors

    def document(self) -> dict[str, Any]:
        """Return what ``golden.json`` holds: the vectors agreed on, else the encoder's own."""
        return {"vectors": (self.vectors if self._agreed is None else self._agreed).tolist()}

    def agree(self, data: bytes, *, where: str) -> None:
        """Take the ``golden.json`` of another machine that makes the same set, and was first.

        Parameters
        ----------
        data : bytes
        where : str
            Names it in errors.

        Raises
        ------
        EncoderError
            If the encoder's own vectors have a cosine below 0.999 to those.
        CorruptStoreError
            If they are no golden vectors.
        """
        vectors = _parsed(parse_json(data, where=where), where)
        cosine = self._cosine(vectors)
        if cosine < GOLDEN_COSINE:
            raise EncoderError(
                f"{where}: another machine began this set, and its vectors of the built-in golden "
                f"inputs have a cosine of {cosine:.4f} to those of the encoder here (at least "
                f"{GOLDEN_COSINE:g} is needed). Use the library versions, device and precision "
                "of that machine, or delete the folder of this file to begin anew."
            )
        self._agreed = vectors

    def cosine(self, directory: Path, commit: Commit) -> float | None:
        """Return the smallest cosine to the golden vectors of a set, None if it has none.

        Raises
        ------
        CorruptStoreError
            If the set's file disagrees with its commit.
        """
        facts = commit.metadata.get(GOLDEN_FILE)
        if facts is None:
            return None
        path = directory / GOLDEN_FILE
        if not same_file(path, dict(facts)):
            raise CorruptStoreError(
                f"{path} is missing or differs from its commit record. Run `headstock store "
                "verify`."
            )
        return self._cosine(_parsed(read_json(path), str(path)))

    def _cosine(self, stored: np.ndarray) -> float:
        ours = self.vectors
        if stored.shape != ours.shape or not np.isfinite(stored).all():
            return -1.0
        norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(ours, axis=1)
        # Equal vectors agree, whatever their length: a zero has no direction.
        cosines = np.where(
            (stored == ours).all(axis=1),
            1.0,
            np.einsum("ij,ij->i", stored, ours) / np.where(norms > 0, norms, np.inf),
        )
        return float(cosines.min())


def require_same_encoder(golden: Golden, key: str, directory: Path, commit: Commit) -> None:
    """Raise if the encoder no longer reproduces the golden vectors of a set.

    Raises
    ------
    EncoderError
        If their smallest cosine is below 0.999.
    """
    cosine = golden.cosine(directory, commit)
    if cosine is not None and cosine < GOLDEN_COSINE:
        raise EncoderError(
            f"{key} cannot be extended or repaired: the encoder's vectors of the built-in golden "
            f"inputs have a cosine of {cosine:.4f} to those that its rows were made with (at least "
            f"{GOLDEN_COSINE:g} is needed). Another version of a library, another device or "
            "precision, or an encoder object that changed under the same name, may be why: "
            f"compare {directory.name}/runs with what is installed. Use what it was made with, "
            "or remove the set with `headstock store rm` and extract it whole."
        )


def _parsed(document: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(document["vectors"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptStoreError(
            f"{where} holds no golden vectors. Run `headstock store verify`."
        ) from err


PACKAGES = (
    "headstock",
    "numpy",
    "open_clip_torch",
    "pillow",
    "sentence-transformers",
    "timm",
    "torch",
    "transformers",
)


#: Facts of an encoder that differ between machines without changing a bit of what is stored.
OF_THE_RUN = ("versions", "weights", "compute")


def lasting_facts(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's facts that belong to the set, and so to its revision."""
    return {name: value for name, value in encoder.items() if name not in OF_THE_RUN}


def run_facts(encoder: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """Return what is true of this run only: date, machine, device, versions, weights' source."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "versions": versions,
        "encoder": {name: encoder[name] for name in OF_THE_RUN if name in encoder},
    }
