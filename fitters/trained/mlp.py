"""`MLPAligner`: a configurable head, loss and schedule, trained on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sklearn.base import BaseEstimator
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
    array_letters,
    head_name,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fitters.trained.training import Objective

LOSSES = ("cosine", "mse", "infonce", "siglip", "devise")

_NUMBER = Interval(Real, None, None, closed="neither")
_BELOW_ONE = Interval(Real, 0, 1, closed="left")


@dataclass(repr=False)
class TrainedHead(BaseEstimator):  # type: ignore[misc]
    """The head of each side that maps, as parameters of `MLPAligner`.

    Parameters
    ----------
    architecture : {"linear", "paper", "residual", "sail", "freeze_align"}
        See `fitters.trained.modules`.
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

    Examples
    --------
    >>> MLPAligner(head=TrainedHead("linear")).architecture
    'linear'
    """

    architecture: str = "paper"
    n_components: int = 512
    width: int | None = None
    dropout: float | None = None
    bias: bool = True
    gate: float = -2.0
    feature_dropout: float = 0.0
    feature_dropout_batches: float = 1.0

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "architecture": [StrOptions(set(ARCHITECTURES))],
        "n_components": [COUNT],
        "width": [COUNT, None],
        "dropout": [_BELOW_ONE, None],
        "bias": ["boolean"],
        "gate": [_NUMBER],
        "feature_dropout": [_BELOW_ONE],
        "feature_dropout_batches": [Interval(Real, 0, 1, closed="both")],
    }


@dataclass(repr=False)
class PairLoss(BaseEstimator):  # type: ignore[misc]
    """What training minimises, as parameters of `MLPAligner`.

    Parameters
    ----------
    name : {"cosine", "mse", "infonce", "siglip", "devise"}
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
    structure, structure_levels, structure_warmup : float, int, int
        Weight of STRUCTURE's regulariser, its levels, and steps over which the weight rises.

    Examples
    --------
    >>> MLPAligner(loss=PairLoss("infonce", temperature=0.1)).get_params()["loss__name"]
    'infonce'
    """

    name: str = "cosine"
    temperature: float = 0.07
    learn_temperature: bool = True
    temperature_low: float = 0.01
    temperature_high: float = 1.0
    logit_bias: float | None = None
    margin: float = 0.1
    mask_same: bool = True
    structure: float = 0.0
    structure_levels: int = 1
    structure_warmup: int = 1000

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "name": [StrOptions(set(LOSSES))],
        "temperature": [POSITIVE],
        "learn_temperature": ["boolean"],
        "temperature_low": [POSITIVE],
        "temperature_high": [POSITIVE],
        "logit_bias": [_NUMBER, None],
        "margin": [NOT_NEGATIVE],
        "mask_same": ["boolean"],
        "structure": [NOT_NEGATIVE],
        "structure_levels": [COUNT],
        "structure_warmup": [Interval(Integral, 0, None, closed="left")],
    }

    @property
    def scales(self) -> bool:
        """Whether cosines are divided by a temperature."""
        return self.name in ("infonce", "siglip")


_GROUPS: dict[str, Any] = {"head": TrainedHead, "loss": PairLoss, "schedule": Schedule}

#: Name of a parameter by itself -> its group, and its name there.
_PARAMETERS = {
    {"name": "loss", "curve": "schedule"}.get(name, name): (group, name)
    for group, cls in _GROUPS.items()
    for name in cls._get_param_names()
}


class MLPAligner(TrainedAligner):
    """Align by a head that is trained by gradient descent.

    Rows are taken as they come: unit rows, centred or not, are for the caller
    (`fitters.alignment.fit` makes them).

    Parameters
    ----------
    direction : {"y->x", "x->y", "both"}
        "y->x" maps texts into the image space, "x->y" images into the text space, "both" maps both
        into a space of ``head.n_components`` columns.
    head : TrainedHead, optional
    loss : PairLoss, optional
    schedule : Schedule, optional
        Default: that of each class. Their parameters are nested ones of this estimator, such as
        ``loss__temperature``; `of` takes them side by side.
    precision : {"auto", "float32", "bf16"}
        Of the heads in training; "auto" is bf16 where the processor has a unit for it.
    seed : int

    Attributes
    ----------
    x_…_, y_…_ : ndarray, float32
        Parameters of the heads, named by `array_shapes`.
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
    >>> made = MLPAligner("x->y", head=TrainedHead("linear"), schedule=Schedule(epochs=3))
    >>> made.set_params(loss__name="mse").fit(images, images[:, :5]).epochs_
    3
    """

    method: ClassVar[str] = "mlp"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "direction": [StrOptions({"y->x", "x->y", "both"})],
        **{name: [cls, None] for name, cls in _GROUPS.items()},
        "precision": [StrOptions(set(PRECISIONS))],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        direction: str = "y->x",
        *,
        head: TrainedHead | None = None,
        loss: PairLoss | None = None,
        schedule: Schedule | None = None,
        precision: TrainingPrecision = "auto",
        seed: int = 0,
    ) -> None:
        self.direction = direction
        self.head = TrainedHead() if head is None else head
        self.loss = PairLoss() if loss is None else loss
        self.schedule = Schedule() if schedule is None else schedule
        self.precision = precision
        self.seed = seed

    @classmethod
    def of(cls, architecture: str = "paper", direction: str = "y->x", **params: Any) -> MLPAligner:
        """Return an aligner with parameters side by side, whatever group they are of.

        ``loss`` and ``schedule`` are the names of a loss and of the curve of the learning rate. So
        are they in `PRESETS`, and in alignments that are saved.
        """
        given: dict[str, dict[str, Any]] = {group: {} for group in ("", *_GROUPS)}
        for name, value in {"architecture": architecture, **params}.items():
            group, own = _PARAMETERS.get(name, ("", name))
            given[group][own] = value
        groups = {group: make(**given[group]) for group, make in _GROUPS.items()}
        return cls(direction, **groups, **given[""])

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Return the parameters; a group that is as by default is None, as it may be given."""
        params: dict[str, Any] = super().get_params(deep)
        return params | {
            name: None
            for name, cls in _GROUPS.items()
            if isinstance(params[name], cls) and params[name] == cls()
        }

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of a group, such as ``loss__temperature``."""
        nested = {name: v for name, v in params.items() if name.partition("__")[0] in _GROUPS}
        super().set_params(**{name: v for name, v in params.items() if name not in nested})
        for name, value in sorted(nested.items()):
            group, _, own = name.partition("__")
            if own:
                getattr(self, group).set_params(**{own: value})
            else:
                setattr(self, group, _GROUPS[group]() if value is None else value)
        return self

    def plain_params(self) -> dict[str, Any]:
        """Return the parameters side by side, as `of` takes them: plain values for JSON."""
        own = {name: getattr(self, name) for name in ("direction", "precision", "seed")}
        return own | {name: getattr(getattr(self, g), at) for name, (g, at) in _PARAMETERS.items()}

    def __getattr__(self, name: str) -> Any:
        """Return a parameter of a group by its own name: ``aligner.epochs``."""
        if name in _PARAMETERS and name not in _GROUPS:
            group, own = _PARAMETERS[name]
            return getattr(getattr(self, group), own)
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}.", name=name, obj=self
        )

    def __repr__(self) -> str:
        return " ".join(super().__repr__().split())

    def _validate_params(self) -> None:
        super()._validate_params()
        for group in _GROUPS:
            getattr(self, group)._validate_params()

    def _maps(self, side: str) -> bool:
        return self.direction in ("both", "x->y" if side == "x" else "y->x")

    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        from fitters.trained.modules import build_head

        sizes = {"x": p, "y": q}
        targets = {"y->x": p, "x->y": q, "both": int(self.head.n_components)}
        return {
            side: build_head(
                head_name(self.head.architecture, side),
                sizes[side],
                targets[self.direction],
                width=None if self.head.width is None else int(self.head.width),
                dropout=None if self.head.dropout is None else float(self.head.dropout),
                bias=bool(self.head.bias),
                gate=float(self.head.gate),
            )
            for side in ("x", "y")
            if self._maps(side)
        }

    def _objective(self, parts: dict[str, nn.Module]) -> Objective:
        from fitters.trained.modules import PairObjective

        if self.direction == "both" and self.loss.name in ("cosine", "mse"):
            raise SettingError(
                f"Two heads trained for {self.loss.name!r} would send everything to one point. Use "
                "direction 'y->x' or 'x->y', or a loss that contrasts: infonce, siglip, devise."
            )
        low, high = self.loss.temperature_low, self.loss.temperature_high
        if not low <= self.loss.temperature <= high:
            raise SettingError(
                f"The temperature {self.loss.temperature} lies outside its range, [{low}, {high}]."
            )
        return PairObjective(parts, self)

    def _forward(self, parts: dict[str, nn.Module], side: str, rows: Tensor) -> Tensor:
        out: Tensor = parts[side](rows)
        return out

    def _scale_of(self, objective: Any) -> tuple[float, float]:
        if not self.loss.scales:
            return 1.0, 0.0
        return float(objective.log_scale.detach().exp()), float(objective.shift.detach())

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        target = {"y->x": "p", "x->y": "q", "both": "r"}[self.direction]
        shapes: dict[str, tuple[str, ...]] = {}
        for side, k in (("x", "p"), ("y", "q")):
            if self._maps(side):
                name = head_name(self.head.architecture, side)
                shapes |= array_letters(
                    side, name, k=k, d=target, h=f"hidden {side}", bias=bool(self.head.bias)
                )
        return shapes
