"""Where head rows, images and texts lie in the shared space, without a look at the answer.

The map is the verdict's: ridge from text to image rows, fitted on the head alone with the penalty
that its run chose. A head row is compared with texts projected by maps that have not seen its
name: the classes are left out by name, a fifth at a time. Images are in no fit at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, read_corpus
from bench.errors import ProtocolError
from bench.fits import prototype_pairs
from bench.report.verdict import METHOD
from bench.runs import Run
from featstore.store.store import FeatureStore
from fitters.choice import moments_of
from fitters.methods import METHODS, Settings, prepare
from fitters.moments.moments import merge_pooled
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.select.grid import folds_by_group

#: Classes of a head that are looked at; of a larger one every so many are taken.
MAX_CLASSES = 4_000

N_FOLDS = 5

_SEED = 20_240_611


@dataclass(frozen=True, eq=False)
class Side:
    """n classes: a row in image space each, and its text projected there; unit rows.

    Attributes
    ----------
    ids : array of str, shape (n,)
        class_id.
    groups : array of shape (n,)
        Classes that share a name share a group.
    rows, texts : float64 arrays of shape (n, p)
    """

    ids: NDArray[Any]
    groups: NDArray[Any]
    rows: NDArray[np.float64]
    texts: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Both sides, and the setting.

    Attributes
    ----------
    head : Side
        Head rows and their names, by maps that have not seen them.
    images : Side
        Means of the images of each class, and its name.
    names : float32 array of shape (n, q)
        Class texts of the head's classes, as stored.
    penalty : float
    """

    head: Side
    images: Side
    names: NDArray[np.float32]
    penalty: float


def geometry(store: FeatureStore, row: Mapping[str, Any]) -> Geometry | None:
    """Return the geometry behind a result row on head weights without real pairs.

    None where the store no longer has the revisions of the row, or there are too few classes.
    """
    try:
        corpus = read_corpus(store, _run(row))
    except ProtocolError:
        return None
    if corpus.head is None or corpus.names is None or len(set(corpus.head.groups)) < 2 * N_FOLDS:
        return None
    penalty = row["penalty_chosen"]
    return _geometry(corpus, _run(row), 0.3 if penalty is None else float(penalty), store, row)


def _geometry(
    corpus: Corpus, run: Run, penalty: float, store: FeatureStore, row: Mapping[str, Any]
) -> Geometry:
    pairs, _ = prototype_pairs(run, corpus)
    ids = _head_ids(store, row)
    step = -(-pairs.n // MAX_CLASSES)
    kept = np.arange(0, pairs.n, step)
    pairs, ids = pairs.take(kept), ids[kept]
    mean = SideTransform.fit([corpus.images.rows], label="images").mean
    sources = prepare(pairs, None, mean)
    ready = sources.prototypes
    assert ready is not None
    folds = folds_by_group(ready.row_groups, N_FOLDS, np.random.default_rng(_SEED))
    parts = [moments_of(ready.take(folds == fold)) for fold in range(N_FOLDS)]
    texts = np.empty((ready.n, ready.x.shape[1]))
    for fold in range(N_FOLDS):
        rest = merge_pooled(*(part for place, part in enumerate(parts) if place != fold))
        texts[folds == fold] = _fitted(rest, penalty).project_y(ready.y[folds == fold])
    whole = _fitted(merge_pooled(*parts), penalty)
    rows = ready.x.astype(np.float64)
    return Geometry(
        head=Side(ids, ready.row_groups, rows, texts),
        images=_class_means(corpus, sources, whole),
        names=pairs.y,
        penalty=penalty,
    )


def _fitted(moments: Any, penalty: float) -> Any:
    aligner: Any = METHODS[METHOD].make(Settings(penalty=penalty))
    return aligner.fit_moments(moments)


def _class_means(corpus: Corpus, sources: Any, aligner: Any) -> Side:
    assert corpus.names is not None
    images = sources.image.apply(corpus.images.rows).astype(np.float64)
    names, codes = np.unique(corpus.images.classes, return_inverse=True)
    sums = np.zeros((len(names), images.shape[1]))
    np.add.at(sums, codes, images)
    position = {name: place for place, name in enumerate(corpus.names.classes)}
    own = corpus.names.rows[[position[name] for name in names]]
    texts = aligner.project_y(sources.text.apply(own)).astype(np.float64)
    means = normalize_rows(sums, what="class means").astype(np.float64)
    return Side(names, np.arange(len(names)), means, texts)


def _run(row: Mapping[str, Any]) -> Run:
    """Return the run on head weights alone that reads the sets of a row."""
    sets = {
        f"{role}_{what}": row[f"{role}_{what}"]
        for role in ("image", "name", "head", "head_name")
        for what in ("set", "revision")
    }
    lists: dict[str, Any] = {
        name: tuple(part for part in str(row[name] or "").split(",") if part)
        for name in ("variants", "templates", "head_variants", "head_templates")
    }
    return Run(
        suite=row["suite"], task="zero_shot", eval="all-names", method=METHOD, source="head",
        n_pairs=0, seed=0, limit=row["limit"], **sets, **lists,
    )  # fmt: skip


def _head_ids(store: FeatureStore, row: Mapping[str, Any]) -> NDArray[Any]:
    from fitters.jobs import pair_head

    run = _run(row)
    variants, templates = run.head_texts
    paired = pair_head(
        store.view(run.head_set),
        store.view(run.head_name_set),
        variants=variants,
        templates=templates,
    )
    return paired.x.items["class_id"].to_numpy().astype(str)


def unmatched(side: Side, most: int = 200_000) -> NDArray[np.float64]:
    """Return cosines of rows with texts of another name; a fixed draw of at most `most`."""
    n = len(side.ids)
    rng = np.random.default_rng(_SEED)
    if n * (n - 1) <= most:
        cosines = side.rows @ side.texts.T
        other = side.groups[:, None] != side.groups[None]
        found: NDArray[np.float64] = cosines[other]
        return found
    left, right = rng.integers(0, n, size=(2, most))
    keep = side.groups[left] != side.groups[right]
    left, right = left[keep], right[keep]
    return np.concatenate(
        [
            np.einsum("ij,ij->i", side.rows[left[at]], side.texts[right[at]])
            for at in np.array_split(np.arange(len(left)), max(1, len(left) // 4096))
        ]
    )


def matched(side: Side) -> NDArray[np.float64]:
    """Return the cosine of every row with its own text."""
    own: NDArray[np.float64] = np.einsum("ij,ij->i", side.rows, side.texts)
    return own


def area_under_curve(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the chance that a matched cosine is above an unmatched one; ties count half."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return float(below.mean() / (2 * len(ordered)))


def ambiguous_pairs(
    texts: NDArray[np.floating[Any]], groups: NDArray[Any], most: int
) -> list[tuple[int, int, float]]:
    """Return the pairs of classes of different names whose texts are nearest: (i, j, cosine)."""
    unit = normalize_rows(texts, what="class texts").astype(np.float32)
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(unit), 1024):
        cosines = unit[start : start + 1024] @ unit.T
        own = np.arange(start, start + len(cosines))
        cosines[groups[own][:, None] == groups[None]] = -2.0
        cosines[np.arange(len(unit))[None] <= own[:, None]] = -2.0
        count = min(most, cosines.size)
        nearest = np.argpartition(cosines, -count, axis=None)[-count:]
        rows, columns = np.unravel_index(nearest, cosines.shape)
        best += [
            (float(cosines[i, j]), int(own[i]), int(j))
            for i, j in zip(rows, columns, strict=True)
            if cosines[i, j] > -2.0
        ]
    best.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [(i, j, cosine) for cosine, i, j in best[:most]]
