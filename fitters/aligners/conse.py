"""ConSE: an image is the mix of the class texts that its own classifier believes in."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import BaseAligner, validate_pairs
from fitters.errors import SettingError
from fitters.moments.transform import normalize_rows
from fitters.pairs import Matrix, Rows
from fitters.settings import Preparation
from fitters.sources import Sources

if TYPE_CHECKING:
    from fitters.settings import FitConfig


@dataclass(repr=False, eq=False, kw_only=True)
class ConSEAligner(BaseAligner):
    """Align by convex combination of semantic embeddings; nothing is fitted to pairs.

    With p = softmax(W f + b) of the model's own head and t_c the unit text of class c::

        project_x(f) = Σ_{c in top k} p_c t_c / Σ_{c in top k} p_c, then unit length
        project_y(t) = t, unit length

    so the shared space is the text space. f must be the raw input of the head: neither normalised
    nor centred.

    Parameters
    ----------
    top_k : int
        Classes in the mix; all of them if there are fewer.

    Attributes
    ----------
    weight_ : ndarray of shape (c, p)
        W, one row a class.
    bias_ : ndarray of shape (c,)
        b, 0 if none was given.
    texts_ : ndarray of shape (c, q)
        Class texts as given; the projections use them with unit rows.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    References
    ----------
    Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014.

    Examples
    --------
    >>> head, names = np.eye(4), np.eye(4, 3) + 1
    >>> made = ConSEAligner(top_k=2).fit(head, names)
    >>> made.project_x(head).shape
    (4, 3)
    """

    method: ClassVar[str] = "conse"
    fitted_on = "head"
    preparation: ClassVar[Preparation] = Preparation(images="raw")
    top_k: int = 10
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "top_k": [Interval(Integral, 1, None, closed="left")]
    }

    @classmethod
    def check_settings(cls, config: FitConfig, *, prototypes: bool, real: bool) -> None:  # noqa: ARG003
        """Raise SettingError if the number of classes is to be chosen: nothing says how."""
        if config.top_k == "auto":
            raise SettingError(
                "top_k='auto' is of ASIF. ConSE has nothing to choose it by: give a number."
            )

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, bias: npt.NDArray[Any] | None = None) -> Self:
        """Remember the head and its class texts.

        Parameters
        ----------
        X : ndarray of shape (c, p)
            Head weights, one row a class, raw.
        y : ndarray of shape (c, q) or (c,)
            Class texts.
        bias : ndarray of shape (c,), optional
            The head's bias.
        """
        weights, texts, _ = validate_pairs(self, X, y, None)
        bias64 = np.zeros(len(weights)) if bias is None else np.asarray(bias, dtype=np.float64)
        if bias64.shape != (len(weights),) or not np.isfinite(bias64).all():
            raise ValueError(
                f"bias must be finite, with one entry a class, shape ({len(weights)},). "
                f"Got shape {bias64.shape}."
            )
        self.weight_, self.bias_, self.texts_ = weights, bias64, texts
        return self

    def fit_sources(self, data: Sources[Any], mix: float = 1.0) -> Self:  # noqa: ARG002
        """Remember the head and its class texts; there is nothing to mix."""
        assert data.prototypes is not None
        return self.fit(data.prototypes.x, data.prototypes.y, data.bias)

    def project_x(self, x: Rows) -> Matrix:
        """Return the mix of class texts for each image: shape (n, q), float64, unit rows."""
        features = self.check_projected(x, self.weight_.shape[1], "x")
        texts = normalize_rows(self.texts_, what="class texts")
        return normalize_rows(self._mix(features, texts), what="mixed texts")

    def project_y(self, y: Rows) -> Matrix:
        """Return y with unit rows: shape (n, q), float64."""
        return normalize_rows(self.check_projected(y, self.texts_.shape[1], "y"), what="y")

    def _mix(self, features: Matrix, texts: Matrix) -> Matrix:
        logits = features @ self.weight_.T + self.bias_
        n, k = len(features), min(self.top_k, len(self.bias_))
        # Stable order: equal logits at the border go to the class of lower index.
        top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        # softmax over the top k is the softmax over all, divided by its mass in the top k.
        share = softmax(np.take_along_axis(logits, top, axis=1), axis=1)
        starts = np.arange(0, n * k + 1, k)
        return csr_array((share.ravel(), top.ravel(), starts), (n, len(texts))) @ texts
