"""Base of the trained aligners, without torch at import: shapes, precision, progress, schedule."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from featstore.errors import needs_extra
from featstore.parallel import best_device, gains_from_bf16
from fitters.aligners import BaseAligner, Constraints, validate_pairs
from fitters.errors import SettingError
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import Choice, Search
from fitters.settings import OnEpoch, Preparation, TrainingPrecision
from fitters.sources import Sources, normalize_rows

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fitters.settings import FitConfig
    from fitters.trained.training import Batch, Objective


#: k: columns in, d: columns out, h: hidden width. PyTorch's convention: weight is (out, in).

ARCHITECTURES = ("linear", "paper", "residual", "sail", "freeze_align")
"""What a user may ask for."""


def head_name(architecture: str, side: str) -> str:
    """Return the key of `fitters.trained.modules.HEADS`: freeze_align's two sides differ."""
    return "freeze_align_image" if (architecture, side) == ("freeze_align", "x") else architecture


def attribute(part: str, parameter: str) -> str:
    """Return the estimator's attribute that holds a parameter of a part."""
    return f"{part}_{parameter.replace('.', '_')}_"


COUNT = Interval(Integral, 1, None, closed="left")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")

CURVES = ("constant", "cosine", "cosine-epochs")
"""Of the learning rate; `cosine-epochs` changes it between epochs only, as the paper's code."""
OPTIMISERS = ("adam", "adamw", "lion", "adagrad")


@dataclass(repr=False, eq=False, kw_only=True)
class Schedule(BaseEstimator):  # type: ignore[misc]
    """How an aligner is trained: parameters that every trained aligner has, or has by default.

    Parameters
    ----------
    optimizer : {"adam", "adamw", "lion", "adagrad"}
        "lion" needs timm.
    learning_rate, weight_decay : float
        Weight decay is decoupled in adamw and lion, an L2 term elsewhere.
    beta1, beta2 : float or None
        None: the optimiser's own.
    schedule : {"constant", "cosine", "cosine-epochs"}
        The curve of the learning rate.
    warmup_epochs, floor : float
        See `factor`.
    epochs, batch_size : int
    clip : float or None
        Largest norm of the gradient.
    sequential : bool
        False: prototypes and real pairs are concatenated and shuffled, as in the paper. True: train
        on prototypes first, then, with a fresh optimiser and the whole schedule again, on
        real pairs alone.
    first_epochs : int or None
        Of the first of these two stages; None: `epochs`, as the second.
    patience : int or None
        Hold `validation_fraction` of the groups of real pairs (or else of prototypes) out, stop
        after so many epochs without a better mean reciprocal rank, keep the best epoch.
    validation_fraction : float

    Examples
    --------
    >>> Schedule(epochs=10, warmup_epochs=1).factor(step=0, steps_an_epoch=4, epochs=10)
    0.25
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    beta1: float | None = None
    beta2: float | None = None
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    floor: float = 0.0
    epochs: int = 100
    batch_size: int = 512
    clip: float | None = None
    sequential: bool = False
    first_epochs: int | None = None
    patience: int | None = None
    validation_fraction: float = 0.1

    _parameter_constraints: ClassVar[Constraints] = {
        "optimizer": [StrOptions(set(OPTIMISERS))],
        "learning_rate": [POSITIVE],
        "weight_decay": [NOT_NEGATIVE],
        "beta1": [Interval(Real, 0, 1, closed="left"), None],
        "beta2": [Interval(Real, 0, 1, closed="left"), None],
        "schedule": [StrOptions(set(CURVES))],
        "warmup_epochs": [NOT_NEGATIVE],
        "floor": [Interval(Real, 0, 1, closed="both")],
        "epochs": [COUNT],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "clip": [POSITIVE, None],
        "sequential": ["boolean"],
        "first_epochs": [COUNT, None],
        "patience": [COUNT, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    }

    def factor(self, step: int, steps_an_epoch: int, epochs: int) -> float:
        """Return what the learning rate is multiplied by at `step`, counted from 0.

        It rises linearly from `floor` to 1 over the first `warmup_epochs`. A cosine then falls from
        1 to `floor`; its last step (or epoch) is one short of it, as in
        ``torch.optim.lr_scheduler.CosineAnnealingLR``.
        """
        warm = round(self.warmup_epochs * steps_an_epoch)
        if step < warm:
            return self.floor + (1 - self.floor) * (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        done = step - warm
        if self.schedule == "cosine-epochs":
            done = done // steps_an_epoch * steps_an_epoch
        turn = math.pi * done / max(epochs * steps_an_epoch - warm, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(turn)) / 2


PRECISIONS: tuple[TrainingPrecision, ...] = get_args(TrainingPrecision)


def resolve(precision: TrainingPrecision, device: str = "cpu") -> Literal["float32", "bf16"]:
    """Return what "auto" means on a type of device: bf16 where it gains from it."""
    if precision == "auto":
        return "bf16" if device == "cuda" or gains_from_bf16() else "float32"
    return precision


def training_device(device: str) -> torch.device:
    """Return the device of a training; of "auto" the GPU, if torch can use one with CUDA.

    Raises
    ------
    SettingError
        If it is no CPU or CUDA device that is there.
    """
    import torch

    name = best_device() if device == "auto" else device
    name = "cpu" if (device, name) == ("auto", "mps") else name
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
        known = chosen.type in ("cpu", "cuda")
    except (RuntimeError, AssertionError, NotImplementedError):
        known = False
    if not known:
        raise SettingError(
            f"Nothing can be trained on the device {device!r} here. Use cpu, or a CUDA device that "
            "torch can use."
        )
    return chosen


@contextmanager
def blas_threads() -> Iterator[int]:
    """Run torch on as many threads as NumPy's BLAS may use, and restore the old number.

    So one limit holds for all of a fit: ``threadpoolctl.threadpool_limits``, OPENBLAS_NUM_THREADS.
    """
    import torch
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    allowed = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    torch.set_num_threads(min([before, *allowed]))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


BLOCK_ROWS = 4096
"""Rows projected at a time."""


class TrainedAligner(Schedule, BaseAligner):
    """Base of the aligners that are trained; parameters are those of the subclass."""

    fitted_on = "training"
    preparation: ClassVar[Preparation] = Preparation(images="unit", texts="unit")
    array_dtype: ClassVar[str] = "float32"

    # What a subclass has.
    seed: int
    precision: TrainingPrecision
    flat: float | None = None

    _device_type = "cpu"
    """Of the last training."""

    @classmethod
    def check_settings(cls, config: FitConfig, *, prototypes: bool, real: bool) -> None:
        """Raise SettingError for two stages where there is one source."""
        if config.training.sequential and not (prototypes and real):
            raise SettingError("Sequential training needs prototypes and real pairs. Give both.")

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Return the settings of the training that were given, and draw its seed."""
        options = search.config.training
        n_prototypes = 0 if data.prototypes is None else data.prototypes.n
        seed = int(search.rng.integers(2**31))
        kept = {name: getattr(options, name) for name in ("device", "on_epoch")}
        return Choice({"n_prototypes": n_prototypes, "seed": seed, **options.changes}, of_fit=kept)

    def fit_sources(
        self,
        data: Sources[Any],
        mix: float = 1.0,  # noqa: ARG002
        *,
        device: str = "cpu",
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on both sources; all rows count alike."""
        try:
            self._validate_params()
        except ValueError as err:
            raise SettingError(str(err)) from err
        return self.fit_rows(data.prototypes, data.real, device=device, on_epoch=on_epoch)

    @property
    def facts_(self) -> dict[str, Any]:
        """What an alignment records of the training, as plain values for JSON."""
        metrics = [epoch["metric"] for epoch in self.history_]
        return {
            "training": {
                "epochs": len(self.history_),
                "precision": resolve(self.precision, self._device_type),
                "loss": [epoch["loss"] for epoch in self.history_],
                "metric": [metric for metric in metrics if metric is not None],
            }
        }

    @abstractmethod
    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        """Return the modules that project, by name, on the meta device."""

    @abstractmethod
    def _objective(self, parts: dict[str, nn.Module]) -> Objective:
        """Return what is trained."""

    @abstractmethod
    def _maps(self, side: str) -> bool:
        """Return whether a side is changed at all."""

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, **how: Any) -> Self:
        """Train on n paired rows, each of its own group.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        **how
            As of `fit_rows`, which also takes groups and prototypes, and names what is raised.
        """
        x64, y64, _ = validate_pairs(self, X, y, None)
        return self.fit_rows(None, Pairs(x64, y64), **how)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_rows(
        self,
        prototypes: Pairs | None,
        real: Pairs | None,
        *,
        device: str = "cpu",
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on rows of float32; weights have no effect.

        Parameters
        ----------
        prototypes, real : Pairs, optional
            At least one. No group of one is a group of the other; rows of one group are no
            negatives of each other, and are held out together.
        device : str
            As torch names it, or "auto": see `training_device`. The same rows and seed give the
            same bytes on a CPU; on a GPU the dropout masks and the last bits are others.
        on_epoch : callable, optional
            Is given an `EpochDone` after each epoch.

        Raises
        ------
        MissingPackageError
            If torch is not installed.
        DivergedError
            If the loss is no longer finite.
        """
        _need_torch()
        from fitters.trained.modules import draw_from, initialise
        from fitters.trained.training import Generators, split_source, train

        given = [source for source in (prototypes, real) if source is not None]
        if not given:
            raise SettingError(
                "There is nothing to train on. Pass prototypes, real pairs, or both."
            )
        self.n_features_in_, self.n_targets_ = given[0].x.shape[1], given[0].y.shape[1]
        self._note_rows(given)
        place = training_device(device)
        self._device_type = place.type
        with blas_threads():
            generators = Generators.of(int(self.seed), place)
            held = None
            if self.patience is not None:
                fraction = float(self.validation_fraction)
                given[-1], held = split_source(given[-1], fraction, generators.order)
            parts = self._parts(self.n_features_in_, self.n_targets_)
            objective = self._objective(parts)
            initialise(objective, generators.first)
            objective.after_step()
            objective.to(place)
            draw_from(objective, generators.masks)
            history = train(
                objective,
                self._stages(given),
                self,
                generators,
                precision=resolve(self.precision, place.type),
                held=held,
                on_epoch=on_epoch,
            )
            self.history_ = history
            self.epochs_, self.loss_ = len(history), float(history[-1]["loss"])
            self.scale_, self.shift_ = self._scale_of(objective)
            for part, module in parts.items():
                for name, value in module.state_dict().items():
                    setattr(self, attribute(part, name), value.detach().cpu().numpy().copy())
        return self

    def _note_rows(self, given: Sequence[Pairs]) -> None:
        """Remember facts of the rows; for subclasses."""

    def _scale_of(self, _: Objective) -> tuple[float, float]:
        """Return what cosines are multiplied by, and what is added, in the loss; 1 and 0."""
        return 1.0, 0.0

    def _stages(self, given: Sequence[Pairs]) -> list[tuple[Batch, int]]:
        from fitters.trained.training import Batch

        if len(given) < 2 or not self.sequential:
            return [(Batch.of(*given), int(self.epochs))]
        first = self.epochs if self.first_epochs is None else self.first_epochs
        return [(Batch.of(given[0]), int(first)), (Batch.of(given[1]), int(self.epochs))]

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64, unit rows."""
        check_is_fitted(self)
        return normalize_rows(
            self._outputs("x", self.check_projected(x, self.n_features_in_, "x")), what="x"
        )

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64, unit rows."""
        check_is_fitted(self)
        return normalize_rows(
            self._outputs("y", self.check_projected(y, self.n_targets_, "y")), what="y"
        )

    def _outputs(self, side: str, rows: Rows) -> Matrix:
        """Return what the heads make of rows, in float32 arithmetic, as float64."""
        if not self._maps(side):
            return np.asarray(rows, dtype=np.float64)
        _need_torch()
        import torch

        parts = self._parts(self.n_features_in_, self.n_targets_)
        for part, module in parts.items():
            arrays = {
                name: torch.from_numpy(np.array(getattr(self, attribute(part, name))))
                for name in module.state_dict()
            }
            module.load_state_dict(arrays, assign=True)
        objective, blocks = self._objective(parts).eval(), []
        with blas_threads(), torch.no_grad():
            for start in range(0, len(rows), BLOCK_ROWS):
                block = np.ascontiguousarray(rows[start : start + BLOCK_ROWS], dtype=np.float32)
                blocks.append(objective.project(side, torch.from_numpy(block)).numpy())
        return np.concatenate(blocks).astype(np.float64)


def _need_torch() -> None:
    with needs_extra("A trained aligner", "train"):
        import torch  # noqa: F401
