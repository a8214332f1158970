"""Contracts: what an aligner, a learner, a task or another thing of one's own promises, checked.

A contract is a class, and every public method of it one promise: its docstring says what is
promised, and it raises `ContractError` where that is not kept. Nothing here needs a store: the rows
are planted, small and the same every time.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from io import BytesIO
from numbers import Real
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from scipy.stats import binom
from sklearn.base import BaseEstimator, clone

import bench
import data_manifests
import featstore
import fitters
from bench.errors import ContractError
from featstore.datasets import build_dataset, find_builder
from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS, Encoder
from featstore.encoders.golden import golden_images, golden_inputs
from featstore.encoders.registry import open_encoder
from featstore.errors import FeatstoreError, PluginError
from featstore.identity import canonical_json, space_id
from featstore.images import decode_image
from featstore.manifest.manifest import Manifest
from featstore.plugins import registry_of, use_plugins
from featstore.sources.making import make_manifest
from featstore.sources.reader import check_bytes
from fitters.aligners.base import params_of, stacked, takes_weights
from fitters.alignment import Alignment, read_alignment, save_alignment
from fitters.few_shot.learner import Learner, Shots
from fitters.few_shot.registry import LEARNERS, learner_named
from fitters.methods import FitConfig, Method, method_named
from fitters.moments.moments import moments_of
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS
from fitters.recipe import fit
from fitters.select.grid import Choice
from fitters.sources import Sources

Matrix = npt.NDArray[Any]

#: How far scores may move that are equal but for rounding; rows are float32.
TOLERANCE = 1e-4
#: Share of the answers that must stay where something is drawn, and so not equal.
SHARE = 0.9
#: Held-out pairs that a fit is scored on, and draws of each control.
HELD_OUT, DRAWS = 60, 3

#: What refuses an input in so many words.
_CLEAR = (FeatstoreError, ValueError)


@dataclass(frozen=True)
class Finding:
    """What came of one promise.

    Attributes
    ----------
    name : str
        The name of the promise, with blanks.
    promise : str
        What is promised.
    kept : bool
    text : str
        Of a broken promise what was expected, what was found and what to do; else what is worth
        knowing, often nothing.
    """

    name: str
    promise: str
    kept: bool
    text: str = ""


class Contract:
    """The promises of one kind of thing: the public methods of a subclass, in their order.

    Parameters
    ----------
    name : str
        Under which the thing is registered.
    location : Path, optional
        What a source lists, or the root of a dataset.
    options : mapping, optional
        Of an encoder, a source or a dataset.
    """

    def __init__(
        self, name: str, location: Path | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._name, self._location, self._options = name, location, dict(options or {})

    @classmethod
    def promises(cls) -> dict[str, str]:
        """Return what is promised, by the name of the promise."""
        above = cls.__mro__[-3::-1]  # below `Contract` and `object`
        own = {name: vars(each)[name] for each in above for name in vars(each)}
        return {
            name.replace("_", " "): inspect.getdoc(promise) or ""
            for name, promise in own.items()
            if inspect.isfunction(promise) and not name.startswith("_")
        }

    def findings(self) -> Iterator[Finding]:
        """Check one promise after another; without the first, none of the others is looked at."""
        for number, (name, promise) in enumerate(promises := self.promises().items()):
            found = Finding(name, promise, *self._checked(name))
            if not found.kept and not number:
                more = f" The other {len(promises) - 1} checks need this one: repair it first."
                yield replace(found, text=found.text + more)
                return
            yield found

    def _checked(self, name: str) -> tuple[bool, str]:
        """Return whether a promise is kept, and what there is to say."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return True, getattr(self, name.replace(" ", "_"))() or ""
        except ContractError as err:
            return False, str(err)
        except Exception as err:  # whatever a stranger's code raises
            said = [f"{type(err).__name__}: {err}", *getattr(err, "__notes__", []), _line_of(err)]
            return False, " ".join(" ".join(said).split())


#: Where the packages lie that are not a stranger's.
_OURS = tuple(
    f"{Path(str(package.__file__)).parent}{os.sep}"
    for package in (bench, data_manifests, featstore, fitters)
)


def _line_of(err: Exception) -> str:
    """Return the last line of a stranger's file that an error went through, if there is one."""
    frames = traceback.extract_tb(err.__traceback__)
    first = next((f.filename for f in frames if not f.filename.startswith(_OURS)), None)
    own = [frame for frame in frames if frame.filename == first]
    return f"({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def _expect(kept: bool, broken: str) -> None:  # noqa: FBT001
    """Raise ContractError with a text, unless something holds."""
    if not kept:
        raise ContractError(broken)


def _dense(rows: Any) -> Matrix:
    return rows.toarray() if issparse(rows) else np.asarray(rows)


def _answers(scores: Matrix) -> Matrix:
    return np.argmax(scores, axis=1)


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
    rng, of_map = np.random.default_rng(seed), np.random.default_rng([p, q])
    y = rng.standard_normal((n, q))
    noise, drawn = 0.05 * rng.standard_normal((n, p)), of_map.standard_normal((q, p)) / np.sqrt(q)
    x = y @ (drawn if p != q else np.eye(p) + 0.2 * drawn) + noise
    return Pairs(x.astype(np.float32), y.astype(np.float32))


class AlignerContract(Contract):
    """What `fitters`, `bench` and the report need of an aligner: see `fitters.aligners.base`."""

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

    def _lost(self, x: Matrix, y: Matrix, rows: tuple[Matrix, Matrix] | None = None) -> int:
        """Return how many scores after a fit are not finite: 0 where it refuses."""
        try:
            return int(np.count_nonzero(~np.isfinite(self._scores(self._make().fit(x, y), rows))))
        except _CLEAR:
            return 0

    def fit(self) -> None:
        """Fit float32 and float64 rows, and return the aligner itself."""
        for dtype in (np.float64, np.float32):
            made = self._make()
            found = made.fit(self._given.x.astype(dtype), self._given.y.astype(dtype))
            _expect(
                found is made, f"Expected fit to return self; it returned {type(found).__name__}. "
                "End it with `return self`.",
            )  # fmt: skip

    def parameters(self) -> str:
        """Keep every constructor parameter under its own name, as it was given."""
        made = self._make()
        names = inspect.signature(type(made)).parameters
        copy = type(made)(**{name: getattr(made, name) for name in names if hasattr(made, name)})
        other = [name for name in names
                 if getattr(made, name, copy) is not getattr(copy, name, made)]  # fmt: skip
        _expect(
            not other, f"Expected attributes that are the parameters; {', '.join(other)} is "
            "missing, or another in a copy. Write self.NAME = NAME in __init__, and no more.",
        )  # fmt: skip
        if not isinstance(made, BaseEstimator):
            return "scikit-learn's clone needs a BaseEstimator, which it is not."
        clone(made).set_params(**made.get_params(deep=False))
        return ""

    def inputs(self) -> None:
        """Leave the rows that are passed as they are."""
        passed = self._given.x, self._given.y, *self._rows
        before = [rows.copy() for rows in passed]
        self._scores(self._make().fit(*passed[:2]), passed[2:])
        for name, old, rows in zip(("X", "y", "x", "y"), before, passed, strict=True):
            _expect(
                not (moved := np.count_nonzero(rows != old)), f"Expected {name} unchanged; {moved:,}"
                f" of {rows.size:,} values are others. Rows of a store are read-only: write "
                "X = X - mean, not X -= mean.",
            )  # fmt: skip

    def projections(self) -> None:
        """Give n finite rows of floats for n rows, of equal columns on both sides, of length 1."""
        x, y = self._rows[0], self._rows[1][1:]
        made = _dense(self._fit.project_x(x)), _dense(self._fit.project_y(y))
        for side, rows, n in zip("xy", made, (len(x), len(y)), strict=True):
            _expect(
                rows.ndim == 2 and len(rows) == n and rows.dtype.kind == "f",
                f"Expected project_{side} of {n} rows to give {n} rows of floats; got "
                f"{rows.dtype} of shape {rows.shape}.",
            )
            lost = np.count_nonzero(~np.isfinite(rows))
            _expect(not lost, f"Expected finite values of project_{side}; {lost:,} of "
                    f"{rows.size:,} are not.")  # fmt: skip
            off = np.abs(np.linalg.norm(rows, axis=1) - 1).max()
            _expect(
                off < 1e-3 or not getattr(self._fit, "unit_rows", True),
                f"Expected rows of length 1 of project_{side}; one is off by {off:.2g}. Divide by "
                "the norms, or say `unit_rows = False` in the class.",
            )
        columns = [rows.shape[1] for rows in made]
        _expect(
            columns[0] == columns[1], f"Expected one space; project_x gives {columns[0]} columns, "
            f"project_y {columns[1]}. Project both sides into the same one.",
        )  # fmt: skip

    def determinism(self) -> None:
        """Give the same bytes for the same rows."""
        moved = np.abs(self._scores(self._fitted(self._world[0])) - self._scores(self._fit)).max()
        _expect(
            moved == 0, f"Expected equal scores of two fits on the same pairs; they differ by up "
            f"to {moved:.2g}. Draw from numpy.random.default_rng(self.seed), and make `seed` a "
            "parameter.",
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

    def scale(self) -> str:
        """Depend on no length of raw rows, which the protocol brings to unit length."""
        if "raw" in (self._method.rows.images, self._method.rows.texts):
            return "It asks for raw rows, whose length may count."
        scaled = Pairs(self._world[0].x * 3, self._world[0].y / 7)
        return self._same(
            self._fitted(scaled), "if all rows of a side are multiplied by a constant",
            "They differ by rounding alone: use a larger penalty, or a stabler solver.",
        )  # fmt: skip

    def weights(self) -> str:
        """Take a pair of weight 2 for two pairs."""
        if not takes_weights(self._make()):
            return "Its fit has no sample_weight: prototypes and pairs are not mixed by weight."
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
            return "It has no fit_moments: it is fitted on rows."
        made = self._make().fit_moments(moments_of(self._given))
        return self._same(made, "between rows and their moments", "Make both one solution.")

    def widths(self) -> None:
        """Refuse rows of another width than it was fitted on."""
        projects = self._fit.project_x, self._fit.project_y
        for side, own in enumerate(self._rows):
            wide = np.concatenate([own, own[:, :1]], axis=1)
            try:
                columns = projects[side](wide).shape[1]
            except _CLEAR:
                continue
            _expect(
                columns != projects[1 - side](self._rows[1 - side]).shape[1],
                f"Expected a ValueError for {'xy'[side]} of {wide.shape[1]} columns after a fit on "
                f"{own.shape[1]}; {columns} columns came out, as if nothing were wrong. Compare "
                "the shape with that of the fit.",
            )

    def missing_values(self) -> str:
        """Raise, or give finite rows, after a fit on a NaN; `fitters` and `bench` pass none."""
        x = self._given.x.copy()
        x[0, 0] = np.nan
        lost = self._lost(x, self._given.y)
        return f"One NaN makes {lost:,} of {HELD_OUT**2:,} scores NaN." if lost else ""

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
                lost = self._lost(*pairs, new)
            except Exception as err:
                err.add_note(f"for {case}; expected finite rows, or a ValueError that says why")
                raise
            _expect(
                not lost, f"Expected finite rows for {case}, or a ValueError that says why; "
                f"{lost:,} of 16 scores are not finite. Add a penalty, or refuse such rows.",
            )  # fmt: skip

    @cached_property
    def _chosen(self) -> Choice:
        data = self._sources(self._world[0])
        return self._method.tune(self._config, data, rng=np.random.default_rng(0))

    def _alignment(self, pairs: Pairs) -> Alignment:
        rng = np.random.default_rng(0)
        return fit(self._sources(pairs), self._config, chosen=self._chosen, rng=rng)

    def _raw_scores(self, alignment: Alignment) -> Matrix:
        return self._scores(alignment, (self._world[1].x, self._world[1].y))

    def _right(self, pairs: Pairs) -> int:
        answers = _answers(self._raw_scores(self._alignment(pairs)))
        return int(np.count_nonzero(answers == np.arange(HELD_OUT)))

    def planted_pairs(self) -> str:
        """Find held-out pairs of a planted map, with settings that are chosen on its pairs."""
        right, most = self._right(self._world[0]), int(binom.isf(1e-6, HELD_OUT, 1 / HELD_OUT))
        _expect(
            right > most, f"Expected more than {most} of {HELD_OUT} held-out images to find "
            f"their text, where chance finds 1; found {right}. Look whether both sides are "
            "projected by what was fitted.",
        )  # fmt: skip
        return f"{right} of {HELD_OUT} held-out images find their text."

    def controls(self) -> None:
        """Find nothing above chance where the rows of x, or who belongs to whom, were random."""
        # Images of one draw share their control: hence twice the bound of independent ones.
        n, most = DRAWS * HELD_OUT, 2 * int(binom.isf(1e-3, DRAWS * HELD_OUT, 1 / HELD_OUT))
        for name in ("random", "random-cov", "shuffled", "rotated"):
            drawn = (CONTROLS[name](self._world[0], np.random.default_rng(k)) for k in range(DRAWS))
            _expect(
                (right := sum(map(self._right, drawn))) <= most, f"Expected at most {most} of {n} "
                f"held-out images to find their text after fits on the control {name!r}; {right} "
                "do. What it finds does not come from which rows are pairs: over this control it "
                "will gain nothing.",
            )  # fmt: skip

    def saved(self) -> None:
        """Give the same projections when it was saved and read."""
        made = self._alignment(self._world[0])
        with tempfile.TemporaryDirectory() as folder:
            again = read_alignment(save_alignment(Path(folder) / "a", made))
        moved = np.abs(self._raw_scores(again) - self._raw_scores(made)).max()
        _expect(moved == 0, f"Expected equal scores; they differ by up to {moved:.2g}. Keep what is "
                "fitted in attributes that end in _: arrays of floats, and numbers.")  # fmt: skip

    def pickled(self) -> None:
        """Give the same projections in another process, which gets it pickled."""
        made = self._alignment(self._world[0])
        again = pickle.loads(pickle.dumps((self._method, made)))[1]  # noqa: S301
        moved = np.abs(self._raw_scores(again) - self._raw_scores(made)).max()
        _expect(moved == 0, f"Expected equal scores; they differ by up to {moved:.2g}. Keep nothing "
                "that a copy does not get.")  # fmt: skip

    def scikit_learn(self) -> str:
        """Say what scikit-learn's own checks find; none of them has to pass."""
        if not isinstance(self._make(), BaseEstimator):
            return "It is no BaseEstimator: scikit-learn's checks do not apply."
        from sklearn.utils.estimator_checks import check_estimator

        results = check_estimator(self._make(), on_fail=None, on_skip=None)
        failed = [one["check_name"] for one in results if one["status"] == "failed"]
        said = f" Failed: {', '.join(failed)}." if failed else ""
        return f"{len(results) - len(failed)} of {len(results)} of its checks pass.{said}"


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
        _expect(got == wanted, f"Expected scores of shape {wanted}; got {got}. Score every class.")
        lost = np.count_nonzero(~np.isfinite(scores))
        _expect(not lost, f"Expected finite scores; {lost:,} of {scores.size:,} are not.")
        return np.asarray(scores)

    def _stays(self, when: str, todo: str, expected: Matrix, **changes: Any) -> str:
        return _stays(self._scores(**changes), expected, when, todo, drawn=True)

    def fit(self) -> None:
        """Learn from shots, and score every row for every class in finite numbers."""
        self._scores()

    def facts(self) -> None:
        """Say in `facts` what was chosen: numbers by name."""
        facts = self._make().fit(self._shots).facts
        bad = [name for name, value in facts.items() if not isinstance(value, Real)]
        _expect(not bad, f"Expected numbers; {', '.join(bad)} is none. Leave it out.")

    def inputs(self) -> None:
        """Leave the shots as they are."""
        before = pickle.dumps(self._shots)
        self._scores()
        _expect(before == pickle.dumps(self._shots), "Expected shots unchanged; fit wrote into "
                "them. Copy before writing.")  # fmt: skip

    def determinism(self) -> None:
        """Give the same scores for the same shots, here and where it comes pickled."""
        made = pickle.loads(pickle.dumps(LEARNERS[self._name]))()  # noqa: S301
        moved = np.abs(made.fit(self._shots).scores(self._test) - self._scores()).max()
        _expect(moved == 0, f"Expected equal scores of two fits; they differ by up to {moved:.2g}. "
                "Draw from a seed of the learner's own.")  # fmt: skip

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

    def fewer_sources(self) -> str:
        """Learn without validation rows, and without prototypes or with a clear error."""
        self._scores(validation_x=None, validation_labels=None)
        try:
            self._scores(prototypes=None)
        except _CLEAR as err:
            return f"Without prototypes: {err}"
        return ""

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
        _expect(2 * right > n, f"Expected more than half of {n} test rows in their class, where "
                f"chance puts {n // _CLASSES}; found {right}.")  # fmt: skip
        return f"{right} of {n} test rows are put into their class."

    def controls(self) -> None:
        """Find nothing above chance from shots of other classes."""
        # Rows of one class are answered together: classes are what is counted.
        n, right = 5 * _CLASSES, sum(map(self._right, range(1, 6))) / _TESTED
        most = int(binom.isf(1e-3, n, 1 / _CLASSES))
        _expect(right <= most, f"Expected at most {most} of {n} classes found after shots of other "
                f"classes; found {right:.1f}. What it finds is not in the shots.")  # fmt: skip


class EncoderContract(Contract):
    """What an extraction needs of an encoder: see `featstore.encoders.base.Encoder`."""

    def _opened(self) -> Encoder:
        return open_encoder(self._name, **self._options)

    @cached_property
    def _encoder(self) -> Encoder:
        return self._opened()

    @cached_property
    def _items(self) -> list[Any]:
        """Golden items, and odd ones: files of every mode as an extraction decodes them."""
        if not IMAGE_KINDS & self._encoder.kinds:
            return [*golden_inputs(self._encoder.kinds), "", "?", "many words " * 2000]
        from PIL import Image

        files = [BytesIO() for _ in range(8)]
        drawn = golden_images()[0]
        for file, mode in zip(files, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), strict=False):
            (drawn.convert("L") if mode == "I;16" else drawn).convert(mode).save(file, "PNG")
        drawn.convert("CMYK").save(files[-1], "JPEG")
        return [
            *golden_images(),
            *(Image.new("RGB", size) for size in ((1, 1), (300, 2), (2, 300))),
            *(decode_image(file.getvalue()) for file in files),
        ]

    def _rows(self, items: list[Any]) -> Matrix:
        return self._encoder.encode([self._encoder.prepare(item) for item in items])

    def _near(self, rows: Matrix, when: str, todo: str) -> None:
        expected = self._rows(self._items)
        sizes = np.linalg.norm(expected, axis=1)
        moved = float((np.linalg.norm(rows - expected, axis=1) / np.maximum(sizes, 1e-9)).max())
        _expect(moved < 1e-3, f"Expected the same rows {when}; one moves by {moved:.1%}. {todo}")

    def rows(self) -> None:
        """Give a finite float32 row of `dim` numbers for every item, of whatever mode or length."""
        rows, shape = self._rows(self._items), (len(self._items), self._encoder.dim)
        got = f"{getattr(rows, 'dtype', type(rows).__name__)} of shape {np.shape(rows)}"
        _expect(
            isinstance(rows, np.ndarray) and rows.shape == shape and rows.dtype == np.float32,
            f"Expected float32 of shape {shape}; got {got}.",
        )
        lost = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
        _expect(not lost, f"Expected finite rows; {lost} of {len(rows)} are not.")

    def batches(self) -> None:
        """Encode an item alone as it does in a batch."""
        alone = [self._rows([item]) for item in self._items]
        self._near(np.concatenate(alone), "for items one by one", "Mask what pads a batch, and use "
                   "no statistics of the batch (model.eval()).")  # fmt: skip

    def determinism(self) -> None:
        """Give the same rows again, and when it is opened again."""
        self._near(self._rows(self._items), "again", "Switch off what is drawn (model.eval()).")
        again = self._opened()
        rows = again.encode([again.prepare(item) for item in self._items])
        self._near(rows, "of one that is opened again", "Draw no weights without a seed.")

    def space(self) -> str:
        """Name its space in plain JSON, the same whenever it is opened."""
        one, two = (space_id(encoder.space) for encoder in (self._encoder, self._opened()))
        _expect(one == two, "Expected one space of two encoders of this name; the ids differ "
                f"({one[:8]}, {two[:8]}). Leave times, paths and devices to `facts`.")  # fmt: skip
        canonical_json(dict(self._encoder.facts))
        return f"Space {one[:8]}: {', '.join(sorted(self._encoder.space))}."

    def name(self) -> None:
        """Have the name that it was opened by, and kinds of items that it takes."""
        name, kinds = self._encoder.name, frozenset(self._encoder.kinds)
        _expect(name == self._name, f"Expected the name {self._name!r}; it is {name!r}.")
        known = kinds and (kinds <= IMAGE_KINDS or kinds <= TEXT_KINDS)
        _expect(bool(known), f"Expected kinds {{'image'}}, or some of {sorted(TEXT_KINDS)}; got "
                f"{sorted(kinds)}.")  # fmt: skip

    def threads(self) -> None:
        """Prepare items in threads, and leave them as they are."""
        before = pickle.dumps(self._items)
        with ThreadPoolExecutor(4) as pool:
            prepared = list(pool.map(self._encoder.prepare, self._items))
        _expect(pickle.dumps(self._items) == before, "Expected items unchanged by prepare.")
        self._near(self._encoder.encode(prepared), "prepared in threads", "Keep no state.")


def _files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files in a folder by their paths, but for hidden ones."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class SourceContract(Contract):
    """What ``featstore manifests make`` needs of a source: see `featstore.sources.making`."""

    def _made(self, folder: Path, **more: str) -> Manifest:
        assert self._location is not None
        return make_manifest(self._name, self._location, folder, options=self._options | more)

    def items(self) -> str:
        """List items with unique ids and files that exist, and leave the location as it is."""
        place = self._location
        before = {} if place is None else _files(place)
        with tempfile.TemporaryDirectory() as folder:
            manifest = self._made(Path(folder))
            check_bytes(manifest)
        _expect(place is None or before == _files(place), f"Expected no other files in {place}.")
        return ", ".join(f"{table.height:,} of {kind}" for kind, table in manifest.tables.items())

    def same_bytes(self) -> None:
        """Make the same bytes twice."""
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            for folder in (one, two):
                self._made(Path(folder))
            made = [_files(Path(folder)) for folder in (one, two)]
        other = sorted(name for name in made[0] if made[0][name] != made[1].get(name))
        _expect(not other, f"Expected the same bytes when it is made twice; {', '.join(other[:3])} "
                "differ. Sort what a folder lists, and record no time.")  # fmt: skip

    def unknown_options(self) -> None:
        """Refuse an option that it does not have."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._made(Path(folder), **{"no-such-option": "1"})
            except FeatstoreError:
                return
        raise ContractError("Expected an error for the option 'no-such-option'; it was taken.")


class DatasetContract(SourceContract):
    """What ``featstore manifests build`` needs of a dataset: see `data_manifests.plan`."""

    def _made(self, folder: Path, **more: str) -> Manifest:
        root = {} if self._location is None else {"root": self._location}
        return build_dataset(self._name, folder, **root, **self._options, **more).manifest

    def plan(self) -> str:
        """Plan twice alike."""
        builder = find_builder(self._name)
        if builder.source:
            return f"It is planned by the source {builder.source!r}."
        root = {} if self._location is None else {"root": self._location}
        one, two = (builder.plan(**root, **self._options).fingerprint for _ in range(2))
        _expect(one == two, f"Expected one fingerprint; two plans have {one[:8]} and {two[:8]}. "
                "Make it of the source's bytes, the options and a version.")  # fmt: skip
        return ""


CONTRACTS: dict[str, type[Contract]] = {
    "aligner": AlignerContract,
    "learner": LearnerContract,
    "encoder": EncoderContract,
    "source": SourceContract,
    "dataset": DatasetContract,
}
"""The contract of each kind."""


#: The name under which a thing is registered that has none.
CHECKED = "checked"


def _defined(place: str, name: str) -> Any:
    """Return what a module, or a file that ends in .py, defines under a name."""
    use_plugins([place])
    if place.endswith(".py"):
        file = str(Path(place).resolve())
        module = next(m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == file)
    else:
        module = import_module(place)
    try:
        return attrgetter(name)(module)
    except AttributeError as err:
        known = ", ".join(own for own in vars(module) if not own.startswith("_"))
        raise PluginError(f"{place} defines no {name!r}. It has {known}.") from err


def contract_of(
    kind: str, what: str, *, location: Path | None = None, options: Mapping[str, str] | None = None
) -> Contract:
    """Return the contract of a thing, by its name or by where it is defined.

    Parameters
    ----------
    kind : str
        One of `CONTRACTS`.
    what : str
        A registered name (of an encoder ``family:model``), ``module:Object`` or ``file.py:Object``.
    location : Path, optional
        What a source lists, or the root of a dataset.
    options : mapping, optional
        Of an encoder, a source or a dataset.

    Raises
    ------
    PluginError
        If it cannot be imported, or is not of the kind.
    """
    registry, (place, _, thing) = registry_of(kind), what.rpartition(":")
    own = dict(options or {})
    if not place or (kind == "encoder" and place.partition(":")[0] in registry):
        return CONTRACTS[kind](what, location, own)
    made = _defined(place, thing)
    name = made.name if isinstance(made, Path) else CHECKED
    registry.add(name, made, origin=place)
    return CONTRACTS[kind](f"{name}:{name}" if kind == "encoder" else name, location, own)
