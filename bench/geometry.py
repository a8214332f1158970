"""Where head rows, images and texts lie in the shared space, without a look at the answer.

The map is ridge from text to image rows, fitted on the head alone with the penalty
that its run chose. A head row is compared with texts projected by maps that have not seen its
name: the classes are left out by name, a fifth at a time. Images are in no fit at all.

`bench run` writes what the figures of a report show, some hundred numbers, beside the results: once
for one head, one set of images and one of names. A report reads it, and fits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus
from bench.errors import NoResultsError
from bench.fits import prototype_pairs
from bench.runs import Run
from featstore.errors import CorruptStoreError
from featstore.identity import canonical_json, sha256_hex
from featstore.store.files import json_bytes, read_json, write_file
from fitters.methods import METHODS
from fitters.moments.moments import merge_pooled, moments_of
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.select.grid import folds_by_group
from fitters.sources import Sources, prepare

#: The method whose map is looked at: it is linear, and soon fitted.
METHOD = "ridge"

#: Classes of a head that are looked at; of a larger one every so many are taken.
MAX_CLASSES = 4_000

N_FOLDS = 5

#: Where in the order of their cosines the head rows lie whose nearest names are kept, and how many
#: names of each.
EXAMPLES, NEAREST_NAMES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0), 3

#: Pairs of classes of different names whose texts are nearest.
NEAREST = 15

_SEED = 20_240_611

#: Columns of a run by which a geometry is found: what it is made of.
_MADE_OF = (
    "image_set", "image_revision", "name_set", "name_revision", "head_set", "head_revision",
    "head_name_set", "head_name_revision", "variants", "templates", "head_variants",
    "head_templates", "penalty", "limit", "code",
)  # fmt: skip

#: Raise it when the content of the file changes.
_VERSION = 2


@dataclass(frozen=True)
class Side:
    """The rows of one side beside their texts: head rows, or means of the images of a class.

    Attributes
    ----------
    ids : list of str
        class_id.
    cosines : list of float
        Of the row of each class with its own text.
    other : (float, float, float)
        The 5, 50 and 95 % quantiles of the cosines of rows with texts of another name.
    area : float
        See `area_under_curve`.
    """

    ids: list[str]
    cosines: list[float]
    other: list[float]
    area: float


@dataclass(frozen=True)
class Example:
    """One head row and the names that are nearest to it.

    Attributes
    ----------
    class_id : str
    cosine : float
        With its own name.
    rank : int
        Of its own name among the names of all classes.
    names : list of (class_id, cosine)
        The nearest first.
    """

    class_id: str
    cosine: float
    rank: int
    names: list[tuple[str, float]]


@dataclass(frozen=True)
class Geometry:
    """What the figures show.

    Attributes
    ----------
    penalty : float
        Of the map.
    head, images : Side
    examples : list of Example
        Head rows at fixed places in the order of their cosines, the best first.
    nearest : list of (class_id, class_id, cosine)
        Classes of different names whose texts are nearest.
    """

    penalty: float
    head: Side
    images: Side
    examples: list[Example]
    nearest: list[tuple[str, str, float]]


def write_geometry(root: Path, run: Run, corpus: Corpus, penalty: float | None) -> None:
    """Write the geometry behind a run of this method on head weights alone, once.

    Of other runs, without names, or of a head of too few names nothing is written.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    alone = run.protocol.source == "head" and not run.protocol.has_pairs
    if not run.protocol.whole_head or run.protocol.head_rows != "weights" or run.data.pairs_from:
        return
    if run.fit.method != METHOD or not alone or penalty is None or not len(corpus.names):
        return
    assert corpus.head is not None
    path = _path(root, run.columns())
    if len(set(corpus.head.groups)) >= 2 * N_FOLDS and not path.is_file():
        write_file(path, [json_bytes(asdict(_geometry(corpus, run, penalty)))])


def read_geometry(root: Path, row: Mapping[str, Any]) -> Geometry | None:
    """Return the geometry behind a result row on head weights alone; None if none was written.

    Raises
    ------
    NoResultsError
        If its file cannot be read.
    """
    path = _path(root, row)
    try:
        found = read_json(path)
        sides = {name: Side(**found[name]) for name in ("head", "images")}
        examples = [Example(**example) for example in found["examples"]]
        return Geometry(**{**found, **sides, "examples": examples})
    except FileNotFoundError:
        return None
    except (CorruptStoreError, TypeError, KeyError) as err:
        raise NoResultsError(
            f"{path} cannot be read as a geometry ({err}). Delete it, and draw the report anew."
        ) from err


def _path(root: Path, row: Mapping[str, Any]) -> Path:
    made_of = {"version": _VERSION, **{name: row[name] for name in _MADE_OF}}
    return root / "geometry" / f"{sha256_hex(canonical_json(made_of))}.json"


@dataclass(frozen=True, eq=False)
class Rows:
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


def _few(n: int) -> NDArray[np.int64]:
    return np.arange(0, n, -(-n // MAX_CLASSES) or 1)


def _prepared(corpus: Corpus, run: Run) -> tuple[Any, NDArray[Any], Sources[Any], Any]:
    """Return the pairs of head rows and names, their class_id, and both ready to be fitted."""
    assert corpus.head is not None
    pairs, _ = prototype_pairs(run, corpus)
    kept = _few(pairs.n)
    pairs, ids = pairs.take(kept), corpus.head.classes[kept]
    sources = prepare(pairs, None, SideTransform.fit([corpus.images.rows], label="images").mean)
    assert sources.prototypes is not None
    return pairs, ids, sources, sources.prototypes


def _geometry(corpus: Corpus, run: Run, penalty: float) -> Geometry:
    pairs, ids, sources, ready = _prepared(corpus, run)
    folds = folds_by_group(ready.row_groups, N_FOLDS, np.random.default_rng(_SEED))
    parts = [moments_of(ready.take(folds == fold)) for fold in range(N_FOLDS)]
    texts = np.empty((ready.n, ready.x.shape[1]))
    for fold in range(N_FOLDS):
        rest = merge_pooled(*(part for place, part in enumerate(parts) if place != fold))
        texts[folds == fold] = _fitted(rest, penalty).project_y(ready.y[folds == fold])
    head = Rows(ids, ready.row_groups, ready.x.astype(np.float64), texts)
    images = _class_means(corpus, sources, _fitted(merge_pooled(*parts), penalty))
    nearest = ambiguous_pairs(pairs.y, head.groups, NEAREST)
    return Geometry(
        penalty=penalty,
        head=_side(head),
        images=_side(images),
        examples=_examples(head),
        nearest=[(str(ids[i]), str(ids[j]), cosine) for i, j, cosine in nearest],
    )


def _side(side: Rows) -> Side:
    own, other = matched(side), unmatched(side)
    return Side(
        ids=side.ids.tolist(),
        cosines=own.tolist(),
        other=np.quantile(other, (0.05, 0.5, 0.95)).tolist(),
        area=area_under_curve(own, other),
    )


def _examples(side: Rows) -> list[Example]:
    """Return rows at fixed quantiles of their cosines, each with the names nearest to it."""
    own = matched(side)
    order = np.argsort(own, kind="stable")
    chosen = order[np.round(np.array(EXAMPLES) * (len(own) - 1)).astype(np.int64)]
    found = []
    for row in dict.fromkeys(chosen.tolist()):
        cosines = side.texts @ side.rows[row]
        nearest = np.argsort(-cosines, kind="stable")[:NEAREST_NAMES]
        found.append(
            Example(
                class_id=str(side.ids[row]),
                cosine=float(own[row]),
                rank=1 + int((cosines > own[row]).sum()),
                names=[(str(side.ids[i]), float(cosines[i])) for i in nearest],
            )
        )
    return found


def _fitted(moments: Any, penalty: float) -> Any:
    aligner: Any = METHODS[METHOD].make(alpha=penalty)
    return aligner.fit_moments(moments)


def _class_means(corpus: Corpus, sources: Sources[Any], aligner: Any) -> Rows:
    images = sources.image.apply(corpus.images.rows).astype(np.float64)
    names, codes = np.unique(corpus.images.classes, return_inverse=True)
    sums = np.zeros((len(names), images.shape[1]))
    np.add.at(sums, codes, images)
    own = corpus.names.rows[corpus.names.places_of(names)]
    texts = aligner.project_y(sources.text.apply(own)).astype(np.float64)
    means = normalize_rows(sums, what="class means").astype(np.float64)
    return Rows(names, np.arange(len(names)), means, texts)


def unmatched(side: Rows, most: int = 200_000) -> NDArray[np.float64]:
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


def matched(side: Rows) -> NDArray[np.float64]:
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
