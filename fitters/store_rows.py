"""Real pairs of a store as rows to train on: read by chunks, transformed, never held whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.keys import canonical_json, sha256_hex
from featstore.store.pairs import PairedView
from featstore.store.views import EmbeddingsView
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.preparation import prepare
from fitters.store_moments import groups_of
from fitters.trained.sources import ArrayRows
from fitters.training_fits import TrainingSources


@dataclass(frozen=True, eq=False)
class PairedRows:
    """The pairs of two views; see `fitters.trained.batches.PairSource`. Every pair counts alike.

    Attributes
    ----------
    paired : PairedView
    image, text : SideTransform
        Done to rows as they are read.
    groups : ndarray of int, shape (n,)
    """

    paired: PairedView[EmbeddingsView]
    image: SideTransform
    text: SideTransform
    groups: npt.NDArray[np.int64]
    weight: None = None

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.paired)

    @property
    def p(self) -> int:
        """Columns of x as they come out of the transform."""
        return self.paired.x.dim + self.image.homogeneous

    @property
    def q(self) -> int:
        """Columns of y."""
        return self.paired.y.dim

    @property
    def fingerprint(self) -> str:
        """Digest of the rows and of what is done to them."""
        facts: dict[str, Any] = {"x": self.paired.x.fingerprint, "y": self.paired.y.fingerprint}
        for side, transform in (("image", self.image), ("text", self.text)):
            mean = None if transform.mean is None else sha256_hex(transform.mean.tobytes())
            facts[side] = {"mean": mean, "homogeneous": transform.homogeneous}
        facts["groups"] = sha256_hex(np.ascontiguousarray(self.groups).tobytes())
        return sha256_hex(canonical_json(facts))

    def read(
        self, start: int, stop: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return pairs `start` to `stop`, transformed."""
        rows = np.arange(start, stop)
        x, y = self.paired.x.take(rows).numpy(), self.paired.y.take(rows).numpy()
        return self.image.apply(x).astype(np.float32), self.text.apply(y).astype(np.float32)

    def take(self, rows: npt.NDArray[np.int64]) -> PairedRows:
        """Return some of the pairs."""
        kept = replace(
            self.paired,
            x=self.paired.x.take(rows),
            y=self.paired.y.take(rows),
            weight=self.paired.weight[rows],
        )
        return replace(self, paired=kept, groups=self.groups[rows])


def training_sources(
    pool: EmbeddingsView,
    paired: PairedView[EmbeddingsView],
    prototypes: Pairs | None,
    bias: npt.NDArray[Any] | None,
    *,
    centre: bool,
) -> TrainingSources:
    """Return both sources as `fitters.recipe.fit_alignment` would transform them.

    Parameters
    ----------
    pool : EmbeddingsView
        Unlabelled images, whose mean centres the images.
    paired : PairedView
        The real pairs.
    prototypes : Pairs, optional
        Small, and in memory.
    bias : ndarray of shape (c,), optional
        Goes to the prototypes as a column more.
    centre : bool
        False: rows are brought to unit length and no more.
    """
    wide = bias is not None
    image, text = SideTransform(label="images", homogeneous=wide), SideTransform(label="texts")
    image_centre, text_centre = "none", "none"
    if centre:
        batches = pool.batches(reuse=True)
        image = SideTransform.fit(batches, label="images", homogeneous=wide)
        image_centre = "given mean"
    made = None
    if prototypes is not None:
        prepared = prepare(prototypes, None, image.mean, bias_column=bias, centre=centre)
        assert prepared.prototypes is not None
        made, text, text_centre = (
            ArrayRows.of(prepared.prototypes), prepared.text, prepared.text_centre
        )  # fmt: skip
    elif centre:
        texts = ((y, weight) for _, y, weight in paired.batches(reuse=True))
        text, text_centre = SideTransform.fit(texts, label="texts"), "real texts"
    first = 0 if made is None else int(made.groups.max()) + 1
    groups = np.unique(groups_of(paired), return_inverse=True)[1].astype(np.int64) + first
    real = PairedRows(paired, image, text, groups)
    return TrainingSources(made, real, image, text, image_centre, text_centre)
