"""From rows that a training goes through to an alignment: the trained part of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fitters.alignment import Alignment
from fitters.errors import SettingError
from fitters.methods import TRAINING, method_named
from fitters.moments.transform import SideTransform
from fitters.trained.precision import Precision, resolve
from fitters.trained.presets import preset
from fitters.trained.progress import OnEpoch

if TYPE_CHECKING:
    from fitters.trained.batches import PairSource


@dataclass(frozen=True)
class TrainingOptions:
    """What may be asked of a trained method; None leaves the preset's own.

    Attributes
    ----------
    epochs, batch_size : int, optional
    learning_rate : float, optional
    share : float, optional
        Share of prototypes in every batch; None concatenates both sources, as in the paper.
    sequential : bool
        Prototypes first, then real pairs alone.
    patience : int, optional
        Epochs without a better held-out mean reciprocal rank before it stops.
    precision : {"auto", "float32", "bf16"}, optional
        See `fitters.MLPAligner`.
    checkpoint : Path, optional
        File that the state is kept in; see `TrainedAligner.fit`.
    on_epoch : callable, optional
        Is given an `EpochDone` after each epoch.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    share: float | None = None
    sequential: bool = False
    patience: int | None = None
    precision: Precision | None = None
    checkpoint: Path | None = None
    on_epoch: OnEpoch | None = None


@dataclass(frozen=True, eq=False)
class TrainingSources:
    """Transformed rows of both sources, and the transforms of rows to come.

    Attributes
    ----------
    prototypes, real : PairSource or None
    image, text : SideTransform
    image_centre, text_centre : str
        Whose mean each side is centred by.
    """

    prototypes: PairSource | None
    real: PairSource | None
    image: SideTransform
    text: SideTransform
    image_centre: str
    text_centre: str


def fit_trained(
    method: str,
    sources: TrainingSources,
    options: TrainingOptions,
    *,
    legacy: bool = False,
    rng: np.random.Generator,
) -> Alignment:
    """Train a preset on rows and return the alignment.

    Parameters
    ----------
    method : str
        One of `fitters.methods.METHODS` that is trained.
    rng : numpy.random.Generator
        Draws the seed.

    Raises
    ------
    SettingError
        If a setting is out of range, or asks for two sources where there is one.
    """
    spec = method_named(method)
    prototypes, real = sources.prototypes, sources.real
    if (options.sequential or options.share is not None) and (prototypes is None or real is None):
        msg = "Mixing by share and sequential training need prototypes and real pairs. Give both."
        raise SettingError(msg)
    if options.sequential and options.share is not None:
        msg = "A share of each batch and sequential training exclude each other. Take one."
        raise SettingError(msg)
    if legacy and "legacy" not in spec.options:
        legacy = False
    asked = {name: getattr(options, name) for name in TRAINING}
    asked["precision"] = options.precision
    changes = {name: value for name, value in asked.items() if value not in (None, False)}
    n_prototypes = 0 if prototypes is None else prototypes.n
    n_real = 0 if real is None else real.n
    seed = int(rng.integers(2**31))
    aligner = preset(method, legacy=legacy, n_prototypes=n_prototypes, seed=seed, **changes)
    try:
        aligner._validate_params()
    except ValueError as err:
        raise SettingError(str(err)) from err
    aligner.fit_rows(prototypes, real, checkpoint=options.checkpoint, on_epoch=options.on_epoch)
    told = aligner.history_
    choice: dict[str, Any] = {name: getattr(aligner, name) for name in TRAINING}
    if "legacy" in spec.options:
        choice["legacy"] = legacy
    facts = {
        "method": method,
        "n_prototypes": n_prototypes,
        "n_real": n_real,
        "image_centre": sources.image_centre,
        "text_centre": sources.text_centre,
        "choice": choice,
        "training": {
            "epochs": len(told),
            "precision": resolve(aligner.precision),  # type: ignore[arg-type]
            "loss": [epoch["loss"] for epoch in told],
            "metric": [epoch["metric"] for epoch in told if epoch["metric"] is not None],
        },
    }
    text = sources.text
    if legacy and spec.legacy_texts:
        text = SideTransform.identity("texts")
    return Alignment(sources.image, text, aligner, facts)
