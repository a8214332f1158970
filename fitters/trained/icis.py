"""`ICISAligner`: predict the row of a head, bias and all, from the class's text."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fitters.pairs import Matrix, Rows
from fitters.settings import Preparation, TrainingPrecision
from fitters.trained.base import PRECISIONS, Schedule, TrainedAligner

if TYPE_CHECKING:
    from torch import nn

    from fitters.trained.training import Objective, PairSource


class ICISAligner(TrainedAligner):
    """Align by two autoencoders, of head rows and of class texts, that share a latent space.

    Four losses, each 1 − cos: text → text, row → text, row → row, text → row; their sum goes down.
    A text is projected by the text's encoder and the row's decoder, x stays as it is. With the
    bias as a last column, x is [w, b] and images are [f, 1].

    Parameters
    ----------
    width : int
        Columns of the shared latent space: a layer with ReLU leads into it, one layer back.
    learning_rate : float
        Of Adam.
    epochs : int
        At most.
    batch_size : int
    flat : float or None
        Stop when the loss, as a mean over ten epochs, has fallen by less than this an epoch five
        times running, from the 22nd epoch on: 26 epochs at least. None: never.
    sequential, patience, validation_fraction, precision
        As for `MLPAligner`.
    seed : int

    Attributes
    ----------
    x_…_, y_…_ : ndarray, float32
        Parameters of both autoencoders, such as ``y_encode_0_weight_``.
    row_norm_ : float
        Mean norm of the rows that it was trained on.
    epochs_, loss_, n_features_in_, n_targets_, feature_names_in_
        As for `MLPAligner`; `scale_` is 1 and `shift_` 0.

    Notes
    -----
    Cosine losses leave the length of a predicted row, and with it its bias, to chance; the
    original scales it to the mean norm of the known rows, as `head_rows` does. Projections have
    unit length, so that scores are cosines. With 1,281 columns of a row and 384 of a text it has
    6.8 million parameters.

    References
    ----------
    Christensen et al., Image-free Classifier Injection for Zero-Shot Classification, ICCV 2023.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> made = ICISAligner(4, epochs=2).fit(images, images[:, :5])
    >>> made.epochs_, made.project_x(images).shape
    (2, (40, 8))
    """

    method: ClassVar[str] = "icis"
    preparation: ClassVar[Preparation] = Preparation(images="unit", texts="unit", head_bias=True)
    schedule = "constant"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Schedule._parameter_constraints,
        "width": [Interval(Integral, 1, None, closed="left")],
        "flat": [Interval(Real, 0, None, closed="neither"), None],
        "precision": [StrOptions(set(PRECISIONS))],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        width: int = 2048,
        *,
        learning_rate: float = 1e-5,
        epochs: int = 1000,
        batch_size: int = 16,
        flat: float | None = 2e-3,
        sequential: bool = False,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        precision: TrainingPrecision = "auto",
        seed: int = 0,
    ) -> None:
        self.width = width
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.flat = flat
        self.sequential = sequential
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.precision = precision
        self.seed = seed

    def _note_rows(self, given: Sequence[PairSource]) -> None:
        norms = [
            np.linalg.norm(source.read(0, source.n)[0].astype(np.float64), axis=1)
            for source in given
        ]
        self.row_norm_ = float(np.concatenate(norms).mean())

    def head_rows(self, y: Rows) -> Matrix:
        """Return predicted rows of the head for class texts, of the known rows' mean norm."""
        check_is_fitted(self)
        return self.project_y(y) * self.row_norm_

    def _maps(self, side: str) -> bool:
        return side == "y"

    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        import torch

        from fitters.trained.modules import Autoencoder

        with torch.device("meta"):
            return {"x": Autoencoder(p, int(self.width)), "y": Autoencoder(q, int(self.width))}

    def _objective(self, parts: dict[str, nn.Module]) -> Objective:
        from fitters.trained.modules import IcisObjective

        return IcisObjective(parts)
