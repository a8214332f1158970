"""Reference vectors of a set, and the facts of the run that made it."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from featstore.encoders.base import Encoder
from featstore.encoders.golden import golden_inputs
from featstore.errors import CorruptStoreError, EncoderError
from featstore.extraction.batches import BatchRunner
from featstore.store.files import parse_json, read_json, same_file
from featstore.store.records import Commit

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
            # One batch, or less where even so few do not fit.
            runner = BatchRunner(
                encoder,
                len(batch),
                device="its device",
                halve=True,
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


def require_same_encoder(golden: Golden, key: str, directory: Path, commit: Commit) -> float | None:
    """Raise if the encoder no longer reproduces the golden vectors of a set.

    Returns
    -------
    float or None
        The smallest cosine; None if the set has no golden vectors.

    Raises
    ------
    EncoderError
        If it is below 0.999.
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
    return cosine


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
