"""`MLPAligner`: a configurable head, loss and schedule, trained on pairs."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from fitters.errors import SettingError
from fitters.settings import TrainingPrecision
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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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
