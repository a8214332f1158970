"""Training pairs and moments from a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import MisalignedItemsError
from featstore.parallel import Run, Workers
from featstore.store.pairs import EmbeddingsView, PairedView
from featstore.store.tables import join_ids
from fitters.aligners.base import Projection
from fitters.alignment import Alignment
from fitters.moments import (
    BLOCK_ROWS,
    Folds,
    Moments,
    accumulate_part,
    add_parts,
    moments_of,
    part_slices,
    pilot_shifts,
)
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select.grid import folds_by_group
from fitters.settings import MomentsPrecision
from fitters.sources import SideTransform, Sources, Sums, mean_of, prepare, row_norms, sum_rows

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
    precision : {"float32", "float64", "bf16"}
    seed : int
        Draws the folds.
    raw : bool
        Take the rows as they are: no unit length, no centring.
    """

    pool: EmbeddingsView
    paired: PairedView[EmbeddingsView]
    prototypes: Pairs | None
    precision: MomentsPrecision
    seed: int
    raw: bool = False


def moment_sources(request: MomentsRequest, *, workers: Workers | None = None) -> Sources[Folds]:
    """Return the moments of the transformed pairs.

    Who accumulates them is this process unless `workers` says otherwise; with as many threads the
    bits are the same.

    Raises
    ------
    EngineError
        If Ray is asked for and not installed, or gave a worker up.
    """
    with (workers or Workers()).connected() as run:
        return _read(request, run)


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


def _read(request: MomentsRequest, run: Run) -> Sources[Folds]:
    """Read the rows: the means first, then the moments of the rows about them."""
    paired, prototypes, transforms = request.paired, None, None
    image, text = SideTransform.identity("images"), SideTransform.identity("texts")
    whose = "none", "none"
    if not request.raw:
        image = _centred(request.pool, np.ones(len(request.pool)), "images", run)
        whose = "given mean", "real texts" if request.prototypes is None else "class texts"
        if request.prototypes is None:
            text = _centred(paired.y, paired.weight, "texts", run)
        else:
            sources = prepare(request.prototypes, None, image.mean)
            assert sources.prototypes is not None
            prototypes, text = Folds([moments_of(sources.prototypes)]), sources.text
        transforms = image, text
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
    found = Folds(add_parts(run(_moments_of, tasks, ordered=True)))
    return Sources(prototypes, found, image, text, *whose)


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
