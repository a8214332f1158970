"""Maps from the vectors of one encoder to those of another, for the same items.

They are chosen by what a search keeps, so nothing is centred away: the mean of the new rows comes
back, and rows are as long as the new ones are if that was better. Shrunk rows would lie around the
mean, among the hubs of the index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from fitters.aligners.solvers import polar_factor
from fitters.errors import PairsError
from fitters.feature_maps import NystroemMap, choose_landmarks, gaussian
from fitters.spectrum import Spectrum

Matrix = npt.NDArray[np.float64]
Kind = Literal["ridge", "diagonal", "rotation", "kernel"]

#: Penalties, in units of the mean squared column of the centred old rows.
PENALTIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

#: Landmarks of kernel ridge at most, and the pairs from which on it is tried: with fewer, noise
#: chose it (docs/bridge.md).
LANDMARKS, KERNEL_PAIRS = 1000, 1000


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """A linear map from old rows to new ones: new = old @ weight + bias. Arrays, and nothing else.

    Attributes
    ----------
    bias : ndarray of shape (q,)
    weight : ndarray of shape (p, q)
        Of what `features` makes of old rows.
    LINES : tuple of str
        What makes `new` of `old` in NumPy, where `part` has the arrays by name.
    """

    LINES: ClassVar[tuple[str, ...]] = ("new = old @ part['weight'] + part['bias']",)

    bias: npt.NDArray[Any]
    weight: npt.NDArray[Any]

    @property
    def width(self) -> int:
        """Columns of old rows."""
        return len(self.weight)

    def features(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the weight multiplies: the old rows."""
        return rows

    def apply(
        self, rows: npt.NDArray[Any], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Return the new rows of old ones, in `out` if given: (n, p) → (n, q)."""
        found: npt.NDArray[Any] = np.matmul(self.features(rows), self.weight, out=out)
        found += self.bias
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what the map consists of, by name."""
        return dict(vars(self))

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return the map with its arrays in another precision."""
        return replace(self, **{name: own.astype(dtype) for name, own in self.arrays().items()})


@dataclass(frozen=True, eq=False)
class KernelMap(SpaceMap):
    """A map of similarities to landmarks: new = exp(-gamma ‖old - landmark‖²) @ weight + bias.

    Attributes
    ----------
    landmarks : ndarray of shape (m, p)
    gamma : ndarray of shape (1,)
    """

    LINES = (
        "far = [((old - row) ** 2).sum(1) for row in part['landmarks']]",
        "new = np.exp(-part['gamma'] * np.array(far).T) @ part['weight'] + part['bias']",
    )

    landmarks: npt.NDArray[Any]
    gamma: npt.NDArray[Any]

    @property
    def width(self) -> int:
        """Columns of old rows."""
        return int(self.landmarks.shape[1])

    def features(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the similarity of each row to each landmark."""
        return gaussian(rows, self.landmarks, float(self.gamma[0]), dtype=self.weight.dtype)


#: What an adapter may hold.
MAPS = (SpaceMap, KernelMap)


@dataclass(frozen=True)
class Setting:
    """What tells one map of some pairs from another.

    Attributes
    ----------
    kind : str
        ``ridge``; ``diagonal``, a factor for every column; ``rotation``, an orthogonal map and
        ridge on what it leaves; or ``kernel``, ridge on landmarks.
    penalty : float
        One of `PENALTIES`.
    matched : bool
        Whether mapped rows are stretched to the mean distance of new rows from their mean.
    """

    kind: Kind = "ridge"
    penalty: float = 0.1
    matched: bool = True


def space_maps(
    x: npt.NDArray[Any], y: npt.NDArray[Any], kind: Kind, rng: np.random.Generator
) -> Callable[[Setting], SpaceMap]:
    """Decompose the pairs once, and return what makes the map of a setting of this kind.

    Parameters
    ----------
    x, y : ndarray of shape (n, p), (n, q)
        Old and new rows; row i of both is one item.
    kind : str
        A diagonal map needs p = q.
    rng : numpy.random.Generator
        Draws the landmarks.

    Raises
    ------
    PairsError
        If there are fewer than two pairs, or all old rows or all new rows are the same.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((50, 4))
    >>> y = x @ rng.standard_normal((4, 6)) + 3
    >>> made = space_maps(x, y, "ridge", rng)(Setting("ridge", 1e-9))
    >>> np.allclose(made.apply(x), y)
    True
    """
    if len(x) < 2 or len(x) != len(y):
        raise PairsError(f"A map needs two pairs or more; got {len(x):,} and {len(y):,} rows.")
    old, new = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = old.mean(axis=0), new.mean(axis=0)
    old, new = old - mean_x, new - mean_y
    if not (np.any(old) and np.any(new)):
        raise PairsError(f"All {len(x):,} rows of one side are the same: there is nothing to map.")
    features, fit, of = _SOLVERS[kind](old, new, rng)
    span, unit = np.linalg.norm(new), float(np.square(features).sum()) / features.shape[1]

    @functools.lru_cache(1)  # both settings of a penalty, matched and not, come in turn
    def solve(penalty: float) -> tuple[Matrix, float]:
        coef = fit(penalty * unit)
        return coef, float(np.linalg.norm(features @ coef))

    def make(setting: Setting) -> SpaceMap:
        coef, long = solve(setting.penalty)
        stretch = span / long if setting.matched and long > 0 else 1.0
        return of(coef * stretch, mean_x, mean_y)

    return make


#: Centred features of the old rows; penalty -> what maps them to the centred new rows; and what
#: makes the map of that, which the means of both sides enter.
_Solved = tuple[Matrix, Callable[[float], Matrix], Callable[[Matrix, Matrix, Matrix], SpaceMap]]


def _linear(coef: Matrix, mean_x: Matrix, mean_y: Matrix) -> SpaceMap:
    return SpaceMap(mean_y - mean_x @ coef, coef)


def _ridge(old: Matrix, new: Matrix, _: np.random.Generator) -> _Solved:
    return old, Spectrum.of_rows(old, new).fit, _linear


def _rotation(old: Matrix, new: Matrix, _: np.random.Generator) -> _Solved:
    # Of few rows the factors are small.
    (one, a), (two, b) = (np.linalg.qr(rows.T) for rows in (old, new))
    turn, values = polar_factor(a @ b.T)
    turned = one @ turn @ two.T * (values.sum() / np.square(old).sum())
    rest = Spectrum.of_rows(old, new - old @ turned)
    return old, lambda alpha: turned + rest.fit(alpha), _linear


def _diagonal(old: Matrix, new: Matrix, _: np.random.Generator) -> _Solved:
    squares, cross = (old**2).sum(axis=0), (old * new).sum(axis=0)
    return old, lambda alpha: np.diag(cross / (squares + alpha)), _linear


def _kernel(old: Matrix, new: Matrix, rng: np.random.Generator) -> _Solved:
    places = choose_landmarks(old, min(LANDMARKS, len(old)), rng)
    # The mean squared distance of two rows, so that a width is a fact of the rows.
    gamma = 1.0 / (2.0 * float(np.square(old).sum()) / len(old))
    features = NystroemMap.of_landmarks(old[places], gamma)
    mapped = features.apply(old)
    centre = mapped.mean(axis=0)
    mapped -= centre

    def of(coef: Matrix, mean_x: Matrix, mean_y: Matrix) -> SpaceMap:
        bias, landmarks = mean_y - centre @ coef, features.landmarks + mean_x
        return KernelMap(bias, features.root @ coef, landmarks, np.array([gamma]))

    return mapped, Spectrum.of_rows(mapped, new).fit, of


_SOLVERS: Mapping[Kind, Callable[[Matrix, Matrix, np.random.Generator], _Solved]] = {
    "ridge": _ridge, "diagonal": _diagonal, "rotation": _rotation, "kernel": _kernel,
}  # fmt: skip


def kinds_for(n_pairs: int, p: int, q: int) -> list[Kind]:
    """Return the kinds of maps that are tried with so many pairs of rows of these widths."""
    left_out = {"diagonal": p != q, "kernel": n_pairs < KERNEL_PAIRS}
    return [kind for kind in _SOLVERS if not left_out.get(kind)]


def settings_of(kind: Kind) -> list[Setting]:
    """Return the settings of a kind, from the least penalty on."""
    return [Setting(kind, penalty, matched) for penalty in PENALTIES for matched in (True, False)]
