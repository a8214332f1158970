"""A confirmatory plan: what is asked, of what, and until when, stored before the first score.

One TOML file names hypotheses, sets, encoders, one primary comparison and the number of draws
after which it ends. `store_plan` writes its digest, the digest of the code and the id of every run
before any is made. What `outcome` reports is called confirmatory only if all of that still holds.
Its summary takes sets as a sample of sets (`random_effects`), and where the plan says so
encoders as a sample of encoders (`bench.statistics.two_term` over encoders × sets).

An effect differs between sets by more than its standard errors say. The differences are a variance
of their own, and an interval for *other* sets has to hold it. docs/statistics.md says how often
this one is right with four to ten sets (``make validate-statistics``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from msgspec import Meta
from scipy.optimize import brentq
from scipy.special import chdtrc, stdtr, stdtrit

from bench.cells import Cell, read_cells
from bench.code import analysis_digest, code_digest
from bench.comparisons import PAIRED_METRICS, Claim
from bench.errors import BoxError, MetricError, NoResultsError, ProtocolError
from bench.reproduction import Name, Text, parse, record
from bench.results import finished, read_results
from bench.runs import Run
from bench.statistics import ENOUGH_DRAWS, DrawSums, Estimate, two_term
from bench.suites import SUITES
from bench.suites.demo import demo_bases
from bench.tables import Table, interval_text, p_text, signed_text
from featstore.durable import json_bytes, read_json, read_regular, write_file
from featstore.identity import sha256_hex
from featstore.matrices import Rows, vector
from featstore.store.store import FeatureStore

#: Below so many sets their own variance is too uncertain to predict the next one.
ENOUGH_SETS = 6


@dataclass(frozen=True)
class Pooled:
    """The mean effect over sets, as a sample of sets.

    Attributes
    ----------
    mean, error : float
        Weighted by 1 / (sampling variance + `between`), and its standard error after Hartung and
        Knapp, never below the one of the weights.
    between : float
        τ², the variance of the true effects between sets, after Paule and Mandel.
    q, q_p : float
        Cochran's Q, and its p where all sets have the same effect.
    n : int
        Number of sets.
    """

    mean: float
    error: float
    between: float
    q: float
    q_p: float
    n: int

    @property
    def inconsistency(self) -> float:
        """I², the share of the variance of the effects that is not sampling (Higgins, 2003)."""
        return max(0.0, 1.0 - (self.n - 1) / self.q) if self.q > 0 else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the t interval of the mean effect over all such sets, n - 1 degrees."""
        half = float(stdtrit(self.n - 1, 0.5 + confidence / 2.0)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Return the two-sided p of a mean effect of 0."""
        return float(2.0 * stdtr(self.n - 1, -abs(self.mean) / self.error)) if self.error else 1.0

    def prediction(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return where the true effect on one more set lies; None below `ENOUGH_SETS`.

        t with n - 2 degrees (Higgins, Thompson and Spiegelhalter, 2009).
        """
        if self.n < ENOUGH_SETS:
            return None
        half = float(stdtrit(self.n - 2, 0.5 + confidence / 2.0))
        half *= math.sqrt(self.between + self.error**2)
        return self.mean - half, self.mean + half


def random_effects(effects: Rows, variances: Rows) -> Pooled:
    """Return the mean of effects over sets, with the variance between sets.

    Parameters
    ----------
    effects, variances : array_like of shape (n,)
        Of every set, its effect and the sampling variance of that, above 0; n at least 2.

    Raises
    ------
    MetricError
        If there are fewer than two, or a variance is not above 0.

    References
    ----------
    Paule and Mandel, Consensus Values and Weighting Factors, 1982: τ² is where Σ w (y - ȳ)² is
    n - 1. Hartung and Knapp, A Refined Method for the Meta-analysis of Controlled Clinical Trials,
    2001; the bound below, Knapp and Hartung, 2003.

    Examples
    --------
    >>> found = random_effects([0.02, 0.05, 0.01, 0.08], [1e-4, 2e-4, 1e-4, 3e-4])
    >>> round(found.mean, 4), round(found.between, 5), round(found.p_value(), 3)
    (0.0339, 0.0007, 0.108)
    """
    y, v = vector(effects, "effects"), vector(variances, "variances")
    n = len(y)
    if n != len(v) or n < 2 or not (v > 0).all():
        raise MetricError(
            f"A summary over sets needs two or more effects, each with a variance above 0: got {n} "
            f"effects and {len(v)} variances, the least {min(v, default=math.nan):g}."
        )

    def weighted(between: float) -> tuple[float, float, float]:
        w = 1.0 / (v + between)
        mean = float(w @ y / w.sum())
        return mean, float(w @ (y - mean) ** 2), float(w.sum())

    q = weighted(0.0)[1]
    # At Σ (y - ȳ)² the weighted sum is at most 1.
    most = float(np.sum((y - y.mean()) ** 2))
    between = 0.0 if q <= n - 1 else brentq(lambda b: weighted(b)[1] - (n - 1), 0.0, most)
    mean, spread, weight = weighted(between)
    error = math.sqrt(max(1.0, spread / (n - 1)) / weight)
    return Pooled(mean, error, float(between), q, float(chdtrc(n - 1, q)), n)


#: Bytes of a plan, at most.
MOST_BYTES = 2**20

#: Fewer encoders are no sample of encoders: with two, an interval over them is wrong up to 11 % of
#: the time (docs/statistics.md).
ENOUGH_ENCODERS = 4

#: What the primary comparison may be claimed of, beyond the sets that were scored.
OVER = ("sets", "sets and encoders")


Texts = Annotated[tuple[Text, ...], Meta(min_length=1)]


_PRIMARY = record(
    "Primary", ("a", str), ("b", str), ("metric", str), ("eval", str, "held-out"),
    ("over", Literal["sets", "sets and encoders"], "sets"),
)  # fmt: skip
_PLAN = record(
    "Plan", ("name", Name), ("hypotheses", Texts), ("datasets", Texts), ("encoders", Texts),
    ("texts", Texts), ("draws", Annotated[int, Meta(ge=1, le=1000)]), ("primary", _PRIMARY),
    ("label_set", str, ""),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is asked, before any answer.

    Attributes
    ----------
    asked : record
        The file's keys. `datasets`, `encoders` of images and `texts` are crossed, each encoder part
        of a set's key. `draws` is the stopping rule: seeds 0 to draws - 1 are run, and nothing is
        summarised before.
    digest : str
        The sha256 of the file.
    """

    asked: Any
    digest: str

    @property
    def name(self) -> str:
        """The plan's name, and that of its suite."""
        return str(self.asked.name)

    @property
    def sides(self) -> list[tuple[str, ...]]:
        """The primary comparison, (method, source, K): the first less the second."""
        primary = self.asked.primary
        return [(*side.split("/"), "", "")[:3] for side in (primary.a, primary.b)]

    def runs(self, store: FeatureStore) -> list[Run]:
        """Return every run of the plan on a store.

        Raises
        ------
        ProtocolError
            If a dataset lacks one of the encoders, or several of its sets fit one.
        """
        runs, asked = [], self.asked
        for dataset in asked.datasets:
            label_set = asked.label_set or None
            bases = demo_bases(store, self.name, dataset=dataset, label_set=label_set)
            for image, text in product(asked.encoders, asked.texts):
                own = [b for b in bases if image in b.data.image_set and text in b.data.name_set]
                if len(own) != 1:
                    raise ProtocolError(
                        f"{len(own)} sets of {dataset!r} fit encoder {image!r} and texts {text!r}; "
                        "a plan needs one of each. Extract it, or name a longer part of its key."
                    )
                runs += [
                    own[0].changed(
                        eval=asked.primary.eval, method=method, source=source, seed=seed,
                        n_pairs=int(k) if k.isdigit() else k,
                    )
                    for method, source, k in self.sides for seed in range(asked.draws)
                ]  # fmt: skip
        return runs


def read_plan(place: Path) -> Plan:
    """Return the plan of a TOML file; docs/ref/boxes.md has its keys.

    Raises
    ------
    BoxError
        If there is no such file, or it lacks something or holds what is unknown.
    """
    try:
        data = read_regular(place, limit=MOST_BYTES)
        plan = Plan(parse(data, _PLAN), sha256_hex(data))
    except (OSError, ValueError) as err:
        raise BoxError(f"{place} is no plan: {err}") from err
    primary, n = plan.asked.primary, len(plan.asked.encoders) * len(plan.asked.texts)
    rules = {
        "name must be of no suite": plan.name not in (*SUITES, "task"),
        f"primary.metric must be one of {', '.join(PAIRED_METRICS)}": (
            primary.metric in PAIRED_METRICS
        ),
        "primary.a and primary.b must be METHOD/SOURCE/K": all(map(all, plan.sides)),
        f"primary.over can be {OVER[1]!r} from {ENOUGH_ENCODERS} encoders × texts on, here {n}": (
            primary.over == OVER[0] or n >= ENOUGH_ENCODERS
        ),
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise BoxError(f"{place} is no plan: {broken[0]}.")
    return plan


def store_plan(root: Path, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Write what is planned into a results folder, unless it is there; return what was stored.

    Raises
    ------
    CorruptStoreError, StoreWriteError
        If what is stored is damaged, or cannot be written.
    """
    path = root / "plans" / f"{plan.name}.json"
    if not path.exists():
        ids = sorted(run.run_id for run in runs)
        stored = {"digest": plan.digest, "code": _code(), "runs": ids}
        write_file(path, [json_bytes(stored | {"scored": len(finished(root).intersection(ids))})])
    return dict(read_json(path))


#: Limits of a `bench.comparisons.Claim`, as reasons.
_LIMITS = {
    "pool": "a draw takes more than a quarter of its pool of pairs",
    "draws": f"it has fewer than {ENOUGH_DRAWS} draws",
    "controls": "it has too few draws of a control",
}


def _code() -> str:
    return f"{code_digest()} {analysis_digest()}"


@dataclass(frozen=True)
class Outcome:
    """What became of a plan.

    Attributes
    ----------
    plan : Plan
    reasons : tuple of str
        Why it is not confirmatory; empty where it is.
    sets : dict of str to Estimate
        The effect on every dataset, the mean over its encoders.
    pooled : Pooled or None
        Over sets; None for one set.
    crossed : Estimate or None
        Over encoders and sets; None where the plan does not claim that.
    """

    plan: Plan
    reasons: tuple[str, ...]
    sets: dict[str, Estimate]
    pooled: Pooled | None
    crossed: Estimate | None

    @property
    def word(self) -> str:
        """``"confirmatory"``, or ``"exploratory"`` where a reason speaks against it."""
        return "exploratory" if self.reasons else "confirmatory"

    @property
    def primary(self) -> Estimate | Pooled:
        """The estimate that the plan named."""
        return self.crossed or self.pooled or next(iter(self.sets.values()))

    @property
    def lines(self) -> list[str]:
        """The result in sentences."""
        low, high = self.primary.interval()
        n, asked = len(self.sets), self.plan.asked.primary
        over = asked.over if self.pooled else "this one set"
        effect = f"{signed_text(self.primary.mean)} {interval_text(low, high)} points"
        p = p_text(self.primary.p_value())
        said = [f"{self.plan.name}, {self.word}: {asked.metric} {effect} over {over}, p {p}."]
        said += [f"Not confirmatory: {reason}." for reason in self.reasons]
        if self.pooled:
            said.append(
                f"Between sets: sd {100 * self.pooled.between**0.5:.1f} points, I² "
                f"{100 * self.pooled.inconsistency:.0f} %, Q {self.pooled.q:.1f} on {n - 1}, p "
                f"{p_text(self.pooled.q_p)} (Paule-Mandel, Hartung-Knapp)."
            )
            next_ = self.pooled.prediction()
            said.append(
                f"No prediction interval: {n} sets say too little of how sets differ; it takes "
                f"{ENOUGH_SETS}." if next_ is None else
                f"The effect on one more such set: {interval_text(*next_)} points."
            )  # fmt: skip
        return said

    def table(self) -> Table:
        """Return the effect on every set, in points."""
        lines = [
            [name, signed_text(own.mean), interval_text(*own.interval()), p_text(own.p_value())]
            for name, own in self.sets.items()
        ]
        return Table(["set", "difference", "95 % interval", "p"], lines)

    def facts(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        return {
            "plan": self.plan.name, "digest": self.plan.digest, "word": self.word,
            "reasons": self.reasons, "lines": self.lines,
            "sets": {name: [own.mean, *own.interval()] for name, own in self.sets.items()},
            "between": self.pooled and self.pooled.between, "mean": self.primary.mean,
            "interval": self.primary.interval(), "p": self.primary.p_value(),
        }  # fmt: skip


def outcome(root: Path, plan: Plan, runs: Sequence[Run]) -> Outcome:
    """Return what became of a plan all of whose runs are finished.

    Parameters
    ----------
    root : Path
        Results folder, with the plan that `store_plan` wrote there.
    plan : Plan
        As its file is now.
    runs : sequence of Run
        As the plan, the store and the code make them now.

    Raises
    ------
    NoResultsError
        If a run is not finished: nothing is looked at before the plan ends.
    """
    ids = {run.run_id for run in runs}
    if left := len(ids - finished(root)):
        raise NoResultsError(
            f"{left:,} of {len(ids):,} runs of plan {plan.name!r} are not finished. It ends with "
            "the last, and nothing is summarised before: run it again."
        )
    stored = store_plan(root, plan, runs)
    changes: dict[str, Any] = {
        "the plan changed after it was stored": stored["digest"] != plan.digest,
        "the code changed after the plan was stored": stored["code"] != _code(),
        "sets or their revisions changed after the plan was stored": (
            stored["runs"] != sorted(ids) and stored["code"] == _code()
            and stored["digest"] == plan.digest
        ),
        f"{stored['scored']:,} of its runs had been scored before it was stored": stored["scored"],
    }  # fmt: skip
    rows = read_results(root).filter(
        pl.col("run_id").is_in(list(ids)), metric=plan.asked.primary.metric
    )
    cells = read_cells(root, rows.filter(direction="image→name"))
    found = {name: _effects(plan, name, cells) for name in plan.asked.datasets}
    sets = {name: _mean(own) for name, own in found.items()}
    changes |= {
        _LIMITS[claim.limit]: True for own in found.values() for claim in own if claim.limit
    }
    means = np.array([[claim.estimate.mean for claim in own] for own in found.values()]).T
    pooled = None
    if len(sets) > 1:
        pooled = random_effects(
            [own.mean for own in sets.values()], [own.variance for own in sets.values()]
        )
    crossed = None
    if pooled and plan.asked.primary.over == OVER[1]:
        crossed = two_term(DrawSums(means, np.ones(means.shape)))
    reasons = tuple(why for why, is_so in changes.items() if is_so)
    return Outcome(plan, reasons, sets, pooled, crossed)


def _effects(plan: Plan, dataset: str, cells: Sequence[Cell]) -> list[Claim]:
    """Return the comparison on one dataset by every pair of encoders, in the plan's order."""
    claims = []
    for image, text in product(plan.asked.encoders, plan.asked.texts):
        sides: dict[tuple[str, ...], Cell] = {
            (cell.method, cell.source, cell.n_pairs): cell
            for cell in cells
            for images, names in [(str(cell.arena[4]), str(cell.arena[5]))]
            if images.startswith(f"{dataset}/") and image in images and text in names
        }
        a, b = (sides[side] for side in plan.sides)
        claims.append(Claim("a-b", a, b, plan.asked.primary.metric))
    return claims


def _mean(claims: Sequence[Claim]) -> Estimate:
    """Return the mean difference over encoders, which score the same queries."""
    each = [claim.sides[0] - claim.sides[1] for claim in claims]
    total = sum((own.total for own in each[1:]), each[0].total)
    overlap = 0.0 if claims[0].is_about_this_pool else claims[0].overlap
    return two_term(DrawSums(total / len(each), each[0].count), overlap=overlap)
