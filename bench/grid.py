"""Runs of a sweep: cells that differ in prototypes, K, mixing weight and penalty share moments.

What one seed's cells have in common is read and prepared once: the split, the rows that are
scored, the products of every source of prototypes. A ridge then costs an eigendecomposition a
mixing weight and two small products a penalty (`fitters.select.ridge_grid`); the other methods
of moments are fitted on merged moments; what needs rows is fitted as in any suite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, Items
from bench.fits import Fitted, fit_run, prototype_pairs, training_pairs, unlabelled_images
from bench.protocol import Split
from bench.runs import Run
from bench.tasks import Projector
from fitters.alignment import Alignment
from fitters.choice import moments_of
from fitters.methods import METHODS, Settings
from fitters.moments.moments import Moments, merge_pooled
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.preparation import Sources, prepare
from fitters.select.held_out import Source
from fitters.select.ridge_grid import RidgeGrid


@dataclass(frozen=True, eq=False)
class GridFit:
    """One fit of a sweep, and what is scored by it.

    Attributes
    ----------
    runs : tuple of Run
        Those that it serves: the tasks of one cell.
    fitted : Fitted
    corpus : Corpus
        What is scored; of a ridge its rows are projected already.
    split : Split or None
    seconds : float
        Of this fit, shared work not counted.
    """

    runs: tuple[Run, ...]
    fitted: Fitted
    corpus: Corpus
    split: Split | None
    seconds: float


def grid_key(run: Run) -> str:
    """Return the id of what the cells of one seed and method share."""
    varied: dict[str, Any] = {"source": "head", "n_pairs": 1, "penalty": 0.0, "mix": 1.0}
    if run.eval == "all-names":
        varied["n_pairs"] = 0
    return replace(run, **varied).fit_key


def is_fixed(run: Run) -> bool:
    """Return whether a run leaves nothing to choose and needs only moments."""
    method = METHODS[run.method]
    given = run.penalty != "auto" and run.mix != "auto"
    return given and method.fitted_on == "moments" and not method.raw


def fit_grid(runs: Sequence[Run], corpus: Corpus, split: Split | None) -> Iterator[GridFit]:
    """Yield the fits of runs that share `grid_key`, cell by cell.

    Raises
    ------
    ProtocolError
        As for `bench.fits.fit_run`.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.fit_key, []).append(run)
    by_pairs: dict[tuple[str, Any], list[list[Run]]] = {}
    for own in cells.values():
        by_pairs.setdefault((own[0].source, own[0].n_pairs), []).append(own)
    shared = _Shared(corpus, split)
    for same_pairs in by_pairs.values():
        first = same_pairs[0][0]
        if not is_fixed(first):
            for own in same_pairs:
                start = time.perf_counter()
                fitted = fit_run(own[0], corpus, split)
                yield GridFit(tuple(own), fitted, corpus, split, time.perf_counter() - start)
        elif METHODS[first.method].rule == "ridge":
            yield from _ridge_fits(same_pairs, shared)
        else:
            yield from _moment_fits(same_pairs, shared)


class _Shared:
    """What cells of one seed have in common, prepared when first asked for."""

    def __init__(self, corpus: Corpus, split: Split | None) -> None:
        self.corpus, self.split = corpus, split
        images = corpus.images.rows
        self.whose = "evaluated images"
        if split is not None:
            images, self.whose = unlabelled_images(corpus, split)
        self.image_mean = SideTransform.fit([images], label="images").mean
        self._prototypes: dict[str, Sources] = {}
        self._products: dict[tuple[str, bool], Source] = {}
        self._moments: dict[str, Moments] = {}

    def sources(self, run: Run) -> Sources:
        """Return the transformed sources of a run, prototypes kept between numbers of pairs."""
        real = None
        if self.split is not None:
            _, real = training_pairs(run, self.corpus, self.split)
        if run.source == "none":
            return prepare(None, real, self.image_mean)
        if run.source not in self._prototypes:
            pairs, _ = prototype_pairs(run, self.corpus)
            self._prototypes[run.source] = prepare(pairs, None, self.image_mean)
        kept = self._prototypes[run.source]
        if real is None:
            return kept
        x, y = kept.image.apply(real.x), kept.text.apply(real.y)
        return replace(kept, real=Pairs(x, y, real.groups, real.weight))

    def products(self, run: Run, sources: Sources, *, predict_x: bool) -> Source | None:
        if sources.prototypes is None:
            return None
        key = (run.source, predict_x)
        if key not in self._products:
            self._products[key] = Source.of(sources.prototypes, predict_x=predict_x)
        return self._products[key]

    def moments(self, run: Run, sources: Sources) -> Moments | None:
        if sources.prototypes is None:
            return None
        if run.source not in self._moments:
            self._moments[run.source] = moments_of(sources.prototypes)
        return self._moments[run.source]

    def facts(self, run: Run, sources: Sources) -> dict[str, Any]:
        """Return the columns of a result row that tell of the fit."""
        n_images = 0
        if self.split is not None:
            n_images = len(training_pairs(run, self.corpus, self.split)[0])
        options = METHODS[run.method].options
        mixed = sources.prototypes is not None and sources.real is not None
        return {
            "n_images_fitted": n_images,
            "n_prototypes": 0 if sources.prototypes is None else sources.prototypes.n,
            "image_mean": self.whose,
            "penalty_chosen": float(run.penalty) if "penalty" in options else None,
            "mix_chosen": float(run.mix) if mixed and "mix" in options else None,
        }


def _ridge_fits(cells: list[list[Run]], shared: _Shared) -> Iterator[GridFit]:
    first = cells[0][0]
    predict_x = METHODS[first.method].direction == "y->x"
    sources = shared.sources(first)
    corpus, split = shared.corpus, shared.split
    images = corpus.images if split is None else corpus.images.take(split.test)
    texts = [items for items in (corpus.names, corpus.captions) if items is not None]
    grid = RidgeGrid(
        sources.prototypes,
        sources.real,
        sources.image.apply(images.rows).astype(np.float64),
        sources.text.apply(np.concatenate([items.rows for items in texts])).astype(np.float64),
        predict_x=predict_x,
        products=shared.products(first, sources, predict_x=predict_x),
    )
    by_mix: dict[float, dict[float, list[Run]]] = {}
    for own in cells:
        by_mix.setdefault(float(own[0].mix), {})[float(own[0].penalty)] = own
    for mix, by_penalty in by_mix.items():
        start = time.perf_counter()
        for found in grid.projected(mix, list(by_penalty)):
            own = by_penalty[found.penalty]
            ready = _projected_corpus(corpus, split, found.images, found.texts)
            facts = shared.facts(own[0], sources)
            seconds = time.perf_counter() - start
            yield GridFit(tuple(own), Fitted(_AsTheyAre(), facts), ready, split, seconds)
            start = time.perf_counter()


def _moment_fits(cells: list[list[Run]], shared: _Shared) -> Iterator[GridFit]:
    first = cells[0][0]
    method = METHODS[first.method]
    sources = shared.sources(first)
    prototypes = shared.moments(first, sources)
    real = None if sources.real is None else moments_of(sources.real)
    for own in cells:
        start = time.perf_counter()
        run = own[0]
        parts = [] if real is None else [real]
        if prototypes is not None:
            mass = float(run.mix) if real is not None else 1.0
            parts.insert(0, prototypes.scaled(mass))
        aligner: Any = method.make(Settings(penalty=float(run.penalty)))
        aligner.fit_moments(merge_pooled(*parts))
        alignment = Alignment(sources.image, sources.text, aligner, {"method": run.method})
        fitted = Fitted(alignment, shared.facts(run, sources))
        seconds = time.perf_counter() - start
        yield GridFit(tuple(own), fitted, shared.corpus, shared.split, seconds)


class _AsTheyAre(Projector):
    """Projections that were made before: rows are taken as they are."""

    def project_x(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows

    def project_y(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows


def _projected_corpus(
    corpus: Corpus, split: Split | None, images: NDArray[np.float32], texts: NDArray[np.float32]
) -> Corpus:
    """Return the corpus with projections in place of the rows that are scored."""
    rows = images
    if split is not None:
        # Only test rows are scored; the others are there so that positions stay what they are.
        rows = np.zeros((len(corpus.images), images.shape[1]), dtype=np.float32)
        rows[split.test] = images
    n_names = 0 if corpus.names is None else len(corpus.names)
    return Corpus(
        images=_with_rows(corpus.images, rows),
        names=None if corpus.names is None else _with_rows(corpus.names, texts[:n_names]),
        captions=None if corpus.captions is None else _with_rows(corpus.captions, texts[n_names:]),
        head=None,
        seen=corpus.seen,
    )


def _with_rows(items: Items, rows: NDArray[np.float32]) -> Items:
    return replace(items, rows=rows)
