"""An alignment: both sides and the map between them, as one estimator of the whole protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse, vstack
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    validate_data,
)

from featstore.matrices import matrix, numbers, readable, table_of, vector_column
from featstore.terminal import Card, Shown
from fitters.adapter import Adapter
from fitters.aligners import Projection, fit_on
from fitters.errors import PairsError, SettingError
from fitters.methods import method_named, needs_rows
from fitters.moments import Folds
from fitters.pairs import Pairs, Prototypes, Rows, rows_or_labels
from fitters.saved import read_parts, save_parts
from fitters.select import Axis, Choice
from fitters.select.ranking import scoring
from fitters.settings import Criterion, FitConfig, Metric, TrainingOptions, Validation
from fitters.sources import SideTransform, Sources

BLOCK_ROWS = 8192
"""Rows that are transformed at a time: what a projection needs beyond its result stays small."""

_FLOATS = (np.float32, np.float64)
"""Types of rows that are kept; others become the first."""

OnStage = Callable[[str], None]
"""Is given what a fit does next, such as "choosing penalty and mix"."""


_SETTINGS = {
    setting.name: None if setting.name == "training" else setting.default
    for setting in fields(FitConfig)
    if setting.name != "method"
}
"""The settings that are parameters, with their defaults."""

T = TypeVar("T")


class _Fitted(Generic[T]):
    """What `fit` makes, kept under a private name: scikit-learn lets it add no public one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, made: Any, owner: type) -> T:
        check_is_fitted(made)
        return vars(made)[self.name]

    def __set__(self, made: Any, value: T) -> None:
        vars(made)[self.name] = value


class Alignment(Shown, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The whole protocol as one estimator: prepare both sides, choose the settings, fit.

    Raw rows go in, on fitting as on projecting; `fit` says what happens to them.
    `save` keeps a fitted one, and `headstock.load` gives it back. As a scikit-learn estimator it is
    cloned, searched over and put at the end of a pipeline; see `fitters.scoring` for its scores.

    Parameters
    ----------
    method : str or FitConfig
        One of `fitters.METHODS`, or one with its settings.
    penalty, mix, gamma, n_components, rank, top_k, power, centre, criterion, \
    validation, training
        The settings of `FitConfig`, under their names. One that is left at its default is that of
        `method`, where this is a config. One that the method lacks plays no part, so that a search
        may go over methods; a config with such a setting is refused.
    image_mean : ndarray of shape (p,), optional
        Mean of unit image rows, such as ``SideTransform.fit([unlabelled_images]).mean``; may come
        from unlabelled training images, never from test images. None: that of the images fitted on.
    scoring : str or callable
        What `score` returns: a name that `fitters.scoring` takes, or what it returns.
    seed : int, None, numpy.random.Generator or RandomState
        Draws the folds of the choice, and what a training draws. The same int gives the same bytes;
        None draws anew for each fit, and a generator goes on from fit to fit.

    Attributes
    ----------
    x, y : SideTransform
        What is done to raw image and text embeddings first.
    aligner : BaseAligner
        Fitted; or any object with `project_x` and `project_y`.
    facts : dict
        Plain values for JSON: the method, the sources, what was chosen from what
        (``facts["choice"]``), ids of the spaces it was fitted on, and "classes" if y was labels.
    n_features_in_ : int
        p, where it was fitted by `fit` on real pairs.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, ::-1]
    >>> Alignment("ridge", penalty=0.01).fit(images, texts).score(images, texts)
    1.0
    """

    x: _Fitted[SideTransform] = _Fitted()
    y: _Fitted[SideTransform] = _Fitted()
    aligner: _Fitted[Any] = _Fitted()
    facts: _Fitted[dict[str, Any]] = _Fitted()

    def __init__(
        self,
        method: str | FitConfig = "ridge",
        *,
        penalty: float | Literal["auto"] = "auto",
        mix: float | Literal["auto"] = "auto",
        gamma: float | Literal["auto"] = "auto",
        n_components: int | Literal["auto"] | None = "auto",
        rank: int | None = None,
        top_k: int | Literal["auto"] | None = None,
        power: float | Literal["auto"] | None = None,
        centre: bool | None = None,
        criterion: Criterion | None = None,
        validation: Validation | Metric = "mrr",
        training: TrainingOptions | None = None,
        image_mean: npt.NDArray[Any] | None = None,
        scoring: str | Callable[..., float] = "mrr",
        seed: int | np.random.Generator | np.random.RandomState | None = 0,
    ) -> None:
        self.method = method
        self.penalty = penalty
        self.mix = mix
        self.gamma = gamma
        self.n_components = n_components
        self.rank = rank
        self.top_k = top_k
        self.power = power
        self.centre = centre
        self.criterion = criterion
        self.validation = validation
        self.training = training
        self.image_mean = image_mean
        self.scoring = scoring
        self.seed = seed

    @classmethod
    def of(
        cls, x: SideTransform, y: SideTransform, aligner: Any, facts: dict[str, Any] | None = None
    ) -> Alignment:
        """Return the alignment of a fitted aligner and the transforms of its sides."""
        made = cls((facts or {}).get("method", getattr(aligner, "method", "ridge")))
        made.x, made.y, made.aligner, made.facts = x, y, aligner, {} if facts is None else facts
        return made

    @classmethod
    def read(cls, path: Path | str) -> Alignment:
        """Read an alignment that `save` wrote. No code of it is run.

        Raises
        ------
        MissingAlignmentError
            If there is none at `path`.
        CorruptAlignmentError
            If a file is missing, or is not what was written; the message names the file and the
            field.

        Examples
        --------
        >>> made = Alignment(penalty=0.3).fit(np.eye(6), np.eye(6))
        >>> Alignment.read(made.save("aligners/ridge")).facts["choice"]
        {'penalty': 0.3}
        """
        return cls.of(*read_parts(path))

    @property
    def config(self) -> FitConfig:
        """The method with its settings.

        Raises
        ------
        SettingError
            If a number is out of its range.
        """
        made = FitConfig.of(self.method, {})
        method, given = method_named(made.method), {}
        for name, default in _SETTINGS.items():
            plays = method.takes("epochs" if name == "training" else name) or name == "centre"
            if plays and getattr(self, name) != default:
                given[name] = getattr(self, name)
        return FitConfig.of(made, given)

    def fit(
        self,
        X: Any = None,
        y: Any = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        prototypes: Prototypes | None = None,
        bias: Any = None,
    ) -> Self:
        """Fit on paired rows, on prototypes, or on both.

        Parameters
        ----------
        X : Rows of shape (n, p), optional
            Raw image embeddings.
        y : Rows of shape (n, q), or labels of shape (n,), optional
            Raw text embeddings, one real pair a row; or labels, of which each distinct one is a
            text of its own, at right angles to all others. X and y both None: prototypes alone.
        sample_weight : array_like of shape (n,), optional
            Mass of each pair: 1/m for each of the m captions of an image.
        groups : ndarray of shape (n,), optional
            Images or descriptions, which folds must not split. None: every row is its own.
        prototypes : Pairs or tuple, optional
            Head weights and class texts, raw: Pairs whose `groups` are the names, or (rows, texts)
            or (rows, texts, names).
        bias : array_like of shape (c,), optional
            The head's bias, for the methods that read it.

        Raises
        ------
        FittersError
            As `fitters.alignment.fit`.
        ValueError
            In scikit-learn's words, if X is no matrix or has fewer than two rows or columns.
        """
        if (X is None) != (y is None):
            # In scikit-learn's words, which its checks look for.
            lacks = "requires y to be passed, but the target y is None" if y is None else "has no X"
            raise SettingError(f"A fit on real pairs {lacks}. Pass both, or neither.")
        real, classes = None, None
        if X is not None:
            fewest = 2 if prototypes is None else 1
            # `Pairs` looks for NaN, and says in which rows.
            X = validate_data(
                self, _as_sklearn(X), dtype=_FLOATS, ensure_all_finite=False,
                ensure_min_samples=fewest, ensure_min_features=2,
            )  # fmt: skip
            y = check_array(
                rows_or_labels(y), ensure_2d=False, dtype=None, ensure_all_finite=False,
                input_name="y",
            )  # fmt: skip
            if y.ndim == 1:
                check_classification_targets(y)
                classes = np.unique(y)
                y = _one_hot(y, classes)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
            real = Pairs(X, y, groups, sample_weight)
        state = self.seed
        if isinstance(state, np.random.RandomState):
            state = int(state.randint(2**31))
        head = None if prototypes is None else Pairs.of(prototypes, "prototypes")
        if real is None and prototypes is not None:  # its columns are those of the images
            rows = prototypes.x if isinstance(prototypes, Pairs) else prototypes[0]
            validate_data(self, _as_sklearn(rows), dtype=_FLOATS, ensure_all_finite=False)
        made = fit(
            self.config, prototypes=head, real=real, image_mean=self.image_mean, bias=bias,
            rng=np.random.default_rng(state),
        )  # fmt: skip
        self.x, self.y, self.aligner = made.x, made.y, made.aligner
        self.facts = made.facts | ({} if classes is None else {"classes": classes.tolist()})
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "_aligner" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    @property
    def _n_features_out(self) -> int:
        """Width of the shared space, for the names of its columns."""
        return int(self.project_x(np.eye(1, self.n_features_in_)).shape[1])

    def save(self, path: Path | str, *, replace: bool = True) -> Path:
        """Write it as the folder `path`, whole or not at all, and return the path.

        Parameters
        ----------
        path : path
        replace : bool
            Whether another alignment that is there is replaced. The same one is left untouched.

        Raises
        ------
        AlignmentWriteError
            If `path` exists and may not be replaced, or cannot be written.

        Examples
        --------
        >>> made = Alignment(penalty=0.3).fit(np.eye(6), np.eye(6))
        >>> [file.name for file in sorted(made.save("aligners/ridge").iterdir())]
        ['alignment.json', 'arrays.safetensors']
        """
        return save_parts(path, (self.x, self.y, self.aligner, self.facts), replace=replace)

    def project_x(self, x: Any) -> Projection:
        """Return raw image embeddings (n, p) in the shared space: (n, r), float32, dense or CSR."""
        return _in_blocks(x, self.x, self.aligner.project_x)

    def transform(self, X: Any) -> Projection:
        """Return `project_x` of rows in any form that scikit-learn takes, checked in its words."""
        return self.project_x(validate_data(self, _as_sklearn(X), reset=False, dtype=_FLOATS))

    def project_y(self, y: Any) -> Projection:
        """Return raw text embeddings (n, q) in the shared space: (n, r), float32, dense or CSR.

        The score of an image and a text is the dot product of their projections, higher is better:
        a cosine, unless the aligner says otherwise (`BaseAligner.unit_rows`). Where the fit was on
        labels, `y` is labels (n,).
        """
        classes = self.facts.get("classes")
        rows = y if classes is None or np.ndim(y) > 1 else _one_hot(y, classes)
        return _in_blocks(rows, self.y, self.aligner.project_y)

    def score(
        self,
        X: Any,
        y: Any,
        *,
        groups: npt.NDArray[Any] | None = None,
        metric: str | Callable[..., float] | None = None,
    ) -> float:
        """Return how high the text of each image ranks among the distinct texts of all, 0 to 1.

        Parameters
        ----------
        X, y : Rows of shape (n, p), (n, q)
            Raw pairs, or images and labels, as for `fit`.
        groups : ndarray of shape (n,), optional
            All texts of a pair's group are right. None: all that stand beside an equal image.
        metric : str or callable, optional
            In place of the parameter `scoring`.
        """
        how = metric or self.scoring
        scorer = how if callable(how) else scoring(how)
        return scorer(self, X, y, **({} if groups is None else {"groups": groups}))

    def _card(self) -> Card:
        if not self.__sklearn_is_fitted__():
            return Card(" ".join(BaseEstimator.__repr__(self).split()))
        facts, choice = self.facts, self.facts.get("choice", {})
        sources = {"prototypes": facts.get("n_prototypes"), "real pairs": facts.get("n_real")}
        fitted_on = " and ".join(f"{n:,} {what}" for what, n in sources.items() if n)
        if "unused_pairs" in facts:
            n_unused = facts["unused_pairs"]["images"]
            fitted_on += f" and 0 real pairs (n_pairs= beside head= adds up to {n_unused:,})"
        chosen = {name: choice[name] for name in _SETTINGS if isinstance(choice.get(name), Real)}
        return Card(
            f"Alignment({facts.get('method', self.method)!r}), fitted",
            {
                "on": fitted_on,
                "images": self.x.steps,
                "texts": self.y.steps,
                "settings": ", ".join(f"{name} {value:.4g}" for name, value in chosen.items()),
                "starts agree": f"{facts['agreement']:.2f}" if "agreement" in facts else None,
                "aligner": " ".join(repr(self.aligner).split()),
            },
        )


def load(path: Path | str) -> Alignment | Adapter:
    """Read an alignment, which is a folder, or the file of an adapter. No code of it is run.

    Raises
    ------
    MissingAlignmentError, CorruptAlignmentError
        As of `Alignment.read` and `fitters.adapter.Adapter.read`.

    Examples
    --------
    >>> load(Alignment().fit(np.eye(6), np.eye(6)).save("aligners/ridge")).method
    'ridge'
    """
    return Adapter.read(Path(path)) if Path(path).is_file() else Alignment.read(path)


def _one_hot(y: Any, classes: Any) -> Rows:
    """Return labels (n,) as rows with one column a class.

    Raises
    ------
    PairsError
        If a label is none of the classes.
    """
    labels, known = np.asarray(y), np.asarray(classes)
    strange = np.flatnonzero(~np.isin(labels, known))
    if len(strange):
        raise PairsError(
            f"{len(strange):,} of {len(labels):,} labels are none of the {len(known):,} that the "
            f"fit was on (first: {labels[strange[0]]!r}, row {strange[0]:,}). A fit on text "
            "embeddings takes a matrix, one of them a row."
        )
    return np.eye(len(known))[np.searchsorted(known, labels)]


def fit(
    method: str | FitConfig,
    data: Sources[Any] | None = None,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    bias: npt.NDArray[Any] | None = None,
    rng: np.random.Generator,
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
    chosen: Choice | None = None,
    on_stage: OnStage | None = None,
    **settings: Any,
) -> Alignment:
    """Fit an alignment from prototypes, real pairs or both: the road of every fit.

    **Preprocessing.** Every row is brought to unit length, centred, and brought to unit length
    again. Each source of image rows is centred by its own mean: head rows by the mean of the head
    rows, images by `image_mean` or else by the mean of the real training images. Images to be
    scored later are treated as the real training images; with neither real pairs nor `image_mean`
    they stay uncentred, which cost 2–4 points of top-5 and top-10 where it was measured. Texts of
    all sources share one mean: that of the class texts, or of the real texts where there are no
    prototypes. ConSE reads images raw, as its head does; Text-to-Concept reads both sides raw. The
    trained methods and paper-cca get unit rows, uncentred, as their sources do, unless `centre`;
    paper-cca then takes the mean of all its pairs away, prototypes and real ones together.

    **Mixing.** The moments of both sources are added, where a class has `mix` times the mass of a
    real image. Kernel ridge weighs the rows of both likewise. ASIF takes them as anchors, and
    has no masses. Of the trained methods and paper-cca every row counts alike, as in the paper; two
    stages are in `training`.

    **Choice.** "auto" penalty without real pairs: closed-form leave-one-name-group-out on the
    prototypes. "auto" penalty or mix with real pairs: grouped cross-validation over the pairs by
    `validation`, prototypes always in training. Methods without a closed form for leaving out are
    fitted anew without each fold, on a coarser grid; without real pairs their folds are those of
    the prototypes, by name. "auto" components are chosen together with penalty and mix. Kernel
    ridge keeps the width and the penalty of the prototypes, given or chosen on them alone; only
    `mix` is chosen on real pairs, which have `mix` times that penalty, and are left out where they
    do not help. The choice with its whole curve and the edges it hit is in ``facts["choice"]``.

    Parameters
    ----------
    method : str or FitConfig
        One of `METHODS`, or one with its settings.
    data : Sources of Pairs, or of Folds, optional
        Both sources as `Method.sources` prepares them, in place of raw ones. Moments serve methods
        that need no more; what is "auto" is then chosen by the held-out squared error, which ridges
        alone have, and real pairs are given by fold.
    prototypes : Pairs, optional
        Head weights and class texts, raw; `groups` are the names.
    real : Pairs, optional
        Training images and their texts, raw; `groups` are images or descriptions. The m captions
        of one image weigh 1/m each.
    image_mean : ndarray of shape (p,), optional
        Mean of unit image rows, such as ``SideTransform.fit([unlabelled_images]).mean``; may come
        from unlabelled training images, never from test images.
    bias : ndarray of shape (c,), optional
        The head's bias, for the methods that read it: ConSE and ICIS.
    rng : numpy.random.Generator
        Draws the folds, landmarks for the choice of kernel ridge among many prototypes, and the
        seed of a training.
    n_folds : int
        Of the cross-validation; fewer if there are fewer groups.
    grid : mapping of str to Axis, optional
        The values that "auto" settings are chosen from, and none beyond: the `axes` of a `Choice`
        that `select` made from other prototypes. A control is compared with its head on equal
        terms if it chooses on the grid that the head's choice explored; its criterion is noise, and
        a grid of its own would widen after it. The default grids stand for what is missing here.
    chosen : Choice, optional
        What `select` chose with the same arguments: nothing is chosen again.
    on_stage : callable, optional
        Is given what is done next, such as "choosing penalty and mix".
    **settings
        Those of `FitConfig`, by keyword: penalty, mix, gamma, n_components, rank, top_k,
        power, centre, criterion, validation, training.

    Raises
    ------
    UnknownMethodError, SettingError
        If an argument is unknown or out of range, a source that the method needs is missing, or the
        method needs rows where there are moments.
    SelectionError
        If there are too few groups to choose from.
    ZeroRowError
        If a row has no direction.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> head, real = (Pairs(*rng.standard_normal((2, n, 8))) for n in (100, 20))
    >>> made = fit("ridge", prototypes=head, real=real, penalty=0.3, rng=rng)
    >>> made.facts["n_real"], made.facts["choice"]["penalty"]
    (20, 0.3)
    """
    config, say = FitConfig.of(method, settings), on_stage or (lambda _: None)
    spec, aligned = method_named(config.method), Alignment(config)
    if data is None:
        data = spec.sources(
            config, prototypes=prototypes, real=real, image_mean=image_mean, bias=bias
        )  # fmt: skip
    by_error = replace(config, criterion="error")
    if isinstance(data.real, Folds) and needs_rows(by_error, mixed=data.mixed):
        raise SettingError(
            f"{config.method} with these settings needs rows, not moments. Pass pairs."
        )
    if chosen is None:
        left = config.open_settings(spec.options, mixed=data.mixed)
        if left:
            say(f"choosing {' and '.join(left)}")
        chosen = spec.tune(config, data, rng=rng, n_folds=n_folds, grid=grid or {})
    say("fitting")
    made = spec.make(config, **chosen.params)
    if hasattr(made, "fit_sources"):
        made.fit_sources(data, chosen.mix, **chosen.of_fit)
    else:
        fit_on(made, data, chosen.mix)
    aligned.x, aligned.y, aligned.aligner = data.image, data.text, made
    aligned.facts = {
        "method": config.method,
        "n_prototypes": 0 if data.prototypes is None else data.prototypes.n,
        "n_real": 0 if data.real is None else data.real.n,
        "image_centre": data.image_centre,
        "text_centre": data.text_centre,
        "choice": spec.facts(made, chosen, mixed=data.mixed),
        **({} if grid is None else {"grid": "given"}),
        **getattr(made, "facts_", {}),
    }
    return aligned


def select(
    method: str | FitConfig,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
    rng: np.random.Generator,
    **settings: Any,
) -> Choice:
    """Choose the settings of a method from training data alone, and fit nothing with them.

    The choice is that of `fit`, which fits with it at once: penalties × mixing weights ×
    directions kept (widths of a kernel, anchors of ASIF) by the metric that will be reported, or
    by the squared error. To nest it, hand it the training part of an outer split only.

    Parameters
    ----------
    method : str or FitConfig
        One of `METHODS` that has something to choose.
    prototypes, real, image_mean
        As for `fit`.
    n_folds, grid, rng
        As for `fit`.
    **settings
        As for `fit`; here ASIF's are "auto" where none is given.

    Returns
    -------
    Choice
        `params`, `mix`, and in `facts` the settings, the whole curve and the edges of its grid that
        were hit; `axes` is that grid, for another choice.

    Raises
    ------
    SettingError
        If the method has nothing to choose, or an argument is wrong.
    SelectionError
        If there are too few groups to choose from.
    """
    config = FitConfig.of(method, settings)
    spec = method_named(config.method)
    left = [name for name in ("top_k", "power") if name in spec.options and spec.tunes]
    config = FitConfig.of(config, {n: "auto" for n in left if getattr(config, n) is None})
    data = spec.sources(config, prototypes=prototypes, real=real, image_mean=image_mean)
    if not spec.tunes:
        raise SettingError(f"{config.method} has nothing to choose. Fit it with fit.")
    choice = spec.tune(config, data, rng=rng, n_folds=n_folds, grid=grid or {})
    made = spec.make(config, **choice.params)
    return replace(choice, facts=spec.facts(made, choice, mixed=data.mixed))


def _as_sklearn(X: Any) -> Any:
    """Return rows of any library as scikit-learn checks them, with the names of their columns."""
    if X is None or isinstance(X, np.ndarray | list) or issparse(X):
        return X
    table = table_of(X)
    if table is None or vector_column(table, "X") is not None:
        return matrix(X, "X")
    return X if hasattr(X, "iloc") else table


def _in_blocks(given: Any, side: SideTransform, project: Callable[..., Any]) -> Projection:
    rows, dtype = readable(given, f"The {side.label} to project")

    def block(start: int) -> Projection:
        prepared = side.apply(numbers(rows[start : start + BLOCK_ROWS], dtype))
        found = project(prepared)
        if found.ndim != 2 or found.shape[0] != len(prepared):
            raise PairsError(
                f"{project.__qualname__} made {side.label} of shape {prepared.shape} an array of "
                f"shape {found.shape}. It must return a matrix with one row for each."
            )
        return found.astype(np.float32, copy=False)

    first, starts = block(0), range(BLOCK_ROWS, rows.shape[0], BLOCK_ROWS)
    if not starts:
        return first
    if issparse(first):
        return vstack([first, *map(block, starts)], format="csr")
    out = np.empty((rows.shape[0], first.shape[1]), dtype=np.float32)
    out[:BLOCK_ROWS] = first
    for start in starts:
        out[start : start + BLOCK_ROWS] = block(start)
    return out
