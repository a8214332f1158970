"""`MLPAligner`: a configurable head, loss and schedule, trained on pairs.

`ICISAligner` predicts the row of a head, bias and all, from the class's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fitters.aligners import Constraints
from fitters.errors import SettingError
from fitters.pairs import Matrix, Pairs, Rows
from fitters.settings import Preparation, TrainingPrecision
from fitters.trained.base import (
    ARCHITECTURES,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    PRECISIONS,
    Schedule,
    TrainedAligner,
    head_name,
)

if TYPE_CHECKING:
    from torch import nn

    from fitters.trained.training import Objective


LOSSES = ("cosine", "mse", "infonce", "siglip", "devise")

_NUMBER = Interval(Real, None, None, closed="neither")
_BELOW_ONE = Interval(Real, 0, 1, closed="left")


@dataclass(repr=False, eq=False)
class MLPAligner(TrainedAligner):
    """Align by a head that is trained by gradient descent.

    Rows are taken as they come: unit rows, centred or not, are for the caller
    (`fitters.alignment.fit` makes them).

    Parameters
    ----------
    architecture : {"linear", "paper", "residual", "sail", "freeze_align"}
        Of the head of each side that maps; see `fitters.trained.modules`.
    direction : {"y->x", "x->y", "both"}
        "y->x" maps texts into the image space, "x->y" images into the text space, "both" maps both
        into a space of `n_components` columns.
    n_components : int
        Columns of the space of direction "both".
    width : int or None
        Hidden units; None: what the architecture's original has.
    dropout : float or None
        On hidden units; None: what the original has.
    bias : bool
        Of "linear".
    gate : float
        First logit of the gate of "residual".
    feature_dropout, feature_dropout_batches : float
        Probability of an input value to become 0, and of a batch in which this is done at all.
    loss : {"cosine", "mse", "infonce", "siglip", "devise"}
        See `fitters.trained.modules`. "cosine" and "mse" need a side that stays as it is: two heads
        would meet in one point.
    temperature : float
        First, or fixed, temperature of "infonce" and "siglip".
    learn_temperature : bool
        Train log(1 / temperature) too, and siglip's bias, within the next two.
    temperature_low, temperature_high : float
    logit_bias : float or None
        First bias of "siglip"; None: log(p / (1 − p)) with p = 1 / rows of a batch.
    margin : float
        Of "devise".
    mask_same : bool
        Rows of one group (classes of one name) are no negatives of each other.
    structure, structure_warmup : float, int
        Weight of STRUCTURE's regulariser, and steps over which the weight rises.
    precision : {"auto", "float32", "bf16"}
        Of the heads in training; "auto" is bf16 where the processor has a unit for it.
    seed : int
    optimizer … validation_fraction
        How it is trained: those of `fitters.trained.base.Schedule`.

    Attributes
    ----------
    x_…_, y_…_ : ndarray, float32
        Parameters of the heads, such as ``y_project_weight_``.
    epochs_ : int
        Trained in all.
    loss_ : float
        Mean over the last epoch.
    scale_, shift_ : float
        1 / temperature and the bias at the end; 1 and 0 where the loss has none.
    history_ : list of dict
        Stage, loss and metric of each epoch; not saved.
    n_features_in_, n_targets_ : int
        p and q.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    Notes
    -----
    Same seed, same bytes: on one kind of processor, one version of torch, and one number of
    threads. torch's global random state is neither used nor changed.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> made = MLPAligner("linear", "x->y", loss="mse", epochs=3)
    >>> made.fit(images, images[:, :5]).epochs_
    3
    """

    method: ClassVar[str] = "mlp"

    architecture: str = "paper"
    direction: str = "y->x"
    _: KW_ONLY
    n_components: int = 512
    width: int | None = None
    dropout: float | None = None
    bias: bool = True
    gate: float = -2.0
    feature_dropout: float = 0.0
    feature_dropout_batches: float = 1.0
    loss: str = "cosine"
    temperature: float = 0.07
    learn_temperature: bool = True
    temperature_low: float = 0.01
    temperature_high: float = 1.0
    logit_bias: float | None = None
    margin: float = 0.1
    mask_same: bool = True
    structure: float = 0.0
    structure_warmup: int = 1000
    precision: TrainingPrecision = "auto"
    seed: int = 0

    _parameter_constraints: ClassVar[Constraints] = {
        **Schedule._parameter_constraints,
        "architecture": [StrOptions(set(ARCHITECTURES))],
        "direction": [StrOptions({"y->x", "x->y", "both"})],
        "n_components": [COUNT],
        "width": [COUNT, None],
        "dropout": [_BELOW_ONE, None],
        "bias": ["boolean"],
        "gate": [_NUMBER],
        "feature_dropout": [_BELOW_ONE],
        "feature_dropout_batches": [Interval(Real, 0, 1, closed="both")],
        "loss": [StrOptions(set(LOSSES))],
        "temperature": [POSITIVE],
        "learn_temperature": ["boolean"],
        "temperature_low": [POSITIVE],
        "temperature_high": [POSITIVE],
        "logit_bias": [_NUMBER, None],
        "margin": [NOT_NEGATIVE],
        "mask_same": ["boolean"],
        "structure": [NOT_NEGATIVE],
        "structure_warmup": [Interval(Integral, 0, None, closed="left")],
        "precision": [StrOptions(set(PRECISIONS))],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    @property
    def scales(self) -> bool:
        """Whether the loss divides cosines by a temperature."""
        return self.loss in ("infonce", "siglip")

    def _maps(self, side: str) -> bool:
        return self.direction in ("both", "x->y" if side == "x" else "y->x")

    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        from fitters.trained.modules import build_head

        sizes = {"x": p, "y": q}
        targets = {"y->x": p, "x->y": q, "both": int(self.n_components)}
        return {
            side: build_head(
                head_name(self.architecture, side),
                sizes[side],
                targets[self.direction],
                width=None if self.width is None else int(self.width),
                dropout=None if self.dropout is None else float(self.dropout),
                bias=bool(self.bias),
                gate=float(self.gate),
            )
            for side in ("x", "y")
            if self._maps(side)
        }

    def _objective(self, parts: dict[str, nn.Module]) -> Objective:
        from fitters.trained.modules import PairObjective

        if self.direction == "both" and self.loss in ("cosine", "mse"):
            raise SettingError(
                f"Two heads trained for {self.loss!r} would send everything to one point. Use "
                "direction 'y->x' or 'x->y', or a loss that contrasts: infonce, siglip, devise."
            )
        low, high = self.temperature_low, self.temperature_high
        if not low <= self.temperature <= high:
            raise SettingError(
                f"The temperature {self.temperature} lies outside its range, [{low}, {high}]."
            )
        return PairObjective(parts, self)

    def _scale_of(self, objective: Any) -> tuple[float, float]:
        if not self.scales:
            return 1.0, 0.0
        return float(objective.log_scale.detach().exp()), float(objective.shift.detach())


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
    _parameter_constraints: ClassVar[Constraints] = {
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

    def _note_rows(self, given: Sequence[Pairs]) -> None:
        norms = [np.linalg.norm(source.x.astype(np.float64), axis=1) for source in given]
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
