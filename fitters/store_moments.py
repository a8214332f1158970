"""Moments of a store's pairs: read once, in two passes, and kept in the user's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.keys import sha256_hex
from featstore.store.pairs import PairedView
from featstore.store.views import EmbeddingsView
from fitters.choice import moments_of
from fitters.moment_fits import MomentSources
from fitters.moments.accumulation import Batch, accumulate, accumulate_folds
from fitters.moments.cache import read_entry, write_entry
from fitters.moments.moments import Moments
from fitters.moments.sums import Precision
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.preparation import prepare
from fitters.select.folds import folds_by_group

N_FOLDS = 4


@dataclass(frozen=True, eq=False)
class MomentsRequest:
    """What the moments are of.

    Attributes
    ----------
    pool : EmbeddingsView
        Unlabelled images, whose mean centres the images.
    paired : PairedView
        The real pairs.
    prototypes : Pairs, optional
        Small, and in memory.
    name_facts : dict
        What decides the prototypes.
    precision : {"float32", "float64", "bf16"}
    seed : int
        Draws the folds.
    raw : bool
        Take the rows as they are: no unit length, no centring.
    """

    pool: EmbeddingsView
    paired: PairedView[EmbeddingsView]
    prototypes: Pairs | None
    name_facts: dict[str, Any]
    precision: Precision
    seed: int
    raw: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the moments."""
        weight = np.ascontiguousarray(self.paired.weight, dtype="<f8")
        return {
            "x": {"set": self.paired.x.key, "fingerprint": self.paired.x.fingerprint},
            "y": {"set": self.paired.y.key, "fingerprint": self.paired.y.fingerprint},
            "weight": sha256_hex(weight.tobytes()),
            "image_mean": None if self.raw else self.pool.fingerprint,
            "prototypes": self.name_facts,
            "preprocessing": "none" if self.raw else "unit, centred by source, unit",
            "folds": {"n": N_FOLDS, "seed": self.seed, "groups": group_column(self.paired)},
            "precision": self.precision,
        }


def group_column(paired: PairedView[EmbeddingsView]) -> str:
    """Return what real pairs must not be split by: their description, or else their image."""
    return "item_id" if paired.x.items["class_id"].null_count() else "class_id"


def pairs_of(paired: PairedView[EmbeddingsView]) -> Pairs:
    """Return the pairs in memory, grouped by `group_column`."""
    x, y = paired.numpy()
    return Pairs(x, y, groups_of(paired), paired.weight)


def groups_of(paired: PairedView[EmbeddingsView]) -> npt.NDArray[Any]:
    """Return the group of each pair as text."""
    return paired.x.items[group_column(paired)].to_numpy().astype(str)


def moment_sources(request: MomentsRequest, *, cached: bool) -> tuple[MomentSources, bool]:
    """Return the moments of the transformed pairs, and whether they came from the cache.

    Nothing is kept if the cache cannot be written: it only saves time.
    """
    facts = request.facts
    held = read_entry(facts) if cached else None
    if held is None:
        parts, vectors = _read(request)
        if cached:
            with contextlib.suppress(OSError):
                write_entry(facts, parts, vectors)
    else:
        parts, vectors = held
    folds = [parts[name] for name in sorted(parts) if name.startswith("fold")]
    whose = "real texts" if request.prototypes is None else "class texts"
    if request.raw:
        image, text, whose = (
            SideTransform.identity("images"),
            SideTransform.identity("texts"),
            "none",
        )
    else:
        image = SideTransform(mean=vectors["image_mean"], label="images")
        text = SideTransform(mean=vectors["text_mean"], label="texts")
    return MomentSources(parts.get("prototypes"), folds, image, text, whose), held is not None


def _read(
    request: MomentsRequest,
) -> tuple[dict[str, Moments], dict[str, npt.NDArray[np.float64]]]:
    """Read the rows: the means first, then the moments of the rows about them."""
    paired = request.paired
    parts: dict[str, Moments] = {}
    means: dict[str, npt.NDArray[np.float64]] = {}
    if request.raw:
        batches: Iterable[Batch] = paired.batches(reuse=True)
    else:
        image, text = _transforms(request, parts)
        means = {f"{side}_mean": t.mean for side, t in (("image", image), ("text", text))
                 if t.mean is not None}  # fmt: skip
        batches = ((image.apply(x), text.apply(y), w) for x, y, w in paired.batches(reuse=True))
    groups = groups_of(paired)
    n_folds = min(N_FOLDS, len(np.unique(groups)))
    if n_folds < 2:
        parts["fold 0"] = accumulate(batches, precision=request.precision)
    else:
        folds = folds_by_group(groups, n_folds, np.random.default_rng(request.seed))
        found = accumulate_folds(batches, folds, groups=groups, precision=request.precision)
        parts |= {f"fold {number}": part for number, part in enumerate(found)}
    return parts, means


def _transforms(
    request: MomentsRequest, parts: dict[str, Moments]
) -> tuple[SideTransform, SideTransform]:
    """Return what is done to images and texts, and add the moments of the prototypes."""
    image = SideTransform.fit(request.pool.batches(reuse=True), label="images")
    if request.prototypes is None:
        texts = ((y, weight) for _, y, weight in request.paired.batches(reuse=True))
        return image, SideTransform.fit(texts, label="texts")
    sources = prepare(request.prototypes, None, image.mean)
    assert sources.prototypes is not None
    parts["prototypes"] = moments_of(sources.prototypes)
    return image, sources.text
