"""Task results, and the projection protocol that tasks depend on.

Confidence is the probability of an answer, and whether a picture without a name is told apart.
A probability is the softmax of the scores over the candidates, divided by a temperature that comes
from training data alone. For rejection the candidates are cut into two halves at random, several
times: each image is scored by the half that has its name, and by the half that has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import Corpus, Items
from bench.errors import ProtocolError
from bench.metrics.confidence import calibration, of_rejection, of_risk_coverage
from bench.metrics.ranks import (
    BLOCK_SCORES,
    CUTOFFS,
    NO_ITEM,
    Ranks,
    Relevance,
    checked_sides,
    first_equal,
    of_blocks,
    rank_blocks,
    rank_relevant,
)
from bench.metrics.summary import (
    CONFIDENCE_METRICS,
    chance_levels,
    check_own_metrics,
    class_metrics,
    metric_named,
    summarise,
)
from fitters.alignment import Alignment
from fitters.kept import kept
from fitters.pairs import Rows
from fitters.scorers import labelled, scorer_named
from fitters.settings import Scorer
from fitters.sources import SideTransform

#: Gallery ids kept per query, for the pictures of what was found.
KEPT = 5


class Projector(Protocol):
    """Two projections into one shared space; the score is the dot product.

    Rows are dense, or a scipy csr_array where the space is wide.
    """

    def project_x(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Project raw image embeddings, shape (n, p) to (n, r)."""

    def project_y(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Project raw text embeddings, shape (n, q) to (n, r)."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One direction of one task, scored.

    Attributes
    ----------
    direction : str
        ``"image→name"``, ``"image→caption"``, ``"caption→image"``; of a diagnostic, what it
        looks at.
    values, chance : dict
        Metric name to value, and to what chance would give; a metric without a chance level
        is not in `chance`.
    n : int
        Queries, or rows that were looked at.
    gallery : int
        Items that a query is ranked against; of a diagnostic the rows of the other side.
    queries : Queries, optional
        Where there are queries.
    facts : dict
        Columns of `bench.results.RESULT_SCHEMA` that only this task knows.
    """

    direction: str
    values: dict[str, float]
    chance: dict[str, float]
    n: int
    gallery: int
    queries: Queries | None = None
    facts: dict[str, Any] | None = None

    @property
    def ranks(self) -> Ranks:
        """Ranks of the queries."""
        assert self.queries is not None
        return self.queries.ranks


Prepared = Callable[..., list[Outcome]]
"""A task whose items are known: it scores one alignment after another."""


@dataclass(frozen=True, eq=False)
class Question:
    """One direction of a task: queries, gallery, and which items are relevant.

    It knows no projection, so that all alignments over the same items share what follows from it:
    a sweep uses it thousands of times.

    Attributes
    ----------
    direction : str
    query_ids, gallery_ids : arrays of str, shapes (n,), (g,)
    groups : pair of arrays, shapes (n,), (g,)
        Ids of the queries and of the gallery: equal ids are relevant.
    metrics : tuple of str
    apart : bool
        Queries are drawn one by one; False: those of one group together.
    group : {"classes", "images"}
        What a group of queries is.
    top : int
        Gallery items kept a query.
    """

    direction: str
    query_ids: NDArray[Any]
    gallery_ids: NDArray[Any]
    groups: tuple[NDArray[Any], NDArray[Any]]
    metrics: tuple[str, ...]
    apart: bool = False
    top: int = KEPT
    group: Literal["classes", "images"] = "classes"

    @property
    @kept
    def relevance(self) -> Relevance:
        """Which gallery items are relevant to which query.

        Raises
        ------
        bench.errors.MetricError
            If nothing is to one of them.
        """
        return Relevance.build(*self.groups)

    @property
    @kept
    def chance(self) -> dict[str, float]:
        """What chance would give."""
        return chance_levels(self.relevance.counts, len(self.gallery_ids), self.metrics)

    @property
    @kept
    def clusters(self) -> NDArray[Any]:
        """What each query was drawn with: queries of one cluster are not independent."""
        return np.asarray(self.query_ids if self.apart else self.groups[0])

    @property
    def clusters_of(self) -> Literal["classes", "images"]:
        """What the clusters are, and so what an interval over them is about."""
        return "images" if self.apart else self.group

    @property
    @kept
    def n_clusters(self) -> int:
        """How many draws the queries are."""
        return len(np.unique(self.clusters))

    @property
    @kept
    def columns(self) -> dict[str, list[str]]:
        """The columns of `bench.results.RANK_SCHEMA` that no alignment changes."""
        return {
            "query_id": self.query_ids.tolist(),
            "cluster_id": self.clusters.astype(str).tolist(),
        }

    def rank(
        self, queries: Any, gallery: Any, *, scorer: Scorer = "cosine", unlabelled: Any = None
    ) -> Outcome:
        """Rank a gallery for every query and pool the ranks.

        Parameters
        ----------
        queries, gallery : projections of shape (n, r), (g, r)
        scorer : str
            One of `fitters.scorers.SCORERS`; the direction of a transductive one says so.
        unlabelled : projection of shape (m, r), optional
            Queries that are not scored, for the scorer "hub".
        """
        if scorer != "cosine":
            same = None if issparse(gallery) else first_equal(gallery)
            how = {} if unlabelled is None else {"unlabelled": unlabelled}
            queries, gallery = scorer_named(scorer)(queries, gallery, **how)
            gallery = gallery if same is None else gallery[same]
        outcome = self._pooled(rank_relevant(queries, gallery, self.relevance, top=self.top))
        return replace(outcome, direction=labelled(self.direction, scorer))

    def rank_blocks(self, blocks: Iterable[NDArray[Any]]) -> Outcome:
        """Do the same from scores that come in blocks of rows, together of shape (n, g)."""
        return self._pooled(rank_blocks(blocks, self.relevance, top=self.top))

    def _pooled(self, ranks: Ranks) -> Outcome:
        return Outcome(
            direction=self.direction,
            values=summarise(ranks, self.metrics),
            chance=dict(self.chance),
            n=len(self.query_ids),
            gallery=ranks.gallery,
            queries=Queries(ranks, self),
        )


@dataclass(frozen=True, eq=False)
class Queries:
    """What each of n queries found.

    Attributes
    ----------
    ranks : Ranks
    question : Question
    own : array of shape (n, m), optional
        Values of the m metrics of a task of one's own, by name; the ranks are then 0.
    """

    ranks: Ranks
    question: Question
    own: NDArray[np.float64] | None = None

    @property
    def top_ids(self) -> list[list[str]]:
        """item_ids of the first places of every query."""
        ids = self.question.gallery_ids
        return [
            [str(ids[place]) for place in places if place != NO_ITEM] for places in self.ranks.top
        ]


METRICS = ("top-1", "top-5", "top-10", "median_rank", "MRR")


def with_class_metrics(outcome: Outcome, *, seen: NDArray[np.bool_] | None = None) -> Outcome:
    """Return an outcome with `bench.metrics.class_metrics` of its first places added.

    Chance is that of a random class for every image, 1 / g, where it has a closed form: F1 has
    none.

    Parameters
    ----------
    outcome : Outcome
        The groups of its question are classes.
    seen : array of bool, shape (n,), optional
        Whether the head has the class of the query.
    """
    assert outcome.queries is not None
    relevance = outcome.queries.question.relevance
    answers = relevance.gallery_codes[outcome.ranks.top[:, 0]]
    values = class_metrics(relevance.query_codes, answers, seen=seen)
    level = 1.0 / outcome.gallery
    exact = ("balanced-accuracy", "seen", "unseen", "harmonic")
    chance = {name: level for name in exact if name in values}
    facts = outcome.facts if seen is None else {"seen_share": float(seen.mean())}
    return replace(
        outcome, values=outcome.values | values, chance=outcome.chance | chance, facts=facts
    )


def outcomes_of(task: str, found: Any, corpus: Corpus) -> list[Outcome]:
    """Return what the function of a task of one's own found, as outcomes.

    Parameters
    ----------
    task : str
        Its name, which is the direction of what it returns without one.
    found : mapping, Outcome or sequence of Outcome
        Metric → an array of shape (n,), the value of every image of the corpus in its order: the
        result is the mean, and comparisons pair the images, whose clusters are the classes; or a
        number, which has no comparison with an interval. Values are finite; a share lies in [0, 1],
        where higher is better, unless `bench.options.Task.metrics` says otherwise. Or an `Outcome`
        or several, such as those of `Question.rank`.
    corpus : Corpus
        That the function was given.

    Raises
    ------
    ProtocolError
        If it is none of these.
    bench.errors.MetricError
        If a metric has a name of Headstock's.
    """
    if isinstance(found, Outcome):
        return [found]
    if not isinstance(found, Mapping):
        if isinstance(found, Sequence) and found and all(isinstance(o, Outcome) for o in found):
            return list(found)
        raise ProtocolError(
            "A task returns a mapping of metrics to a number, or to an array with a value for "
            f"every image, or Outcomes; got {type(found).__name__}."
        )
    n, values = len(corpus.images), _checked_values(found, len(corpus.images))
    declared = {name: metric_named(name).chance for name in values}
    chance = {name: level for name, level in declared.items() if level is not None}
    alone = {name: float(value) for name, value in values.items() if value.ndim == 0}
    made = [Outcome(f"{task} as a whole", alone, chance, n, 0)] if alone else []
    each = {name: value for name, value in values.items() if value.ndim}
    if each:
        ids, classes = corpus.images.ids, corpus.images.classes
        question = Question(task, ids, ids, (classes, classes), tuple(each))
        nothing, zero = np.zeros(n, np.int64), np.zeros(n)
        ranks = Ranks(
            nothing, zero, zero, np.zeros((n, len(CUTOFFS)), np.int64), nothing, nothing[:, None], 0
        )
        queries = Queries(ranks, question, np.stack([*each.values()], axis=1))
        means = {name: float(value.mean()) for name, value in each.items()}
        made.append(Outcome(task, means, chance, n, 0, queries))
    return made


def _checked_values(found: Mapping[str, Any], n: int) -> dict[str, NDArray[np.float64]]:
    """Return the values of every metric as an array, by name, or raise what is wrong with them."""
    check_own_metrics(found)
    values = {name: np.asarray(found[name], np.float64) for name in sorted(found)}
    for name, value in values.items():
        if value.shape not in ((), (n,)) or not np.isfinite(value).all():
            raise ProtocolError(
                f"Metric {name!r} has shape {value.shape}; it is a finite number, or {n:,} finite "
                "numbers, one an image."
            )
        if metric_named(name).percent and not np.all((value >= 0) & (value <= 1)):
            raise ProtocolError(
                f"Metric {name!r} lies between {value.min():.4g} and {value.max():.4g}. A share "
                "lies between 0 and 1: declare what is none with Metric(percent=False)."
            )
    return values


def projected(alignment: Projector, images: Items, texts: Items) -> tuple[Any, Any]:
    """Return images (n, r) and texts (m, r) in a space where a dot product is their score.

    Equal rows have equal projections: two captions with the same words are one row to an alignment,
    but its products may give them other last bits; see `bench.metrics.ranks`. An alignment that
    compares both sides more cheaply than in its shared space says so by a method `sides`.

    Raises
    ------
    ProtocolError
        If a projection does not return a row for each that it was given.
    """
    (images_once, of_image), (texts_once, of_text) = images.different, texts.different
    if hasattr(alignment, "sides"):
        found = alignment.sides(images, texts)
    else:
        found = alignment.project_x(images_once), alignment.project_y(texts_once)
    for rows, given in zip(found, (images_once, texts_once), strict=True):
        if rows.shape[0] != len(given):
            raise ProtocolError(
                f"{len(given):,} rows were projected to {rows.shape[0]:,}: it takes one a row."
            )
    x, y = (
        rows if rows.shape[0] == len(which) else rows[which]
        for rows, which in zip(found, (of_image, of_text), strict=True)
    )
    return x, y


#: Between them 1 / temperature is sought.
SCALES = (0.01, 10_000.0)

#: Times that the candidates are cut into halves.
HALVINGS = 10

_OfBlock = Callable[[NDArray[np.float32], int], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Confidence:
    """How confidence is read from scores.

    Attributes
    ----------
    scale : float
        1 / temperature.
    rng : numpy Generator
        Draws the halves.
    """

    scale: float
    rng: np.random.Generator

    def of_sides(self, outcome: Outcome, queries: Any, gallery: Any) -> Outcome:
        """Return an outcome with confidence, of projections (n, r) and (g, r)."""
        sides = checked_sides(queries, gallery)
        return self.added(outcome, lambda of_block: of_blocks(of_block, *sides, BLOCK_SCORES))

    def added(
        self, outcome: Outcome, each: Callable[[_OfBlock], list[NDArray[np.float64]]]
    ) -> Outcome:
        """Return an outcome with `bench.metrics.summary.CONFIDENCE_METRICS` and calibration.

        Parameters
        ----------
        outcome : Outcome
            Of queries with names as candidates.
        each : callable
            Calls a function with every block of scores (b, g) and the number of its first query.

        Raises
        ------
        bench.errors.MetricError
            If all queries are of one class.
        """
        assert outcome.queries is not None
        question = outcome.queries.question
        own, names = question.relevance.query_codes, question.relevance.gallery_codes
        halves = [_half(own, names, self.rng) for _ in range(HALVINGS)]

        def of_block(scores: NDArray[np.float32], start: int) -> NDArray[np.float64]:
            z = self.scale * scores.astype(np.float64)
            rows, mine = np.arange(len(z)), own[start : start + len(z)]
            columns = [_surest(z)[1]]
            for half in halves:
                sides = [_surest(z[:, half[names] == side]) for side in (False, True)]
                which = half[mine].astype(int)
                for of_side in (which, 1 - which):
                    columns += list(np.array(sides)[of_side, :, rows].T)
            return np.stack(columns, axis=1)

        found = np.concatenate(each(of_block))
        right = outcome.ranks.rank == 1
        of_halves = found[:, 1:].reshape(len(found), HALVINGS, 2, 2)
        score, probability = (
            np.mean(
                [of_rejection(cut[:, 0, kind], cut[:, 1, kind], half[own])
                 for cut, half in zip(np.moveaxis(of_halves, 1, 0), halves, strict=True)], axis=0,
            )
            for kind in (0, 1)
        )  # fmt: skip
        values = {
            "AURC": of_risk_coverage(found[:, 0], right), "AUROC": probability,
            "AUROC-score": score, "confidence": found[:, 0],
        }  # fmt: skip
        error = calibration(found[:, 0], right, question.clusters)
        levels = {name: CONFIDENCE_METRICS[name].chance for name in values}
        chance = {name: level for name, level in levels.items() if level is not None}
        queries = replace(outcome.queries, own=np.stack([*values.values()], axis=1))
        return replace(
            outcome,
            values=outcome.values
            | {"calibration-error": error.error, "ECE": error.raw}
            | {name: float(value.mean()) for name, value in values.items()},
            chance=outcome.chance | chance | {"AURC": 1.0 - outcome.chance["top-1"]},
            queries=queries,
            facts=(outcome.facts or {}) | {"temperature": 1.0 / self.scale},
        )


def _half(
    own: NDArray[np.int64], names: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which half every name is in: half of those that queries have, and of the others."""
    half = np.zeros(names.max() + 1, bool)
    asked = np.unique(own)
    for some in (asked, np.setdiff1d(names, asked)):
        half[rng.permutation(some)[: len(some) // 2]] = True
    return half


def _surest(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the highest of each row, and its softmax."""
    highest = z.max(axis=1)
    return highest, 1.0 / np.exp(z - highest[:, None]).sum(axis=1)


def for_head(alignment: Projector, weight: Rows) -> Projector:
    """Return the alignment with the mean of a head's rows instead of that of images."""
    if not isinstance(alignment, Alignment) or alignment.x.mean is None:
        return alignment
    x = alignment.x
    own = SideTransform.fit([weight], normalize=x.normalize, label="head rows")
    of_rows = replace(x, mean=own.mean, label="head rows")
    return Alignment.of(of_rows, alignment.y, alignment.aligner, alignment.facts)
