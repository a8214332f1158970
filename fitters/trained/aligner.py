"""What the trained estimators share: rows in, a training, arrays out, and projections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from featstore.errors import needs_extra
from featstore.keys import canonical_json, sha256_hex
from fitters.errors import SettingError
from fitters.linear.solvers import relative_penalty, solve_ridge, solve_ridge_dual
from fitters.moments.transform import normalize_rows
from fitters.pairs import Rows
from fitters.projection import BaseAligner
from fitters.rows import Matrix, as_columns, validate_pairs
from fitters.trained.precision import blas_threads, resolve
from fitters.trained.progress import OnEpoch
from fitters.trained.shapes import attribute
from fitters.trained.sources import ArrayRows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fitters.trained.batches import PairSource, Stream
    from fitters.trained.training import Objective, Stage, TrainingSettings

BLOCK_ROWS = 4096
"""Rows projected at a time."""
READOUT_ROWS, READOUT_PENALTY = 4096, 1e-3
"""Training rows that `predict` is fitted on, and its relative penalty."""


class TrainedAligner(BaseAligner):
    """Base of the aligners that are trained; parameters are those of the subclass."""

    array_dtype: ClassVar[str] = "float32"
    fitted_values: ClassVar[tuple[str, ...]] = (
        "n_features_in_", "n_targets_", "epochs_", "loss_", "scale_", "shift_",
    )  # fmt: skip

    # What a subclass has as parameters.
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    precision: str
    share: float | None
    sequential: bool
    first_epochs: int | None = None
    patience: int | None
    validation_fraction: float

    @abstractmethod
    def _parts(self, p: int, q: int) -> dict[str, nn.Module]:
        """Return the modules that project, by name, on the meta device."""

    @abstractmethod
    def _objective(self, parts: dict[str, nn.Module]) -> Objective:
        """Return what is trained."""

    @abstractmethod
    def _forward(self, parts: dict[str, nn.Module], side: str, rows: Tensor) -> Tensor:
        """Return rows of a side in the shared space, not normalised."""

    @abstractmethod
    def _settings(self) -> TrainingSettings:
        """Return how to train."""

    @abstractmethod
    def _maps(self, side: str) -> bool:
        """Return whether a side is changed at all."""

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Rows,
        y: Rows,
        sample_weight: npt.NDArray[Any] | None = None,
        *,
        groups: npt.NDArray[Any] | None = None,
        prototype: npt.NDArray[np.bool_] | None = None,
        checkpoint: Path | str | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on n paired rows.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        sample_weight : ndarray of shape (n,), optional
            Mass of each row in the loss, not negative; rows of mass 0 are left out.
        groups : ndarray of shape (n,), optional
            Names of classes, or images: rows of one group are no negatives of each other, and are
            held out together. None: every row is its own.
        prototype : ndarray of bool, shape (n,), optional
            Which rows are prototypes, for `share` and `sequential`. None: none are.
        checkpoint : path, optional
            File that the training's state is kept in, at most every 30 seconds and at its end. If
            it holds the state of this very training, that goes on.
        on_epoch : callable, optional
            Is given an `EpochDone` after each epoch.

        Raises
        ------
        MissingPackageError
            If torch is not installed.
        DivergedError
            If the loss is no longer finite.
        """
        x64, y64, weight = validate_pairs(self, X, y, sample_weight)
        one_column = self._one_column
        n = len(x64)
        labels = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
        first = np.zeros(n, dtype=bool) if prototype is None else np.asarray(prototype, dtype=bool)
        if len(labels) != n or len(first) != n:
            msg = (
                f"groups and prototype have one entry a pair, {n:,}. Got {len(labels):,} and "
                f"{len(first):,}."
            )
            raise SettingError(msg)
        alike = bool((weight == weight[0]).all())
        scaled = weight / weight[weight > 0].mean()

        def rows_of(chosen: npt.NDArray[np.bool_]) -> ArrayRows | None:
            chosen = chosen & (weight > 0)
            if not chosen.any():
                return None
            return ArrayRows(
                x64[chosen].astype(np.float32),
                y64[chosen].astype(np.float32),
                labels[chosen].astype(np.int64),
                None if alike else scaled[chosen],
            )

        self.fit_rows(rows_of(first), rows_of(~first), checkpoint=checkpoint, on_epoch=on_epoch)
        self._one_column = one_column
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_rows(
        self,
        prototypes: PairSource | None,
        real: PairSource | None,
        *,
        checkpoint: Path | str | None = None,
        checkpoint_seconds: float = 30.0,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on rows that are read by chunks, of arrays or of a store's views.

        Parameters
        ----------
        prototypes, real : PairSource, optional
            At least one; see `fitters.trained.batches`. Both count their groups apart.
        checkpoint_seconds : float
            Between two writes of the checkpoint; the others are as in `fit`.
        """
        _need_torch()
        from fitters.trained.architectures import draw_from, initialise
        from fitters.trained.checkpoint import Checkpoint
        from fitters.trained.training import Generators, train

        given = [source for source in (prototypes, real) if source is not None]
        if not given:
            msg = "There is nothing to train on. Pass prototypes, real pairs, or both."
            raise SettingError(msg)
        self.n_features_in_, self.n_targets_ = given[0].p, given[0].q
        self._one_column = False
        with blas_threads():
            generators = Generators.of(int(self.seed))
            prototypes, real, held = self._hold_out(prototypes, real, generators.order)
            parts = self._parts(self.n_features_in_, self.n_targets_)
            objective = self._objective(parts)
            initialise(objective, generators.first)
            objective.after_step()
            draw_from(objective, generators.masks)
            kept = None
            if checkpoint is not None:
                kept = Checkpoint(Path(checkpoint), self._identity(given), checkpoint_seconds)
            history = train(
                objective,
                self._stages(prototypes, real),
                self._settings(),
                generators,
                held=held,
                checkpoint=kept,
                on_epoch=on_epoch,
            )
            self.history_ = history
            self.epochs_, self.loss_ = len(history), float(history[-1]["loss"])
            self.scale_, self.shift_ = self._scale_of(objective)
            for part, module in parts.items():
                for name, value in module.state_dict().items():
                    setattr(self, attribute(part, name), value.detach().numpy().copy())
            if self._has_readout:
                self._fit_readout(given[-1])
        self._note_rows(given)
        return self

    def _note_rows(self, given: Sequence[PairSource]) -> None:
        """Remember facts of the rows; for subclasses."""

    def _scale_of(self, objective: Objective) -> tuple[float, float]:
        """Return what cosines are multiplied by, and what is added, in the loss; 1 and 0."""
        del objective
        return 1.0, 0.0

    @property
    def _has_readout(self) -> bool:
        """Whether `predict` goes through a map of its own: no head leads to y."""
        return self._maps("y")

    def _hold_out(
        self, prototypes: PairSource | None, real: PairSource | None, order: Any
    ) -> tuple[PairSource | None, PairSource | None, Any]:
        """Take validation pairs out of the real pairs, or else of the prototypes."""
        if self.patience is None:
            return prototypes, real, None
        from fitters.trained.validation import read_all, split_source

        if real is not None:
            real, held = split_source(real, self.validation_fraction, order)
        else:
            assert prototypes is not None
            prototypes, held = split_source(prototypes, self.validation_fraction, order)
        return prototypes, real, read_all([held])

    def _stages(self, prototypes: PairSource | None, real: PairSource | None) -> Sequence[Stage]:
        from fitters.trained.batches import Mixture, Stream
        from fitters.trained.training import Stage

        given: list[Stream] = [Stream([s]) for s in (prototypes, real) if s is not None]
        rate, epochs = float(self.learning_rate), int(self.epochs)
        if len(given) == 1:
            return [Stage(given[0], epochs, rate)]
        if self.sequential:
            first = epochs if self.first_epochs is None else int(self.first_epochs)
            return [Stage(given[0], first, rate), Stage(given[1], epochs, rate)]
        if self.share is not None:
            return [Stage(Mixture(given[0], given[1], float(self.share)), epochs, rate)]
        both = Stream([source for stream in given for source in stream.sources])
        return [Stage(both, epochs, rate)]

    def _identity(self, given: Sequence[PairSource]) -> str:
        """Return the digest of everything that decides the result, but the machine."""
        import torch

        facts = {
            "method": self.method,
            "params": self.get_params(),
            "precision": resolve(self.precision),  # type: ignore[arg-type]
            "rows": [source.fingerprint for source in given],
            "torch": torch.__version__,
        }
        return sha256_hex(canonical_json(facts))

    def _fit_readout(self, source: PairSource) -> None:
        """Fit a ridge from the shared space to y, on training rows: what `predict` goes by."""
        x, y = source.read(0, min(source.n, READOUT_ROWS))
        a, b = self._outputs("x", x), np.asarray(y, dtype=np.float64)
        a = a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
        mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
        a, b = a - mean_a, b - mean_b
        alpha = READOUT_PENALTY * float((a * a).sum()) / a.shape[1]
        if alpha == 0:
            coef = np.zeros((a.shape[1], b.shape[1]))
        elif len(a) < a.shape[1]:
            coef = solve_ridge_dual(a, b, alpha)
        else:
            gram = a.T @ a
            coef = solve_ridge(gram, a.T @ b, relative_penalty(gram, READOUT_PENALTY))
        self.readout_ = coef.astype(np.float32)
        self.readout_mean_ = (mean_b - mean_a @ coef).astype(np.float32)

    def predict(self, X: Rows) -> Matrix:
        """Return the rows of y that belong to the rows of X, shape (n, q) or (n,).

        For "x->y" what the head makes of X; else a ridge from the shared space to y, fitted on
        training rows. Good enough to look at, not what the aligner is for.
        """
        check_is_fitted(self)
        x64 = validate_data(self, X, reset=False, dtype=np.float64)
        out = self._outputs("x", x64)
        if self._has_readout:
            unit = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
            out = unit @ self.readout_.astype(np.float64) + self.readout_mean_
        return as_columns(self, out)

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64, unit rows."""
        check_is_fitted(self)
        rows = self.check_projected(x, self.n_features_in_, "x")
        return normalize_rows(self._outputs("x", rows), what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64, unit rows."""
        check_is_fitted(self)
        rows = self.check_projected(y, self.n_targets_, "y")
        return normalize_rows(self._outputs("y", rows), what="y")

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
            module.eval()
        blocks = []
        with blas_threads(), torch.no_grad():
            for start in range(0, len(rows), BLOCK_ROWS):
                block = np.ascontiguousarray(rows[start : start + BLOCK_ROWS], dtype=np.float32)
                blocks.append(self._forward(parts, side, torch.from_numpy(block)).numpy())
        out: Matrix = np.concatenate(blocks).astype(np.float64)
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # A few epochs, a cosine as the goal, or a way back that is not what was trained.
        tags.regressor_tags.poor_score = True
        return tags


def with_precision(settings: TrainingSettings, precision: str) -> TrainingSettings:
    """Return the settings with "auto" resolved for this processor."""
    return replace(settings, precision=resolve(precision))  # type: ignore[arg-type]


def _need_torch() -> None:
    with needs_extra("A trained aligner", "train"):
        import torch  # noqa: F401
