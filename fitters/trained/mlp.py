"""`MLPAligner`: a head, a loss and a schedule of one's choice, trained on pairs."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from fitters.errors import SettingError
from fitters.trained.base import (
    ARCHITECTURES,
    PRECISIONS,
    SCHEDULES,
    TrainedAligner,
    array_letters,
    head_name,
    with_precision,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fitters.trained.training import Objective, TrainingSettings

LOSSES = ("cosine", "mse", "infonce", "siglip", "devise")
OPTIMISERS = ("adam", "adamw", "lion", "adagrad")

CLOSED = -1e4
"""Logit whose sigmoid and its slope are 0 in float32."""

_FRACTION = Interval(Real, 0, 1, closed="both")
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_POSITIVE = Interval(Real, 0, None, closed="neither")
_COUNT = Interval(Integral, 1, None, closed="left")


class MLPAligner(TrainedAligner):
    """Align by a head that is trained by gradient descent.

    ``direction="y->x"`` maps texts into the image space, ``"x->y"`` images into the text space,
    ``"both"`` maps both into a space of `n_components` columns. Rows are taken as they come: unit
    rows, centred or not, are for the caller (`fitters.recipe.fit_alignment` makes them).

    Parameters
    ----------
    architecture : {"linear", "paper", "residual", "sail", "freeze_align"}
        Of each head that maps; see `fitters.trained.modules`.
    direction : {"y->x", "x->y", "both"}
    loss : {"cosine", "mse", "infonce", "siglip", "devise"}
        See `fitters.trained.modules`. "cosine" and "mse" need a side that stays as it is: two heads
        would meet in one point.
    n_components : int
        Columns of the space of "both".
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
    structure, structure_levels, structure_warmup : float, int, int
        Weight of STRUCTURE's regulariser, its levels, and steps over which the weight rises.
    optimizer : {"adam", "adamw", "lion", "adagrad"}
        "lion" needs timm.
    learning_rate, weight_decay : float
        Weight decay is decoupled in adamw and lion, an L2 term elsewhere.
    beta1, beta2 : float or None
        None: the optimiser's own.
    schedule : {"constant", "cosine", "cosine-epochs"}
    warmup_epochs, floor : float
        See `fitters.trained.base.rate_factor`.
    epochs, batch_size : int
    clip : float or None
        Largest norm of the gradient.
    share : float or None
        None: prototypes and real pairs are concatenated and shuffled, as in the paper. Else the
        share of prototypes in every batch, and an epoch is one pass over the real pairs.
    sequential : bool
        Train on prototypes first, then, with a fresh optimiser and the whole schedule again, on
        real pairs alone.
    first_epochs : int or None
        Of the first of these two stages; None: `epochs`, as the second.
    patience : int or None
        Hold `validation_fraction` of the groups of real pairs (or else of prototypes) out, stop
        after so many epochs without a better mean reciprocal rank, keep the best epoch.
    validation_fraction : float
    precision : {"auto", "float32", "bf16"}
        Of the heads in training; "auto" is bf16 where the processor has a unit for it.
    legacy : bool
        What the original's code does where it deviates from its paper: siglip's mean over all
        pairs, STRUCTURE's swapped divergence and closed gate, DeViSE's first violating text.
    seed : int

    Attributes
    ----------
    x_…_, y_…_ : ndarray, float32
        Parameters of the heads, named by `array_shapes`.
    readout_, readout_mean_ : ndarray of shape (r, q), (q,)
        Where y is mapped: what `predict` goes by.
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
    """

    method: ClassVar[str] = "mlp"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "architecture": [StrOptions(set(ARCHITECTURES))],
        "direction": [StrOptions({"y->x", "x->y", "both"})],
        "loss": [StrOptions(set(LOSSES))],
        "n_components": [_COUNT],
        "width": [_COUNT, None],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "bias": ["boolean"],
        "gate": [Interval(Real, None, None, closed="neither")],
        "feature_dropout": [Interval(Real, 0, 1, closed="left")],
        "feature_dropout_batches": [_FRACTION],
        "temperature": [_POSITIVE],
        "learn_temperature": ["boolean"],
        "temperature_low": [_POSITIVE],
        "temperature_high": [_POSITIVE],
        "logit_bias": [Interval(Real, None, None, closed="neither"), None],
        "margin": [_NOT_NEGATIVE],
        "mask_same": ["boolean"],
        "structure": [_NOT_NEGATIVE],
        "structure_levels": [_COUNT],
        "structure_warmup": [Interval(Integral, 0, None, closed="left")],
        "optimizer": [StrOptions(set(OPTIMISERS))],
        "learning_rate": [_POSITIVE],
        "weight_decay": [_NOT_NEGATIVE],
        "beta1": [Interval(Real, 0, 1, closed="left"), None],
        "beta2": [Interval(Real, 0, 1, closed="left"), None],
        "schedule": [StrOptions(set(SCHEDULES))],
        "warmup_epochs": [_NOT_NEGATIVE],
        "floor": [_FRACTION],
        "epochs": [_COUNT],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "clip": [_POSITIVE, None],
        "share": [Interval(Real, 0, 1, closed="neither"), None],
        "sequential": ["boolean"],
        "first_epochs": [_COUNT, None],
        "patience": [_COUNT, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "precision": [StrOptions(set(PRECISIONS))],
        "legacy": ["boolean"],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        architecture: str = "paper",
        direction: str = "y->x",
        *,
        loss: str = "cosine",
        n_components: int = 512,
        width: int | None = None,
        dropout: float | None = None,
        bias: bool = True,
        gate: float = -2.0,
        feature_dropout: float = 0.0,
        feature_dropout_batches: float = 1.0,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        temperature_low: float = 0.01,
        temperature_high: float = 1.0,
        logit_bias: float | None = None,
        margin: float = 0.1,
        mask_same: bool = True,
        structure: float = 0.0,
        structure_levels: int = 1,
        structure_warmup: int = 1000,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        beta1: float | None = None,
        beta2: float | None = None,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
        floor: float = 0.0,
        epochs: int = 100,
        batch_size: int = 512,
        clip: float | None = None,
        share: float | None = None,
        sequential: bool = False,
        first_epochs: int | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        precision: str = "auto",
        legacy: bool = False,
        seed: int = 0,
    ) -> None:
        self.architecture = architecture
        self.direction = direction
        self.loss = loss
        self.n_components = n_components
        self.width = width
        self.dropout = dropout
        self.bias = bias
        self.gate = gate
        self.feature_dropout = feature_dropout
        self.feature_dropout_batches = feature_dropout_batches
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.temperature_low = temperature_low
        self.temperature_high = temperature_high
        self.logit_bias = logit_bias
        self.margin = margin
        self.mask_same = mask_same
        self.structure = structure
        self.structure_levels = structure_levels
        self.structure_warmup = structure_warmup
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.beta1 = beta1
        self.beta2 = beta2
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.floor = floor
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip = clip
        self.share = share
        self.sequential = sequential
        self.first_epochs = first_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.precision = precision
        self.legacy = legacy
        self.seed = seed

    def _maps(self, side: str) -> bool:
        return self.direction in ("both", "x->y" if side == "x" else "y->x")

    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        from fitters.trained.modules import build_head

        # The original's first gate is 0, the logit of which no optimiser can leave.
        gate = CLOSED if self.legacy else float(self.gate)
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
                gate=gate,
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
        if not self.temperature_low <= self.temperature <= self.temperature_high:
            raise SettingError(
                f"The temperature {self.temperature} lies outside its range, "
                f"[{self.temperature_low}, {self.temperature_high}]."
            )
        return PairObjective(parts, self)

    def _forward(self, parts: dict[str, nn.Module], side: str, rows: Tensor) -> Tensor:
        out: Tensor = parts[side](rows)
        return out

    def _scale_of(self, objective: Any) -> tuple[float, float]:
        if self.loss not in ("infonce", "siglip"):
            return 1.0, 0.0
        return float(objective.log_scale.detach().exp()), float(objective.shift.detach())

    def _settings(self) -> TrainingSettings:
        from fitters.trained.training import TrainingSettings

        betas = None
        if self.beta1 is not None or self.beta2 is not None:
            own = (0.9, 0.99 if self.optimizer == "lion" else 0.999)
            betas = tuple(
                float(mine if given is None else given)
                for mine, given in zip(own, (self.beta1, self.beta2), strict=True)
            )
        settings = TrainingSettings(
            optimizer=self.optimizer,
            betas=betas,  # type: ignore[arg-type]
            weight_decay=float(self.weight_decay),
            schedule=self.schedule,
            warmup_epochs=float(self.warmup_epochs),
            floor=float(self.floor),
            batch_size=int(self.batch_size),
            clip=None if self.clip is None else float(self.clip),
            patience=self.patience,
            flat=None,
            precision="float32",
        )
        return with_precision(settings, self.precision)

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        target = {"y->x": "p", "x->y": "q", "both": "r"}[self.direction]
        shapes: dict[str, tuple[str, ...]] = {}
        for side, k in (("x", "p"), ("y", "q")):
            if self._maps(side):
                name = head_name(self.architecture, side)
                shapes |= array_letters(
                    side, name, k=k, d=target, h=f"hidden {side}", bias=bool(self.bias)
                )
        if self._has_readout:
            shapes |= {"readout_": (target, "q"), "readout_mean_": ("q",)}
        return shapes
