"""What ``fitters fit`` is asked for, and which kind of set each option takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fitters.choice import Criterion
from fitters.errors import SettingError
from fitters.methods import TRAINING
from fitters.moments.sums import Precision
from fitters.prototypes import Duplicates
from fitters.select.ranking import Metric
from fitters.trained.progress import OnEpoch
from fitters.training_fits import TrainingOptions

#: Variants and templates of class names, unless others are asked for.
VARIANTS, TEMPLATES = ("name",), ("none", "photo")


@dataclass(frozen=True)
class FitRequest:
    """What ``fitters fit`` is asked for.

    Attributes
    ----------
    method : str
        One of `fitters.recipe.METHODS`.
    x : str
        Image set: its space is the one that is aligned, and the unlabelled images of `split`
        give the mean that images are centred by.
    y, split, n_pairs : str, str, int or None
        Caption set for real pairs, the split they come from, and how many images (all if None).
        Without `y` no real pair is used.
    head, names : str
        Head set and class-name set for prototypes; both or neither.
    source : str
        ``head``, or a control: ``random``, ``random-cov``, ``shuffled``.
    variants, templates : sequence of str
        Which class texts are averaged.
    duplicates : str
        What is done with classes that share a name; see `fitters.prototypes.DUPLICATES`.
    rows : str
        ``weights``: the head's rows; ``patterns``: Cov(f) w, with the covariance of the unlabelled
        images; ``bias``: [w, b], and [f, 1] for images.
    penalty, mix, gamma : float or "auto"
    n_components : int, "auto" or None
    rank, scale, top_k, power, legacy
        Settings of single methods; see `fitters.recipe.fit_alignment`.
    criterion : str
        How settings are chosen: ``cosine``, ``rank`` or ``error``; see
        `fitters.recipe.fit_alignment`.
    validation : str
        What cross-validation over real pairs scores by; see `fitters.recipe.fit_alignment`.
    precision : str
        Of the products, where a fit on real pairs is made from their moments.
    cached : bool
        Whether such moments may be taken from the user's cache, and are kept there.
    epochs, batch_size, learning_rate, share, sequential, patience
        Of the trained methods; see `fitters.training_fits.TrainingOptions`.
    centred : bool or None
        Whether rows are centred; None: as the method's source has it.
    seed : int
        Draws the subset of images, the folds, the control and what a training draws.
    """

    method: str
    x: str
    y: str | None = None
    split: str = "train"
    n_pairs: int | None = None
    head: str | None = None
    names: str | None = None
    source: str = "head"
    variants: Sequence[str] = VARIANTS
    templates: Sequence[str] = TEMPLATES
    duplicates: Duplicates = "keep"
    rows: Literal["weights", "patterns", "bias"] = "weights"
    penalty: float | Literal["auto"] = "auto"
    mix: float | Literal["auto"] = "auto"
    gamma: float | Literal["auto"] = "auto"
    n_components: int | Literal["auto"] | None = "auto"
    rank: int | None = None
    scale: bool = False
    top_k: int | Literal["auto"] | None = None
    power: float | Literal["auto"] | None = None
    legacy: bool = False
    criterion: Criterion = "cosine"
    validation: Metric = "mrr"
    precision: Precision = "float32"
    cached: bool = True
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    share: float | None = None
    sequential: bool = False
    patience: int | None = None
    centred: bool | None = None
    seed: int = 0

    def training(self, checkpoint: Path | None, on_epoch: OnEpoch | None) -> TrainingOptions:
        """Return the options of a training."""
        same = {name: getattr(self, name) for name in TRAINING}
        return TrainingOptions(**same, checkpoint=checkpoint, on_epoch=on_epoch)


KINDS = {"x": "image", "y": "caption", "head": "head_weight", "names": "class_name"}
"""The kind of set that each option takes."""


def check_kinds(request: FitRequest, *, raw: bool) -> None:
    """Raise SettingError if an option names a set of another kind than it takes."""
    for option, kind in KINDS.items():
        key = getattr(request, option)
        # Text-to-Concept pairs images with the same images, seen by another encoder.
        expected = "image" if raw and option == "y" else kind
        found = None if key is None else [*key.split("/"), "", ""][1]
        if found not in (None, "", expected):
            msg = (
                f"--{option} takes a set of kind {expected}, such as dataset/{expected}/encoder; "
                f"{key} is of kind {found}."
            )
            raise SettingError(msg)
