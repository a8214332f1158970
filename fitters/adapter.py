"""Adapters: one safetensors file that maps the vectors of an old encoder to those of a new one.

Maps are chosen by what a search keeps, so nothing is centred away: the mean of the new rows comes
back, and rows are as long as the new ones are if that was better. Shrunk rows would lie around the
mean, among the hubs of the index.

NumPy alone applies an adapter, in the lines of `Adapter.lines`. It holds what it was measured to
keep, and rows whose mapping is compared when it is read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from featstore.durable import write_durably
from featstore.matrices import Rows, matrix
from fitters.errors import CorruptAlignmentError, PairsError, writing
from fitters.kernels import NystroemMap, choose_landmarks, gaussian
from fitters.solvers import Spectrum, polar_factor

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


FORMAT = 1

#: Rows that are mapped at a time; `make perf` has their speed beside the bare product.
BLOCK_ROWS = 4096

#: Rows whose mapping is compared when an adapter is read.
GOLDEN = 8

#: A mapped golden row may be off by so much of its length: products round in another order.
_CLOSE = 1e-4

_FACTS = "headstock"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A map from old rows to new ones, with its evidence.

    Attributes
    ----------
    map : SpaceMap
        In float32.
    unit : bool
        Whether new rows have length 1: mapped rows are then divided by theirs.
    golden : ndarray of shape (g, p)
        Old rows.
    facts : mapping
        Plain values: the identities of both spaces, pairs, settings, what was kept, controls.

    Examples
    --------
    >>> made = Adapter(SpaceMap(np.zeros(3, "f4"), np.eye(2, 3, dtype="f4")), True, np.eye(2))
    >>> made.apply([[3.0, 4.0]])
    array([[0.6, 0.8, 0. ]], dtype=float32)
    """

    map: SpaceMap
    unit: bool
    golden: npt.NDArray[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of old rows and of new ones."""
        return self.map.width, len(self.map.bias)

    def apply(self, rows: Rows, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return the new rows of old ones.

        Parameters
        ----------
        rows : Rows
            Of shape (n, p), or one vector.
        out : ndarray of shape (n, q), optional
            float32, may be mapped from a file.

        Raises
        ------
        PairsError
            If the rows have another width.
        RowsError
            If they are no matrix of numbers.
        """
        given = matrix(rows, "rows", one=True)
        old, new = self.widths
        if given.shape[1] != old:
            raise PairsError(
                f"This adapter maps rows of {old:,} columns to {new:,}; got {given.shape[1]:,}."
            )
        found = np.empty((len(given), new), np.float32) if out is None else out
        for start in range(0, len(given), BLOCK_ROWS):
            own, block = (rows[start : start + BLOCK_ROWS] for rows in (given, found))
            self.map.apply(own.astype(np.float32, copy=False), block)
            if self.unit:
                norms = np.sqrt(np.einsum("nq,nq->n", block, block))
                block *= 1 / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
        return found

    def save(self, path: Path | str) -> Path:
        """Write the adapter, whole or not at all; equal ones have equal bytes.

        Raises
        ------
        AlignmentWriteError
            If it cannot be written.
        """
        path, facts = Path(path), {"format": FORMAT, "unit": self.unit, **self.facts}
        arrays = {
            **self.map.arrays(),
            "golden_old": self.golden.astype(np.float32),
            "golden_new": self.apply(self.golden),
        }
        whole = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
        with writing(path):
            write_durably(path, [save(whole, {_FACTS: json.dumps(facts, sort_keys=True)})])
        return path

    def lines(self, path: Path | str) -> str:
        """Return the lines of NumPy that map rows `old` to `new` by the file at `path`."""
        steps = [
            "import json",
            "import numpy as np",
            f"data = np.fromfile({str(path)!r}, np.uint8)",
            "start = 8 + int(data[:8].view('<u8')[0])",
            "head = json.loads(data[8:start].tobytes())",
            "del head['__metadata__']",
            "raw = {k: data[start:][slice(*head[k]['data_offsets'])] for k in head}",
            "part = {k: raw[k].view('<f4').reshape(head[k]['shape']) for k in head}",
        ]
        steps += self.map.LINES
        if self.unit:
            steps += ["new /= np.linalg.norm(new, axis=1, keepdims=True)"]
        return "\n".join(steps)

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Read what `save` wrote, and compare the golden rows. No code of it is run.

        Raises
        ------
        CorruptAlignmentError
            If it is no adapter, or maps its golden rows otherwise.
        """
        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads(file.metadata()[_FACTS])
            golden, there = arrays.pop("golden_old"), arrays.pop("golden_new")
            (kind,) = (one for one in MAPS if {own.name for own in fields(one)} == arrays.keys())
            own = cls(kind(**arrays), facts.pop("unit"), golden, facts)
            whole = all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
            if facts.pop("format") != FORMAT or not whole:
                raise ValueError("its arrays are not those of a map")
            off = np.abs(own.apply(golden) - there).max() if golden.size else 0.0
            if not off <= _CLOSE * max(1.0, float(np.abs(there).max(initial=0.0))):
                raise CorruptAlignmentError(
                    f"{path} maps its golden rows to others than it states, off by up to "
                    f"{off:.2g}. It was changed: make it again by `headstock bridge`."
                )
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as err:
            raise CorruptAlignmentError(
                f"{path} is no adapter that `headstock bridge` wrote: {err}."
            ) from err
        return own
