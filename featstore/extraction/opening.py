"""Open what a job is about: its items, its encoders, and the rows that they have given before.

Reference vectors tell whether an encoder is still the one that a set was made with. An item's
content hash says what was encoded, the space_id by what: rows of other datasets with both the same,
and the same precision and dtype, are copied bit for bit. A source whose golden vectors the encoder
does not give is left alone: its rows may be of another space after all.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import parse_json, read_json, same_file
from featstore.encoders import registry
from featstore.encoders.base import (
    AUTO,
    IMAGE_KINDS,
    TEXT_KINDS,
    Encoder,
    golden_inputs,
)
from featstore.encoders.registry import ObjectEncoder, check_kind, check_options
from featstore.errors import (
    CorruptStoreError,
    EmptySelectionError,
    EncoderError,
    FeatstoreError,
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
from featstore.store.layout import SetSpec
from featstore.store.pairs import EmbeddingsView
from featstore.store.records import Commit
from featstore.store.store import FeatureStore, SetInfo

logger = logging.getLogger(__name__)


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
            self._vectors = np.round(runner.encode(batch).astype(np.float64), 6)
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


_HASH = "content_sha256"


@dataclass(frozen=True)
class KnownRows:
    """Where the rows of a job's items can be had.

    Attributes
    ----------
    sources : list of EmbeddingsView
        Sets that have some of them; their blocks are checked when first read.
    source, row : ndarray of shape (n,)
        For each item the number of its source, or -1, and its row in there.
    """

    sources: list[EmbeddingsView]
    source: np.ndarray
    row: np.ndarray

    def has(self, rows: slice) -> np.ndarray:
        """Return a boolean for each of `rows`: whether it can be copied."""
        return np.asarray(self.source[rows] >= 0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return known rows as float32, (b, d): a cast to the stored dtype gives the same bits.

        Raises
        ------
        CorruptStoreError
            If a source's bytes disagree with its commit.
        """
        out = np.empty((rows.size, self.sources[0].dim), dtype=np.float32)
        for number in np.unique(self.source[rows]):
            here = np.flatnonzero(self.source[rows] == number)
            out[here] = self.sources[number].take(self.row[rows[here]]).numpy(np.float32)
        return out


def find_known_rows(
    root: Path, spec: SetSpec, items: pl.DataFrame, golden: Golden | None
) -> KnownRows | None:
    """Look for the items of a job in every finished set of the store.

    Parameters
    ----------
    spec : SetSpec
        The set that is being made: its own earlier rows are its writer's affair.
    items : DataFrame
        With ``content_sha256``; items without one are never known.
    golden : Golden, optional
        Golden vectors of the encoder. None looks without comparing, for a plan.

    Returns
    -------
    KnownRows or None
        None if nothing is known.
    """
    # A source's bytes are checked block by block, when they are first read.
    store = FeatureStore(root, verify="first-touch")
    candidates = _candidates(store, spec)
    if _HASH not in items.columns or not candidates:
        return None
    wanted = items.select(_HASH).with_row_index("item").drop_nulls()
    source = np.full(items.height, -1, dtype=np.int32)
    row = np.zeros(items.height, dtype=np.int64)
    sources: list[EmbeddingsView] = []
    for info in candidates:
        if wanted.is_empty():
            break
        if (info.attributes.get("precision"), info.commit.dtype) != (
            spec.precision,
            spec.dtype,
        ):
            continue
        try:
            view = store.view(str(info.key))
            found = _matches(view, wanted)
            if found.is_empty() or not _trusted(root, info, golden):
                continue
        except FeatstoreError as err:
            logger.warning("%s is damaged and not reused from: %s", info.key, err)
            continue
        at = found["item"].to_numpy()
        source[at] = len(sources)
        row[at] = found["row"].to_numpy()
        sources.append(view)
        wanted = wanted.join(found, on="item", how="anti")
    return KnownRows(sources, source, row) if sources else None


def _matches(view: EmbeddingsView, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the (item, row) pairs whose content the view has."""
    if _HASH not in view.items.columns:
        return pl.DataFrame(schema={"item": pl.UInt32, "row": pl.UInt32})
    have = view.items.select(_HASH).with_row_index("row").drop_nulls().unique(_HASH, keep="first")
    return wanted.join(have, on=_HASH, how="inner", maintain_order="left").select("item", "row")


def _candidates(store: FeatureStore, spec: SetSpec) -> list[SetInfo]:
    """Return the other finished sets of the space, sorted by key."""
    kinds = next((kinds for kinds in (IMAGE_KINDS, TEXT_KINDS) if spec.kind in kinds), frozenset())
    found = []
    for key in store:
        if key.split("/")[1] not in kinds:
            continue
        try:
            info = store.info(key)
        except FeatstoreError:
            continue  # damaged: not a source
        if info.commit.space_id == spec.space_id and info.commit.set_id != spec.set_id:
            found.append(info)
    return found


def _trusted(root: Path, info: SetInfo, golden: Golden | None) -> bool:
    """Return whether a source's golden vectors are the encoder's."""
    if golden is None:
        return True
    cosine = golden.cosine(info.key.directory(root), info.commit)
    if cosine is None:
        logger.info("%s has no golden vectors; its rows are not reused.", info.key)
        return False
    if cosine < GOLDEN_COSINE:
        logger.warning(
            "%s says it is of the same space, but its golden vectors have a cosine of %.4f to "
            "this encoder's: its rows are computed anew.",
            info.key,
            cosine,
        )
        return False
    return True
