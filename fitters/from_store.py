"""Training pairs and moments from a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import MisalignedItemsError
from featstore.identity import canonical_json, sha256_hex
from featstore.parallel import Run, Workers
from featstore.store.pairs import EmbeddingsView, PairedView
from featstore.store.tables import join_ids
from fitters.aligners.base import Projection
from fitters.alignment import Alignment
from fitters.moments.accumulation import (
    BLOCK_ROWS,
    accumulate_part,
    add_parts,
    part_slices,
    pilot_shifts,
)
from fitters.moments.cache import read_entry, write_entry
from fitters.moments.moments import Folds, Moments, moments_of
from fitters.moments.transform import SideTransform, Sums, mean_of, row_norms, sum_rows
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select.grid import folds_by_group
from fitters.settings import MomentsPrecision, Preparation
from fitters.sources import Sources, prepare
from fitters.trained.base import ArrayRows

if TYPE_CHECKING:
    from fitters.trained.training import PairSource

N_FOLDS = 4

#: Of a Ray that is started for moments: parts that are early wait there before they go to disk.
OBJECT_STORE_BYTES = 500_000_000


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
    precision: MomentsPrecision
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
            "folds": {"n": N_FOLDS, "seed": self.seed, "groups": self.paired.group_column},
            "precision": self.precision,
        }


def moment_sources(request: MomentsRequest, *, workers: Workers | None = None) -> Sources[Folds]:
    """Return the moments of the transformed pairs.

    What is fitted does not record whether they came from the cache: a fit that was killed ends in
    the same bytes when it is asked for again. Nothing is kept if the cache cannot be written: it
    only saves time. Who accumulates them is this process unless `workers` says otherwise; with as
    many threads the bits are the same.

    Raises
    ------
    EngineError
        If Ray is asked for and not installed, or gave a worker up.
    """
    facts = request.facts
    held = read_entry(facts)
    if held is None:
        with (workers or Workers()).connected() as run:
            parts, vectors = _read(request, run)
        with contextlib.suppress(OSError):
            write_entry(facts, parts, vectors)
    else:
        parts, vectors = held
    folds = Folds(parts[name] for name in sorted(parts) if name.startswith("fold"))
    prototypes = Folds([parts["prototypes"]]) if "prototypes" in parts else None
    if request.raw:
        image, text = SideTransform.identity("images"), SideTransform.identity("texts")
        whose = "none", "none"
    else:
        image = SideTransform(mean=vectors["image_mean"], label="images")
        text = SideTransform(mean=vectors["text_mean"], label="texts")
        whose = "given mean", "real texts" if prototypes is None else "class texts"
    return Sources(prototypes, folds, image, text, *whose)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the pairs, as a task: a view that is pickled is the numbers of its rows."""

    pairs: PairedView[EmbeddingsView]
    transforms: tuple[SideTransform, SideTransform] | None
    folds: npt.NDArray[np.int64]
    n_folds: int
    shifts: tuple[Matrix, Matrix]
    precision: MomentsPrecision


def _moments_of(part: _Part) -> list[Moments]:
    return accumulate_part(
        _prepared(part.pairs, part.transforms), part.folds, n_folds=part.n_folds,
        shifts=part.shifts, precision=part.precision,
    )  # fmt: skip


def _prepared(
    pairs: PairedView[EmbeddingsView], transforms: tuple[SideTransform, SideTransform] | None
) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.float64]]]:
    for x, y, weight in pairs.batches(N_FOLDS * BLOCK_ROWS, reuse=True):
        if transforms is None:
            row_norms(x, what="images")
            row_norms(y, what="their counterparts")
            yield x, y, weight
        else:
            image, text = transforms
            yield image.apply(x), text.apply(y), weight


def _read(
    request: MomentsRequest, run: Run
) -> tuple[dict[str, Moments], dict[str, npt.NDArray[np.float64]]]:
    """Read the rows: the means first, then the moments of the rows about them."""
    paired = request.paired
    parts: dict[str, Moments] = {}
    means: dict[str, npt.NDArray[np.float64]] = {}
    transforms = None
    if not request.raw:
        transforms = _transforms(request, parts, run)
        named = zip(("image_mean", "text_mean"), transforms, strict=True)
        means = {name: side.mean for name, side in named if side.mean is not None}
    # As numbers, in the order of their labels: sorting a million texts takes longer than the rest.
    groups = np.unique(paired.groups, return_inverse=True)[1]
    n_folds = min(N_FOLDS, int(groups.max()) + 1)
    folds = np.zeros(len(paired), dtype=np.int64)
    if n_folds >= 2:
        folds = folds_by_group(groups, n_folds, np.random.default_rng(request.seed))
    x, y, _ = next(iter(_prepared(paired[:BLOCK_ROWS], transforms)))
    shifts = pilot_shifts(x, y)
    tasks = (
        _Part(paired[rows], transforms, folds[rows], n_folds, shifts, request.precision)
        for rows in part_slices(len(paired))
    )
    found = add_parts(run(_moments_of, tasks, ordered=True))
    parts |= {f"fold {number}": moments for number, moments in enumerate(found)}
    return parts, means


def _transforms(
    request: MomentsRequest, parts: dict[str, Moments], run: Run
) -> tuple[SideTransform, SideTransform]:
    """Return what is done to images and texts, and add the moments of the prototypes."""
    image = _centred(request.pool, np.ones(len(request.pool)), "images", run)
    if request.prototypes is None:
        return image, _centred(request.paired.y, request.paired.weight, "texts", run)
    sources = prepare(request.prototypes, None, image.mean)
    assert sources.prototypes is not None
    parts["prototypes"] = moments_of(sources.prototypes)
    return image, sources.text


def _centred(
    view: EmbeddingsView, weight: npt.NDArray[np.float64], label: str, run: Run
) -> SideTransform:
    """Return the transform that centres on the weighted mean of a view's unit rows."""
    tasks = ((view[rows], weight[rows], label) for rows in part_slices(len(view)))
    return SideTransform(mean=mean_of(run(_sum_of, tasks, ordered=True), label=label), label=label)


def _sum_of(task: tuple[EmbeddingsView, npt.NDArray[np.float64], str]) -> Sums:
    view, weight, label = task
    batches = ((rows, weight[number * BLOCK_ROWS :][: len(rows)])
               for number, rows in enumerate(view.batches(BLOCK_ROWS, reuse=True)))  # fmt: skip
    return sum_rows(batches, label=label)


@dataclass(frozen=True, eq=False)
class PairedRows:
    """The pairs of two views; see `fitters.trained.training.PairSource`. Every pair counts alike.

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

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.paired)

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of x and y as they come out of the transforms."""
        return self.paired.x.dim + self.image.homogeneous, self.paired.y.dim

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
        x, y = self.paired[start:stop].numpy()
        return self.image.apply(x).astype(np.float32), self.text.apply(y).astype(np.float32)

    def take(self, rows: npt.NDArray[np.int64]) -> PairedRows:
        """Return some of the pairs."""
        return replace(self, paired=self.paired[rows], groups=self.groups[rows])


def training_sources(
    pool: EmbeddingsView,
    paired: PairedView[EmbeddingsView],
    prototypes: Pairs | None,
    bias: npt.NDArray[Any] | None,
    *,
    how: Preparation,
) -> Sources[PairSource]:
    """Return both sources as `fitters.alignment.fit` would transform them.

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
    how : Preparation
        Rows that are centred, or of unit length and no more.
    """
    wide = bias is not None
    image, text = SideTransform(label="images", homogeneous=wide), SideTransform(label="texts")
    image_centre, text_centre = "none", "none"
    if how.images == "centred":
        batches = pool.batches(reuse=True)
        image = SideTransform.fit(batches, label="images", homogeneous=wide)
        image_centre = "given mean"
    made = None
    if prototypes is not None:
        prepared = prepare(prototypes, None, image.mean, how=how, bias_column=bias)
        assert prepared.prototypes is not None
        made, text, text_centre = (
            ArrayRows.of(prepared.prototypes), prepared.text, prepared.text_centre
        )  # fmt: skip
    elif how.texts == "centred":
        texts = ((y, weight) for _, y, weight in paired.batches(reuse=True))
        text, text_centre = SideTransform.fit(texts, label="texts"), "real texts"
    first = 0 if made is None else int(made.groups.max()) + 1
    groups = np.unique(paired.groups, return_inverse=True)[1].astype(np.int64) + first
    real = PairedRows(paired, image, text, groups)
    return Sources(made, real, image, text, image_centre, text_centre)


def project_view(
    alignment: Alignment, view: EmbeddingsView, *, others: Sequence[EmbeddingsView] = ()
) -> Projection:
    """Return the rows of a view in the shared space: (n, r), float32, dense or CSR.

    The side is decided by the view's space_id. `others` are the same images by the encoders of
    further heads, for an alignment of several: `fitters.jobs.images_beside` finds them.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the view lies in neither of the two spaces that the alignment was fitted on.
    """
    side = side_of(alignment, view.space_id, what=view.key)
    if side == "x" and others:
        return alignment.project_x(beside(view, others))
    rows = view.numpy()
    return alignment.project_x(rows) if side == "x" else alignment.project_y(rows)


def beside(
    images: EmbeddingsView, others: Sequence[EmbeddingsView]
) -> npt.NDArray[np.floating[Any]]:
    """Return rows of images with those of the same images in other sets behind them, by item_id.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If a set lacks one of the images.
    """
    ids, rows = images.items["item_id"], [images.numpy()]
    for other in others:
        _, theirs = join_ids(ids, other.items["item_id"])
        if len(theirs) != len(ids):
            raise MisalignedItemsError(
                f"{other.key} has {len(theirs):,} of the {len(ids):,} images of {images.key}. "
                "Extract the others with its encoder."
            )
        rows.append(other.take(theirs).numpy())
    return np.hstack(rows)


def side_of(alignment: Alignment, space_id: str, *, what: str) -> Literal["x", "y"]:
    """Return which side of an alignment takes embeddings of this space."""
    if space_id == alignment.facts.get("x_space_id"):
        return "x"
    if space_id == alignment.facts.get("y_space_id"):
        return "y"
    facts = alignment.facts
    known = [(facts.get(f"{side}_encoder"), facts.get(f"{side}_space_id")) for side in "xy"]
    spaces = " and ".join(f"{encoder} ({str(space)[:8]})" for encoder, space in known)
    raise MisalignedItemsError(
        f"{what} lies in space {space_id[:8]}; the alignment was fitted on {spaces}. Embeddings "
        "of another model, checkpoint or preprocessing cannot be projected with it."
    )


def embed_texts(
    alignment: Alignment, texts: Sequence[str], *, weights: str | None, encoder: str | None = None
) -> Projection:
    """Encode texts with the alignment's own text encoder and project them: (n, r), float32.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the encoder, with these weights, is not the one that the alignment was fitted on.
    """
    from featstore.encoders.base import encode_texts
    from featstore.encoders.registry import open_encoder
    from featstore.identity import space_id

    opened = open_encoder(encoder or str(alignment.facts["y_encoder"]), weights=weights)
    if side_of(alignment, space_id(opened.space), what=opened.name) != "y":
        raise MisalignedItemsError(
            f"{opened.name} encodes images; texts go through {alignment.facts['y_encoder']}."
        )
    return alignment.project_y(encode_texts(opened, texts))
