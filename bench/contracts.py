"""Contracts of an aligner, a learner and a task of one's own; see `featstore.testing`.

Nothing here needs a store: the rows are planted, small and the same every time.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from scipy.stats import binom
from sklearn.base import BaseEstimator, clone

from bench.corpus import Corpus, Head, Items
from bench.execution import Scoring, split_of
from bench.options import TASKS
from bench.runs import Run
from featstore.errors import ContractError, FeatstoreError, PluginError, lookup
from featstore.plugins import registry_of
from featstore.testing import (
    Contract,
    EncoderContract,
    Inapplicable,
    defined,
    equal,
    expect,
    unchanged,
)
from fitters.aligners import params_of, stacked, takes_weights
from fitters.alignment import Alignment, fit
from fitters.few_shot import learner_named
from fitters.few_shot.learner import Learner, Shots
from fitters.methods import Method, method_named
from fitters.moments import moments_of
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS
from fitters.select import Choice
from fitters.settings import FitConfig
from fitters.sources import SideTransform, Sources, normalize_rows

Matrix = npt.NDArray[Any]

#: How far scores may move that are equal but for rounding; rows are float32.
TOLERANCE = 1e-4
#: Share of the answers that must stay where something is drawn, and so not equal.
SHARE = 0.9
#: Held-out pairs that a fit is scored on, and draws of each control.
HELD_OUT, DRAWS = 60, 3

#: What refuses an input in so many words.
_CLEAR = (FeatstoreError, ValueError)


def _dense(rows: Any) -> Matrix:
    return np.asarray(rows.toarray() if issparse(rows) else rows)


def _answers(scores: Matrix) -> Matrix:
    return np.asarray(scores.argmax(axis=1))


def _stays(scores: Matrix, expected: Matrix, when: str, todo: str, *, drawn: bool = False) -> str:
    """Return what is worth saying of scores that are to be those expected, within `TOLERANCE`.

    Of something drawn the answers are to stay, not the scores.

    Raises
    ------
    ContractError
        If they are others.
    """
    moved = float(np.abs(scores - expected).max())
    if moved <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        return ""
    same = float(np.mean(_answers(scores) == _answers(expected)))
    said = f"scores move by up to {moved:.2g} {when}, and {same:.0%} of the answers stay"
    if drawn and same >= SHARE:
        return f"{said[0].upper()}{said[1:]}."
    wanted = f"{SHARE:.0%} of the answers" if drawn else f"the scores to {TOLERANCE:g}"
    raise ContractError(f"Expected {wanted} to stay; {said}. {todo}")


def planted(n: int, p: int, q: int, *, seed: int = 0) -> Pairs:
    """Return n pairs whose x are y through one linear map, the same for all, with a little noise.

    Where p = q the map changes little: for what aligns spaces that are alike already.
    """
    rng, of_map = np.random.default_rng([p, q, seed]), np.random.default_rng([p, q])
    y = rng.standard_normal((n, q))
    noise, drawn = 0.05 * rng.standard_normal((n, p)), of_map.standard_normal((q, p)) / np.sqrt(q)
    x = y @ (drawn if p != q else np.eye(p) + 0.2 * drawn) + noise
    return Pairs(x.astype(np.float32), y.astype(np.float32))


class AlignerContract(Contract):
    """What `fitters`, `bench` and the report need of an aligner: see `fitters.aligners`."""

    @cached_property
    def _config(self) -> FitConfig:
        return FitConfig(self._name)

    @cached_property
    def _method(self) -> Method:
        return method_named(self._name)

    @cached_property
    def _world(self) -> tuple[Pairs, Pairs]:
        """Pairs to fit and held-out ones: of two widths, unless it refuses them."""
        worlds = [(planted(80, 12, q), planted(HELD_OUT, 12, q, seed=1)) for q in (9, 12)]
        try:
            self._fitted(worlds[0][0])
        except _CLEAR:
            return worlds[1]
        return worlds[0]

    @cached_property
    def _given(self) -> Pairs:
        """The pairs to fit, prepared."""
        return self._sources(self._world[0]).given[0]

    @cached_property
    def _rows(self) -> tuple[Matrix, Matrix]:
        """Held-out rows, prepared."""
        data, new = self._sources(self._world[0]), self._world[1]
        return data.image.apply(new.x), data.text.apply(new.y)

    @cached_property
    def _fit(self) -> Any:
        return self._fitted(self._world[0])

    def _make(self) -> Any:
        return self._method.make(self._config)

    def _sources(self, pairs: Pairs) -> Sources[Pairs]:
        """Return pairs prepared as the protocol does, as prototypes where it takes some."""
        if self._method.rows.texts == "raw":
            return self._method.sources(self._config, real=pairs)
        mean = SideTransform.fit([pairs.x]).mean if self._method.rows.images == "centred" else None
        bias = np.zeros(pairs.n) if self._method.reads_bias else None
        return self._method.sources(self._config, prototypes=pairs, image_mean=mean, bias=bias)

    def _fitted(self, pairs: Pairs) -> Any:
        return self._make().fit(*stacked(self._sources(pairs), 1.0)[:2])

    def _scores(self, aligner: Any, rows: tuple[Matrix, Matrix] | None = None) -> Matrix:
        x, y = rows or self._rows
        return np.asarray(_dense(aligner.project_x(x)) @ _dense(aligner.project_y(y)).T)

    def _same(self, aligner: Any, when: str, todo: str, expected: Any = None) -> str:
        """Return what is worth saying of an aligner that is to score as another, or `_fit`."""
        drawn = not {"seed", "random_state"}.isdisjoint(params_of(self._fit))
        scores = self._scores(self._fit if expected is None else expected)
        return _stays(self._scores(aligner), scores, when, todo, drawn=drawn)

    def fit(self) -> None:
        """Fit float32 and float64 rows, and return the aligner itself."""
        for dtype in (np.float64, np.float32):
            made = self._make()
            found = made.fit(self._given.x.astype(dtype), self._given.y.astype(dtype))
            expect(
                found is made, f"Expected fit to return self; it returned {type(found).__name__}. "
                "End it with `return self`.",
            )  # fmt: skip

    def parameters(self) -> None:
        """Keep every constructor parameter under its own name, as it was given."""
        made = self._make()
        names = inspect.signature(type(made)).parameters
        copy = type(made)(**{name: getattr(made, name) for name in names if hasattr(made, name)})
        other = [name for name in names
                 if getattr(made, name, copy) is not getattr(copy, name, made)]  # fmt: skip
        expect(
            not other, f"Expected an attribute for every parameter, as it was given; "
            f"{', '.join(other)} is missing or changed. Write self.NAME = NAME in __init__.",
        )  # fmt: skip
        if isinstance(made, BaseEstimator):
            clone(made).set_params(**made.get_params(deep=False))

    def inputs(self) -> None:
        """Leave the rows that are passed as they are."""
        x, y = self._rows
        passed = {"X": self._given.x, "y": self._given.y, "x": x, "y that is projected": y}
        unchanged(passed, lambda: self._scores(self._make().fit(passed["X"], passed["y"])))

    def projections(self) -> None:
        """Give n finite rows of floats for n rows, of equal columns on both sides, of length 1."""
        x, y = self._rows[0], self._rows[1][1:]
        made = _dense(self._fit.project_x(x)), _dense(self._fit.project_y(y))
        for side, rows, n in zip("xy", made, (len(x), len(y)), strict=True):
            expect(
                rows.ndim == 2 and len(rows) == n and rows.dtype.kind == "f",
                f"Expected project_{side} of {n} rows to give {n} rows of floats; got "
                f"{rows.dtype} of shape {rows.shape}.",
            )
            lost = np.count_nonzero(~np.isfinite(rows))
            expect(not lost, f"Expected finite values of project_{side}; {lost:,} of "
                    f"{rows.size:,} are not.")  # fmt: skip
        columns = [rows.shape[1] for rows in made]
        expect(
            columns[0] == columns[1], f"Expected one space; project_x gives {columns[0]} columns, "
            f"project_y {columns[1]}. Project both sides into the same one.",
        )  # fmt: skip
        for side, rows in zip("xy", made, strict=True):
            off = np.abs(np.linalg.norm(rows, axis=1) - 1).max()
            expect(
                off < 1e-3 or not getattr(self._fit, "unit_rows", True),
                f"Expected rows of length 1 of project_{side}; one is off by {off:.2g}. Divide by "
                "the norms, or say `unit_rows = False` in the class.",
            )

    def determinism(self) -> None:
        """Give the same bytes for the same rows."""
        equal(
            self._scores(self._fitted(self._world[0])), self._scores(self._fit),
            "Draw from numpy.random.default_rng(self.seed), and make `seed` a parameter.",
        )  # fmt: skip

    def rows(self) -> str:
        """Project a row alone as it does among others."""
        projects = self._fit.project_x, self._fit.project_y
        alone = [
            np.concatenate([_dense(project(row[None])) for row in side])
            for project, side in zip(projects, self._rows, strict=True)
        ]
        return _stays(
            alone[0] @ alone[1].T, self._scores(self._fit), "if rows are projected one by one",
            "Use what was fitted, not a mean or a scale of the rows that are projected: a score "
            "must not depend on the other test rows.",
        )  # fmt: skip

    def order(self) -> str:
        """Depend on no order of the pairs."""
        pairs = self._world[0]
        return self._same(
            self._fitted(pairs.take(np.random.default_rng(2).permutation(pairs.n))),
            "if the pairs come in another order",
            "Treat all pairs alike, or draw their order by a parameter `seed`.",
        )

    def weights(self) -> str:
        """Take a pair of weight 2 for two pairs."""
        if not takes_weights(self._make()):
            raise Inapplicable(
                "Its fit has no sample_weight: prototypes and pairs are not mixed by weight."
            )
        times = 1 + np.arange(self._given.n) % 3
        repeated = [np.repeat(rows, times, axis=0) for rows in (self._given.x, self._given.y)]
        return self._same(
            self._make().fit(self._given.x, self._given.y, sample_weight=times.astype(float)),
            "between weights and repeated pairs",
            "Multiply every sum over pairs by the weights, or leave sample_weight out of fit.",
            self._make().fit(*repeated, sample_weight=np.ones(times.sum())),
        )

    def moments(self) -> str:
        """Fit moments of rows as it does the rows."""
        if not hasattr(self._method.cls, "fit_moments"):
            raise Inapplicable("It has no fit_moments: it is fitted on rows.")
        made = self._make().fit_moments(moments_of(self._given))
        return self._same(made, "between rows and their moments", "Make both one solution.")

    def small_data(self) -> None:
        """Give finite rows or a ValueError for few, equal or constant rows and any two widths."""
        x, y = (normalize_rows(rows) for rows in (self._world[0].x, self._world[0].y))
        wide = np.hstack([y, x])[:, :12]
        for case, pairs in {
            "one pair": (x[:1], y[:1]),
            "one pair, three times": (x[[0, 0, 0]], y[[0, 0, 0]]),
            "4 pairs, fewer than columns": (x[:4], y[:4]),
            "a constant column": (np.where(np.arange(x.shape[1]), x, 1.0), y),
            "one text for all images": (x, y[:1].repeat(len(y), axis=0)),
            "9 columns of x and 12 of y": (x[:, :9], wide),
            "12 columns on both sides": (x, wide),
        }.items():
            try:
                new = x[5:9, : pairs[0].shape[1]], wide[5:9, : pairs[1].shape[1]]
                scores = self._scores(self._make().fit(*pairs), new)
            except _CLEAR:
                continue
            except Exception as err:
                err.add_note(f"for {case}; expected finite rows, or a ValueError that says why")
                raise
            lost = np.count_nonzero(~np.isfinite(scores))
            expect(
                not lost, f"Expected finite rows for {case}, or a ValueError that says why; "
                f"{lost:,} of 16 scores are not finite. Add a penalty, or refuse such rows.",
            )  # fmt: skip

    @cached_property
    def _chosen(self) -> Choice:
        data = self._sources(self._world[0])
        return self._method.tune(self._config, data, rng=np.random.default_rng(0))

    def _alignment(self, pairs: Pairs) -> Alignment:
        rng = np.random.default_rng(0)
        return fit(self._config, self._sources(pairs), chosen=self._chosen, rng=rng)

    def _raw_scores(self, alignment: Alignment) -> Matrix:
        return self._scores(alignment, (self._world[1].x, self._world[1].y))

    def _right(self, pairs: Pairs) -> int:
        answers = _answers(self._raw_scores(self._alignment(pairs)))
        return int(np.count_nonzero(answers == np.arange(HELD_OUT)))

    def planted_pairs(self) -> str:
        """Find held-out pairs of a planted map, with settings that are chosen on its pairs."""
        right, most = self._right(self._world[0]), int(binom.isf(1e-6, HELD_OUT, 1 / HELD_OUT))
        expect(
            right > most, f"Expected more than {most} of {HELD_OUT} held-out images to find "
            f"their text, where chance finds 1; found {right}. Look whether both sides are "
            "projected by what was fitted.",
        )  # fmt: skip
        return f"{right} of {HELD_OUT} held-out images find their text."

    def controls(self) -> None:
        """Find nothing above chance where the rows of x, or who belongs to whom, were random."""
        # Images of one draw share their control: hence twice the bound of independent ones.
        n, most = DRAWS * HELD_OUT, 2 * int(binom.isf(1e-3, DRAWS * HELD_OUT, 1 / HELD_OUT))
        for name in [*CONTROLS][:-1]:
            drawn = (
                CONTROLS[name](self._world[0], np.random.default_rng([17, k])) for k in range(DRAWS)
            )
            expect(
                (right := sum(map(self._right, drawn))) <= most, f"Expected at most {most} of {n} "
                f"held-out images to find their text after fits on the control {name!r}; {right} "
                "do. What it finds does not come from which rows are pairs: over this control it "
                "will gain nothing.",
            )  # fmt: skip

    def saved(self) -> None:
        """Give the same projections when it was saved and read."""
        made = self._alignment(self._world[0])
        with tempfile.TemporaryDirectory() as folder:
            again = Alignment.read(made.save(Path(folder) / "a"))
        equal(self._raw_scores(again), self._raw_scores(made), "Keep what is fitted in attributes "
              "that end in _: arrays of floats, and numbers.")  # fmt: skip


#: Classes of the planted shots, and test rows of each.
_CLASSES, _TESTED = 6, 20


class LearnerContract(Contract):
    """What the few-shot task needs of a learner: see `fitters.few_shot.learner`."""

    def _world(self, seed: int = 0) -> tuple[Shots, Matrix]:
        """Return shots around class centres, and rows to test, those of a class together.

        Of another seed the test rows are of the same classes, and the shots of others.
        """
        rng, needs = np.random.default_rng(seed), getattr(self._make(), "needs", ())
        truth, others, more = (
            normalize_rows(np.random.default_rng([n, seed * (n > 0)]).standard_normal((size, 16)))
            for n, size in enumerate((_CLASSES, _CLASSES, 40))
        )

        def around(centres: Matrix, n: int) -> Matrix:
            rows = np.repeat(centres, n, axis=0) + 0.2 * rng.standard_normal((n * len(centres), 16))
            return normalize_rows(rows).astype(np.float32)

        centres, labels, to_texts = others if seed else truth, np.arange(_CLASSES), np.eye(16, 9)
        shots = Shots(
            around(centres, 4), np.repeat(labels, 4), _CLASSES, around(centres, 1),
            around(centres, 2), np.repeat(labels, 2),
            texts=(centres @ to_texts).astype(np.float32) if "texts" in needs else None,
            head=Pairs(more, more @ to_texts) if "head" in needs else None,
        )  # fmt: skip
        return shots, around(truth, _TESTED)

    @cached_property
    def _shots(self) -> Shots:
        return self._world()[0]

    @cached_property
    def _test(self) -> Matrix:
        return self._world()[1]

    def _make(self) -> Learner:
        return learner_named(self._name)

    def _scores(self, **changes: Any) -> Matrix:
        """Return scores of the test rows, learned from shots with these changes."""
        scores = self._make().fit(replace(self._shots, **changes)).scores(self._test)
        wanted, got = (len(self._test), _CLASSES), np.shape(scores)
        expect(got == wanted, f"Expected scores of shape {wanted}; got {got}. Score every class.")
        lost = np.count_nonzero(~np.isfinite(scores))
        expect(not lost, f"Expected finite scores; {lost:,} of {scores.size:,} are not.")
        return np.asarray(scores)

    def _stays(self, when: str, todo: str, expected: Matrix, **changes: Any) -> str:
        return _stays(self._scores(**changes), expected, when, todo, drawn=True)

    def fit(self) -> None:
        """Learn from shots, and score every row for every class in finite numbers."""
        self._scores()

    def inputs(self) -> None:
        """Leave the shots as they are."""
        passed = {
            name: own for name, own in vars(self._shots).items() if isinstance(own, np.ndarray)
        }
        unchanged(passed, self._scores)

    def determinism(self) -> None:
        """Give the same scores for the same shots."""
        equal(self._scores(), self._scores(), "Draw from a seed of the learner's own.")

    def rows(self) -> str:
        """Score a row alone as it does among others."""
        made = self._make().fit(self._shots)
        alone = np.concatenate([made.scores(row[None]) for row in self._test])
        return _stays(alone, self._scores(), "if rows are scored one by one",
                      "Use nothing of the rows that are scored but each itself.")  # fmt: skip

    def order(self) -> str:
        """Depend on no order of the shots."""
        order, shots = np.random.default_rng(2).permutation(len(self._shots.x)), self._shots
        changes = {"x": shots.x[order], "labels": shots.labels[order]}
        when, todo = "if the shots come in another order", "Treat all shots alike."
        return self._stays(when, todo, self._scores(), **changes)

    def classes(self) -> str:
        """Permute the scores where the classes are permuted."""
        order, shots = np.roll(np.arange(_CLASSES), 1), self._shots
        by_class = {name: rows[order] for name in ("prototypes", "texts")
                    if (rows := getattr(shots, name)) is not None}  # fmt: skip
        new = np.argsort(order)
        changes = {"labels": new[shots.labels], "validation_labels": new[shots.validation[1]]}
        when, todo = (
            "if the classes are numbered otherwise",
            "A label is a number without an order.",
        )
        return self._stays(when, todo, self._scores()[:, order], **changes, **by_class)

    def no_shots(self) -> str:
        """Score by the prototypes where a class, or every class, has no shot."""
        for kept in (self._shots.labels > 0, self._shots.labels < 0):
            scores = self._scores(x=self._shots.x[kept], labels=self._shots.labels[kept])
        by_prototypes = _answers(self._test @ np.asarray(self._shots.prototypes).T)
        same = np.mean(_answers(scores) == by_prototypes)
        return "" if same == 1 else f"Without shots {same:.0%} of the answers are the prototypes'."

    def _right(self, seed: int) -> int:
        scores = self._make().fit(self._world(seed)[0]).scores(self._test)
        return int(np.count_nonzero(_answers(scores) == np.repeat(np.arange(_CLASSES), _TESTED)))

    def planted_classes(self) -> str:
        """Find planted classes far above chance."""
        n, right = len(self._test), self._right(0)
        expect(2 * right > n, f"Expected more than half of {n} test rows in their class, where "
                f"chance puts {n // _CLASSES}; found {right}.")  # fmt: skip
        return f"{right} of {n} test rows are put into their class."

    def controls(self) -> None:
        """Find nothing above chance from shots of other classes."""
        # Rows of one class are answered together: classes are what is counted.
        n, right = 5 * _CLASSES, sum(map(self._right, range(1, 6))) / _TESTED
        most = int(binom.isf(1e-3, n, 1 / _CLASSES))
        expect(right <= most, f"Expected at most {most} of {n} classes found after shots of other "
                f"classes; found {right:.1f}. What it finds is not in the shots.")  # fmt: skip


class TaskContract(Contract):
    """What `bench` needs of a task: see `bench.options.Task`."""

    @cached_property
    def _corpus(self) -> Corpus:
        """60 images of 12 classes with a caption each, their names, and a head of 32 classes."""
        drawn, rng = planted(32, 12, 9), np.random.default_rng(3)
        texts, label = normalize_rows(drawn.y).astype(np.float32), np.arange(60) % 12
        classes, ids = (
            np.array([f"{kind}/{i:02}" for i in range(60)]) for kind in ("class", "image")
        )
        of, own = classes[label], (0.3 * rng.standard_normal((60, 9))).astype(np.float32)
        truth = np.linalg.lstsq(drawn.y, drawn.x, rcond=None)[0].astype(np.float32)
        return Corpus(
            Items(ids, of, drawn.x[label] + own @ truth),
            Items(classes[:12], classes[:12], texts[:12]),
            Items(np.char.add(ids, "#0"), of, (drawn.y[label] + own), parents=ids),
            Head(drawn.x, np.zeros(32, np.float32), texts, np.arange(32), classes[:32]),
            seen=np.arange(12) < 4,
        )  # fmt: skip

    @cached_property
    def _run(self) -> Run:
        return Run.of(
            suite="check", task=self._name, method="ridge", source="head", image_set="images",
            image_revision="", name_set="names", caption_set="captions", head_set="head",
            head_name_set="head names", eval=TASKS[self._name].eval,
        )  # fmt: skip

    def _values(self, corpus: Corpus | None = None, *, seed: int = 0) -> dict[str, float]:
        """Return metric → value of a ridge on the head; of a seed above 0, on a shuffled one."""
        corpus = corpus or self._corpus
        head = Pairs(self._corpus.head.weight, self._corpus.head.texts)  # type: ignore[union-attr]
        rng = np.random.default_rng(seed)
        made = CONTROLS["shuffled"](head, rng) if seed else head
        fitted = fit("ridge", prototypes=made, penalty=0.1, rng=rng)
        outcomes = Scoring(corpus, split_of(self._run, corpus)).score(self._run, fitted)
        return {
            f"{outcome.direction} {metric}": float(value)
            for outcome in outcomes
            for metric, value in outcome.values.items()
        }

    def score(self) -> str:
        """Score an alignment in finite numbers, a share between 0 and 1."""
        values, shuffled = self._values(), self._values(seed=1)
        expect(bool(values), "Expected at least one metric; got none.")
        lost = [name for name, value in values.items() if not np.isfinite(value)]
        expect(not lost, f"Expected finite values; {', '.join(lost)} is not.")
        shown = [f"{name} {value:.3g} (names shuffled: {shuffled[name]:.3g})"
                 for name, value in [*values.items()][:3]]  # fmt: skip
        return ", ".join(shown)

    def determinism(self) -> None:
        """Give the same values again."""
        one, two = ([*self._values().values()] for _ in range(2))
        equal(one, two, "Draw from `rng`.")

    def inputs(self) -> None:
        """Leave the corpus as it is."""
        parts = {"images": self._corpus.images, "names": self._corpus.names}
        unchanged({name: part.rows for name, part in parts.items()}, self._values)

    def order(self) -> str:
        """Depend on no order of images, captions and names."""
        own = TASKS[self._name].score
        if own is None or "rng" in inspect.signature(own).parameters:
            raise Inapplicable("It may draw, and so it is not looked at.")
        corpus, (n, c) = self._corpus, (np.roll(np.arange(60), 7), np.roll(np.arange(12), 5))
        assert corpus.captions is not None
        turned = replace(
            corpus, images=corpus.images.take(n), captions=corpus.captions.take(n),
            names=corpus.names.take(c), seen=np.asarray(corpus.seen)[c],
        )  # fmt: skip
        values, expected = self._values(turned), self._values()
        moved = [f"{name} from {value:.4g} to {values.get(name, np.nan):.4g}"
                 for name, value in expected.items()
                 if not np.isclose(values.get(name, np.nan), value, atol=TOLERANCE)]  # fmt: skip
        expect(not moved, f"Expected equal values in another order; got {', '.join(moved)}. Join "
               "rows by id, parent and class, never by position.")  # fmt: skip
        return ""


CONTRACTS: dict[str, type[Contract]] = {
    "aligner": AlignerContract,
    "learner": LearnerContract,
    "task": TaskContract,
    "encoder": EncoderContract,
}
"""The contract of each kind."""


def contract_of(kind: str, what: str, *, options: Mapping[str, str] | None = None) -> Contract:
    """Return the contract of a thing, by its name or by where it is defined.

    Parameters
    ----------
    kind : str
        One of `CONTRACTS`.
    what : str
        A registered name (of an encoder ``family:model``), ``module:Object`` or ``file.py:Object``;
        ``:model`` may follow the object of an encoder.
    options : mapping, optional
        Of an encoder.

    Raises
    ------
    PluginError
        If it cannot be imported, or is not of the kind.
    """
    registry, (family, *rest) = registry_of(kind), what.split(":")
    if rest and not (kind == "encoder" and family in registry):
        made = defined(family, rest.pop(0))
        # What the file itself registers has what is said of it there.
        known = (
            name
            for name, thing in registry.items()
            if any(made is own for own in (thing, *getattr(thing, "__dict__", {}).values()))
        )
        family = next(known, "")
        if not family:
            family = CHECKED
            registry.add(family, made, origin=what)
        rest = rest or ["model"]
    lookup(registry, family, what=kind, error=PluginError)
    name = ":".join([family, *rest]) if kind == "encoder" else family
    return CONTRACTS[kind](name, options)


#: The name under which a thing is registered that has none.
CHECKED = "checked"
