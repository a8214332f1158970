"""ASIF: relative representations by the nearest anchors.

Only similarities above 0 count, and nothing of the size rows × anchors is ever held: a block of
anchors is compared with what each row already has, and only what beats its k-th best is kept.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from featstore.parallel import map_threads
from fitters.aligners.base import BaseAligner, Matrix, as_columns, validate_pairs
from fitters.errors import SettingError, ZeroRowError
from fitters.moments.transform import normalize_rows
from fitters.pairs import Rows

Backend = Literal["numpy", "faiss"]

ROW_BLOCK, ANCHOR_BLOCK = 512, 8192
"""Rows and anchors of one product: 16 MiB of float32 similarities."""


def nearest_anchors(rows: Rows, anchors: Rows, k: int, *, backend: Backend = "numpy") -> csr_array:
    """Return the similarities of each row to its k nearest anchors, those above 0.

    Parameters
    ----------
    rows, anchors : ndarray of shape (b, d), (n, d)
        Of one dtype, float32 or float64.
    k : int
        At most n are kept.
    backend : {"numpy", "faiss"}
        "faiss" needs the package faiss and float32; at equal similarity it takes any anchor,
        "numpy" the one of lower index.

    Returns
    -------
    csr_array of shape (b, n)
        At most k entries a row, all positive, columns ascending, in the dtype of `rows`.
    """
    k = min(k, len(anchors))
    find = _with_faiss if backend == "faiss" else _with_numpy
    return find(rows, anchors, k)


def _with_numpy(rows: Rows, anchors: Rows, k: int) -> csr_array:
    # Anchor by anchor block in the outer loop would read the anchors once, but hold every row's
    # candidates; rows in the outer loop hold those of one block of rows, and blocks of rows can be
    # searched at the same time.
    def search(block: Rows) -> list[_Best]:
        found = [_Best(k) for _ in block]
        for first in range(0, len(anchors), ANCHOR_BLOCK):
            similarities = block @ anchors[first : first + ANCHOR_BLOCK].T
            for best, of_row in zip(found, similarities, strict=True):
                best.add(of_row, first)
        for best in found:
            best.cut()
        return found

    blocks = [rows[start : start + ROW_BLOCK] for start in range(0, len(rows), ROW_BLOCK)]
    of_rows = [best for found in map_threads(search, blocks) for best in found]
    shape = len(rows), len(anchors)
    if not of_rows:
        return csr_array(shape, dtype=rows.dtype)
    columns = [best.columns for best in of_rows]
    counts = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate([best.values for best in of_rows]), np.concatenate(columns), counts
    return csr_array(flat, shape=shape)


class _Best:
    """The k largest positive similarities of one row so far; columns ascend."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._threshold: Any = 0
        self._columns: list[npt.NDArray[np.intp]] = []
        self._values: list[Rows] = []
        self._size = 0

    def add(self, similarities: Rows, first: int) -> None:
        # A later anchor must be strictly better: at equal similarity the lower index stays.
        at = np.flatnonzero(similarities > self._threshold)
        if len(at):
            self._columns.append(at + first)
            self._values.append(similarities[at])
            self._size += len(at)
            if self._size > self._k:
                self.cut()

    def cut(self) -> None:
        """Keep the k best; fill the last places by index where similarities are equal."""
        columns, values = self.columns, self.values
        if self._size > self._k:
            threshold = np.partition(values, self._size - self._k)[self._size - self._k]
            keep = values > threshold
            ties = np.flatnonzero(values == threshold)[: self._k - int(keep.sum())]
            keep[ties] = True
            columns, values = columns[keep], values[keep]
            self._threshold = threshold
        self._columns, self._values, self._size = [columns], [values], len(columns)

    @property
    def columns(self) -> npt.NDArray[np.intp]:
        return np.concatenate(self._columns) if self._columns else np.empty(0, dtype=np.intp)

    @property
    def values(self) -> Rows:
        return np.concatenate(self._values) if self._values else np.empty(0)


def _with_faiss(rows: Rows, anchors: Rows, k: int) -> csr_array:
    try:
        import faiss
    except ImportError as err:
        raise SettingError(
            "backend='faiss' needs the package faiss-cpu. Install it, or use backend='numpy'."
        ) from err
    if rows.dtype != np.float32:
        raise SettingError(
            f"faiss computes in float32; got {rows.dtype}. Use precision='float32', or numpy."
        )
    values, columns = faiss.knn(
        np.ascontiguousarray(rows),
        np.ascontiguousarray(anchors),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    counts = np.arange(len(rows) + 1) * k
    shape = len(rows), len(anchors)
    found = csr_array((np.maximum(values, 0).ravel(), columns.ravel(), counts), shape=shape)
    found.eliminate_zeros()
    found.sort_indices()
    return found


class ASIFAligner(BaseAligner):
    """Align by relative representations: one column a training pair; nothing is fitted.

    With unit anchors a_j of one side, a row z of that side becomes::

        r_j(z) = max(z·a_j / ||z||, 0)^power   for the top_k largest, 0 elsewhere; then unit length

    and the score of x and y is the dot product of the two. The space is as wide as there are
    anchors, so that the projections are sparse.

    Parameters
    ----------
    top_k : int
        Anchors kept a row; all of them if there are fewer.
    power : float
        Above 0. Negative similarities are set to 0 first: an even power would make them large.
    center : bool
        Subtract the mean of the anchors of each side first; False where rows come centred.
    precision : {"float64", "float32"}
        Of the similarities.
    backend : {"numpy", "faiss"}
        Which search finds the anchors; "faiss" needs that package and float32.

    Attributes
    ----------
    anchors_x_, anchors_y_ : ndarray of shape (c, p), (c, q)
        One row a training pair, about the means; the projections use them with unit rows.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.

    Notes
    -----
    The original normalises the text side alone. That leaves the order of texts for an image as it
    is, but not that of images for a text; here both sides are normalised.

    References
    ----------
    Norelli et al., ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training,
    NeurIPS 2023.
    """

    method: ClassVar[str] = "asif"
    fitted_values: ClassVar[tuple[str, ...]] = ("n_features_in_",)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "power": [Interval(Real, 0, None, closed="neither")],
        "center": ["boolean"],
        "precision": [StrOptions({"float64", "float32"})],
        "backend": [StrOptions({"numpy", "faiss"})],
    }

    def __init__(
        self,
        top_k: int = 800,
        *,
        power: float = 8.0,
        center: bool = False,
        precision: str = "float64",
        backend: str = "numpy",
    ) -> None:
        self.top_k = top_k
        self.power = power
        self.center = center
        self.precision = precision
        self.backend = backend

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows) -> Self:
        """Remember n pairs as anchors.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        """
        x64, y64, _ = validate_pairs(self, X, y, None)
        self.mean_x_, self.mean_y_ = np.zeros(x64.shape[1]), np.zeros(y64.shape[1])
        if self.center:
            self.mean_x_, self.mean_y_ = x64.mean(axis=0), y64.mean(axis=0)
        self.anchors_x_, self.anchors_y_ = x64 - self.mean_x_, y64 - self.mean_y_
        return self

    def predict(self, X: Rows) -> Matrix:
        """Return the mean of the anchors' y weighted by r(x), shape (n, q) or (n,)."""
        x64 = self.new_rows(X)
        found = self._relative(x64 - self.mean_x_, _directions(self.anchors_x_))
        mass = np.asarray(found.sum(axis=1)).ravel()
        # A row that is similar to no anchor is predicted as the mean.
        shares = diags_array(np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)) @ found
        return as_columns(self, shares @ self.anchors_y_ + self.mean_y_)

    def project_x(self, x: Rows) -> csr_array:
        """Return r(x): csr_array of shape (n, c), float64, unit rows.

        Raises
        ------
        ZeroRowError
            If an anchor or a row has no direction, or a row is similar to no anchor.
        """
        rows = self.about_mean(x, "x")
        anchors = normalize_rows(self.anchors_x_, what="anchors of x")
        return self._unit(self._relative(rows, anchors), "x")

    def project_y(self, y: Rows) -> csr_array:
        """Return r(y): csr_array of shape (n, c), float64, unit rows."""
        rows = self.about_mean(y, "y")
        anchors = normalize_rows(self.anchors_y_, what="anchors of y")
        return self._unit(self._relative(rows, anchors), "y")

    def _relative(self, rows: Matrix, anchors: Matrix) -> csr_array:
        """Return max(similarity, 0)^power to the nearest anchors, not yet of unit length."""
        dtype = np.dtype(self.precision)
        found = nearest_anchors(
            _directions(rows).astype(dtype, copy=False),
            anchors.astype(dtype, copy=False),
            self.top_k,
            backend="faiss" if self.backend == "faiss" else "numpy",
        ).astype(np.float64)
        found.data **= self.power
        return found

    def _unit(self, found: csr_array, side: str) -> csr_array:
        lengths = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
        bad = np.flatnonzero(lengths == 0)
        if len(bad):
            raise ZeroRowError(
                f"{len(bad):,} of {len(lengths):,} rows of {side} are similar to no anchor, or are "
                f"0 (first: row {bad[0]:,}): they have no place in the shared space. Drop them, "
                "or use more anchors or a smaller power."
            )
        return csr_array(diags_array(1.0 / lengths) @ found)

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        sides: dict[str, tuple[str, ...]] = {"anchors_x_": ("c", "p"), "anchors_y_": ("c", "q")}
        return {**sides, "mean_x_": ("p",), "mean_y_": ("q",)}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # It fits nothing to the pairs.
        tags.regressor_tags.poor_score = True
        return tags


def _directions(rows: Matrix) -> Matrix:
    """Return unit rows, and rows of 0 as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Matrix = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit
