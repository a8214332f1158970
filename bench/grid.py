"""Runs of a sweep: cells that differ in prototypes, K, mixing weight and penalty share moments.

What one seed's cells have in common is read and prepared once: the split, the rows that are
scored, the products of every source of prototypes. A ridge then costs an eigendecomposition a
mixing weight and two small products a penalty (`fitters.select.held_out`); the other methods
of moments are fitted on merged moments. What needs rows is no cell, and fitted as in any suite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus
from bench.fits import (
    Fitted,
    mean_of_images,
    n_pool,
    own_names,
    prototype_pairs,
    training_pairs,
)
from bench.metrics.ties import different_rows
from bench.options import Hubness, Retrieval, ZeroShot
from bench.protocol import Split
from bench.runs import Run
from bench.scoring import Scoring
from fitters.aligners.ridge import RidgeAligner
from fitters.alignment import Alignment
from fitters.methods import METHODS
from fitters.moments.moments import Moments, merge_pooled, moments_of
from fitters.pairs import Pairs
from fitters.select.held_out import LinearFits, Source
from fitters.sources import Sources, prepare
from fitters.spectrum import Matrix


@dataclass(frozen=True, eq=False)
class GridFit:
    """One fit of a sweep, and what is scored by it.

    Attributes
    ----------
    runs : tuple of Run
        Those that it serves: the tasks of one cell.
    fitted : Fitted
    scoring : Scoring
        What is scored.
    seconds : float
        Of this fit, shared work not counted.
    """

    runs: tuple[Run, ...]
    fitted: Fitted
    scoring: Scoring
    seconds: float


def is_fixed(run: Run) -> bool:
    """Return whether a run leaves nothing to choose and needs only moments: a cell of a grid."""
    method = METHODS.get(run.fit.method)
    own = run.protocol
    if method is None or own.control_draw is not None or (own.needs_pairs and own.source != "none"):
        return False
    given = method.tunes and not run.fit.chooses(method.options, mixed=True)
    return given and method.fitted_on == "moments" and method.rows.images == "centred"


#: Settings of methods of moments that result rows show.
_CHOSEN = ("penalty", "mix", "n_components")


def fit_grid(runs: Sequence[Run], corpus: Corpus, split: Split | None) -> Iterator[GridFit]:
    """Yield the fits of runs that are all `is_fixed` and share `Run.grid_key`, cell by cell.

    Cells of one number of pairs come together, so that sources that have a gram in common find it.

    Raises
    ------
    ProtocolError
        As for `bench.fits.fit_run`.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.fit_key, []).append(run)
    by_pairs: dict[Any, dict[str, list[list[Run]]]] = {}
    for own in cells.values():
        by_source = by_pairs.setdefault(own[0].protocol.n_pairs, {})
        by_source.setdefault(own[0].protocol.source, []).append(own)
    shared = _Shared(corpus, split)
    for same_pairs in (own for by_source in by_pairs.values() for own in by_source.values()):
        first = same_pairs[0][0]
        if _is_ridge(first.fit.method) and all(map(_is_projected, chain(*same_pairs))):
            yield from _ridge_fits(same_pairs, shared)
        else:
            yield from _moment_fits(same_pairs, shared)


def _is_ridge(method: str) -> bool:
    known = METHODS[method]
    return issubclass(known.cls, RidgeAligner) and "penalty" in known.options


def _is_projected(run: Run) -> bool:
    """Return whether a task only needs the projections of the held-out rows."""
    options = run.task_options
    means = isinstance(options, ZeroShot) and options.prompts == "mean"
    return means or isinstance(options, Retrieval | Hubness)


class _Shared:
    """What cells of one seed have in common, prepared when first needed."""

    def __init__(self, corpus: Corpus, split: Split | None) -> None:
        self.corpus, self.split = corpus, split
        # A sweep keeps no places: they would be most of its results.
        self.scoring = Scoring(corpus, split, top=0)
        self.image_mean, self.centre_source = mean_of_images(corpus, split)
        self._different: _Different | None = None
        self._real: dict[Any, tuple[int, Pairs | None]] = {}
        self._prototypes: dict[str, Sources[Pairs]] = {}
        self._moments: dict[str, Moments] = {}
        self._products: dict[tuple[str, bool], tuple[Source, Matrix]] = {}

    def different(self, run: Run) -> _Different:
        """Return the different rows of what is scored."""
        if self._different is None:
            self._different = _Different(self.scoring.held_out(run))
        return self._different

    def real(self, run: Run) -> tuple[int, Pairs | None]:
        """Return how many images a run trains on, and its real pairs."""
        if self.split is None:
            return 0, None
        if run.protocol.n_pairs not in self._real:
            chosen, pairs = training_pairs(run, self.corpus, self.split)
            self._real[run.protocol.n_pairs] = len(chosen), pairs
        return self._real[run.protocol.n_pairs]

    def sources(self, run: Run) -> Sources[Pairs]:
        """Return the transformed sources of a run, prototypes kept between numbers of pairs."""
        _, real = self.real(run)
        if run.protocol.source == "none":
            return prepare(None, real, self.image_mean, blocks=self.corpus.blocks)
        if run.protocol.source not in self._prototypes:
            pairs, _ = prototype_pairs(run, self.corpus, self.split)
            self._prototypes[run.protocol.source] = prepare(
                pairs, None, self.image_mean, blocks=self.corpus.blocks
            )
        kept = self._prototypes[run.protocol.source]
        if real is None:
            return kept
        x, y = kept.image.apply(real.x), kept.text.apply(real.y)
        return replace(kept, real=Pairs(x, y, real.groups, real.weight))

    def products(
        self, run: Run, sources: Sources[Pairs], rows: Matrix, *, predict_x: bool
    ) -> tuple[Source | None, Matrix | None]:
        """Return the products of the prototypes with themselves, and with rows held out."""
        if sources.prototypes is None:
            return None, None
        key = (run.protocol.source, predict_x)
        if key not in self._products:
            own = Source.of(sources.prototypes, predict_x=predict_x)
            self._products[key] = own, own.towards(rows)
        return self._products[key]

    def moments(self, run: Run, sources: Sources[Pairs]) -> Moments | None:
        if sources.prototypes is None:
            return None
        if run.protocol.source not in self._moments:
            self._moments[run.protocol.source] = moments_of(sources.prototypes)
        return self._moments[run.protocol.source]

    def facts(self, run: Run, sources: Sources[Pairs]) -> dict[str, Any]:
        """Return the columns of a result row that tell of the fit."""
        options = METHODS[run.fit.method].options
        given = {name: getattr(run.fit, name) for name in _CHOSEN if name in options}
        if sources.prototypes is None or sources.real is None:
            given.pop("mix", None)
        return {
            "n_images_fitted": self.real(run)[0],
            "n_pool": n_pool(run, self.corpus, self.split),
            "n_prototypes": 0 if sources.prototypes is None else sources.prototypes.n,
            "own_names": own_names(run, self.corpus),
            "image_mean": self.centre_source,
            **{
                f"{name}_chosen": float(value) for name, value in given.items() if value is not None
            },
        }


def _ridge_fits(cells: list[list[Run]], shared: _Shared) -> Iterator[GridFit]:
    first = cells[0][0]
    predict_x = METHODS[first.fit.method].make().direction == "y->x"
    sources = shared.sources(first)
    held = shared.different(first)
    images, texts = sources.image.apply(held.images), sources.text.apply(held.texts)
    products, towards = shared.products(
        first, sources, images if predict_x else texts, predict_x=predict_x
    )
    fits = LinearFits(
        sources.prototypes, sources.real, images, texts, predict_x=predict_x, products=products,
        towards=towards,
    )  # fmt: skip
    by_mix: dict[float, dict[float, list[Run]]] = {}
    for own in cells:
        fit = own[0].fit
        by_mix.setdefault(float(fit.mix), {})[float(fit.penalty)] = own
    for mix, by_penalty in by_mix.items():
        start = time.perf_counter()
        for found in fits.ridge(mix, by_penalty):
            own = by_penalty[found.penalty]
            fitted = Fitted(found, shared.facts(own[0], sources))
            yield GridFit(tuple(own), fitted, held.scoring, time.perf_counter() - start)
            start = time.perf_counter()


def _moment_fits(cells: list[list[Run]], shared: _Shared) -> Iterator[GridFit]:
    first = cells[0][0]
    sources = shared.sources(first)
    prototypes = shared.moments(first, sources)
    real = None if sources.real is None else moments_of(sources.real)
    for own in cells:
        start = time.perf_counter()
        run = own[0]
        aligner = METHODS[run.fit.method].make(run.fit)
        parts = [] if real is None else [real]
        if prototypes is not None:
            parts.insert(0, prototypes.scaled(float(run.fit.mix) if real is not None else 1.0))
        aligner.fit_moments(merge_pooled(*parts))
        alignment = Alignment.of(sources.image, sources.text, aligner, {"method": run.fit.method})
        fitted = Fitted(alignment, shared.facts(run, sources))
        yield GridFit(tuple(own), fitted, shared.scoring, time.perf_counter() - start)


class _Different:
    """The rows that are scored, every different one once, and a scoring of their projections.

    Equal texts then have equal projections, see `bench.tasks.outcome`. The items that are scored
    stay the same from cell to cell, and with them what follows from their ids.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.images, of_image = _distinct(corpus.images.rows)
        given = [
            items for items in (corpus.names, corpus.captions) if items is not None and len(items)
        ]
        self.texts, of_text = _distinct(np.concatenate([items.rows for items in given]))
        captions = corpus.captions
        n_names = len(corpus.names)
        placed = replace(
            corpus,
            images=replace(corpus.images, places=of_image),
            names=replace(corpus.names, places=of_text[:n_names]),
            captions=None if captions is None else replace(captions, places=of_text[n_names:]),
        )
        self.scoring = Scoring(placed, None, top=0)


def _distinct(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], Any]:
    """Return the different rows, in the order of their first, and the position of each in them."""
    firsts, which = different_rows(rows)
    return rows[firsts], which
