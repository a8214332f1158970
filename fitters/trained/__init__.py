"""Aligners trained by gradient descent: baselines for the closed forms.

Importing this package, or reading a saved aligner, loads no torch; training and projecting do. From
the outside in: `mlp` (the estimators), `base` (what they share), and, with torch, `training` (the
loop) and `modules` (heads, losses, objectives).

Here are published configurations by name, `preset("sail", seed=1)`, as docs/ref/methods.md lists
them. Each is its source's configuration, from its code where that is public. Every deviation from
the source is in `Preset.differs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.errors import lookup
from fitters.errors import UnknownMethodError

if TYPE_CHECKING:
    from fitters.trained.base import TrainedAligner

SMALL_HEAD = 2000
"""The paper trains five times as long on heads of 1,000 classes as on those of 8,000 and more."""


@dataclass(frozen=True)
class Preset:
    """One published configuration.

    Attributes
    ----------
    title : str
        What tables and figures call it.
    text : str
        One line on it.
    source : str
        Where it comes from.
    differs : tuple of str
        Every way in which it is different here, whatever the size; docs/ref/methods.md lists them.
    make : str
        What makes it, a class or a function: "module:name" of this package, imported when used.
    settings : dict
        Its parameters.
    epochs : callable
        Number of prototypes → epochs.
    """

    title: str
    text: str
    source: str
    differs: tuple[str, ...]
    make: str
    settings: dict[str, Any]
    epochs: Callable[[int], int]


def _paper_epochs(n_prototypes: int) -> int:
    return 2500 if 0 < n_prototypes <= SMALL_HEAD else 500


_SAME = "classes of one name and captions of one image are no negatives"

_PAPER: dict[str, Any] = {
    "direction": "y->x",
    "feature_dropout": 0.5,
    "feature_dropout_batches": 0.3,
    "optimizer": "adam",
    "learning_rate": 5e-3,
    "schedule": "cosine-epochs",
    "batch_size": 512,
}

PRESETS: dict[str, Preset] = {
    "paper-mlp": Preset(
        "MLP of the paper",
        "the paper's two-layer head from text to image rows, trained for the cosine",
        "Mendez et al., ICML 2026 (arXiv 2605.22484), two_layer",
        (
            "texts are unit rows when scored too; in its code raw",
            "the limit between its 2,500 and 500 epochs is 2,000 prototypes",
        ),
        "mlp:MLPAligner",
        {"architecture": "paper", "loss": "cosine", "first_epochs": 500, **_PAPER},
        _paper_epochs,
    ),
    "paper-text2concepts": Preset(
        "Linear map of the paper",
        "the paper's linear head from text to image rows, trained for the squared error",
        "Mendez et al., ICML 2026 (arXiv 2605.22484), text2concepts",
        ("the limit between its 2,500 and 500 epochs is 2,000 prototypes",),
        "mlp:MLPAligner",
        {"architecture": "linear", "bias": False, "loss": "mse", **_PAPER},
        _paper_epochs,
    ),
    "sail": Preset(
        "SAIL",
        "SAIL's star heads on both sides, trained for SigLIP's loss with Lion",
        "Zhang et al., SAIL, CVPR 2025",
        (
            "the loss sums the pairs of a row; its code takes their mean",
            "the first bias goes by the batch; its code has -10",
            "a second caption is a pair, not more negatives",
            _SAME,
            "temperature and bias do not decay",
            "features are float16 only if the set is; no loss scaling",
        ),
        "mlp:MLPAligner",
        {
            "architecture": "sail",
            "direction": "both",
            "loss": "siglip",
            "n_components": 1024,
            "temperature": 0.05,
            "temperature_low": 0.01,
            "temperature_high": 1.0,
            "optimizer": "lion",
            "learning_rate": 1e-5,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup_epochs": 10.0,
            "batch_size": 32768,
        },
        lambda _: 100,
    ),
    "freeze-align": Preset(
        "FreezeAlign",
        "FreezeAlign's projectors on both sides, trained for InfoNCE",
        "Maniparambil et al., Harnessing Frozen Unimodal Encoders, CVPR 2025",
        (
            "one pooled vector an item, no projectors before the pooling",
            "the projector has no LayerNorm and no dropout in front",
            _SAME,
            "the temperature is a logarithm without decay; biases decay",
            "warm-up goes by epochs; in its code over 1,000 steps",
            "one process of batch 14,400 for eight of 1,800",
        ),
        "mlp:MLPAligner",
        {
            "architecture": "freeze_align",
            "direction": "both",
            "loss": "infonce",
            "n_components": 1024,
            "temperature": 0.07,
            "temperature_low": 0.001,
            "temperature_high": 0.5,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 0.02,
            "schedule": "cosine",
            "warmup_epochs": 10.0,
            "floor": 0.01,
            "batch_size": 14400,
        },
        lambda _: 15,
    ),
    "structure": Preset(
        "STRUCTURE",
        "linear heads with a low-rank bend, trained for InfoNCE and STRUCTURE's regulariser",
        "Gröger et al., STRUCTURE, NeurIPS 2025",
        (
            "the divergence is Jensen-Shannon's; its code swaps the arguments",
            "the gate starts at a logit of -2 and learns; in its code it is shut for good",
            "the learning rate is its fallback, 1e-3, for want of its finder",
            _SAME,
            "one cosine over the training, not one every 50 epochs",
            "one norm of both heads' gradients is clipped",
            "it stops by the held-out reciprocal rank, not loss",
            "every caption is a pair; its configuration keeps one",
            "no choice of layers: embeddings are what the store has",
        ),
        "mlp:MLPAligner",
        {
            "architecture": "residual",
            "direction": "both",
            "loss": "infonce",
            "n_components": 512,
            "width": 64,
            "dropout": 0.1,
            "temperature": 0.05,
            "learn_temperature": False,
            "structure": 10.0,
            "structure_warmup": 1000,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.95,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "batch_size": 4096,
            "clip": 1.0,
            "patience": 200,
        },
        lambda _: 1000,
    ),
    "devise": Preset(
        "DeViSE",
        "a linear map from image to text rows, trained for the margin of the right text",
        "Frome et al., DeViSE, NeurIPS 2013; no public code",
        (
            "all violating texts of the batch count, not the first alone",
            "negatives are the texts of the batch, not of the vocabulary",
            _SAME,
            "rate, batch, epochs and dropout are ours: the paper names none",
            "its first stage alone: the image model is not tuned",
        ),
        "mlp:MLPAligner",
        {
            "architecture": "linear",
            "direction": "x->y",
            "bias": False,
            "loss": "devise",
            "margin": 0.1,
            "feature_dropout": 0.5,
            "optimizer": "adagrad",
            "learning_rate": 0.01,
            "schedule": "constant",
            "batch_size": 128,
        },
        lambda _: 100,
    ),
    "icis": Preset(
        "ICIS",
        "two autoencoders with one latent space predict the head's row, bias and all, from text",
        "Christensen et al., ICIS, ICCV 2023",
        (
            "head rows go in at unit length",
            "scored by cosines, the bias a column; `head_rows` rescales",
            "the last epoch counts; its code keeps the best on test images, without --strict_eval",
            "texts of unseen classes take no part in the training",
            "texts are the store's; its prompt for CLIP is template icis",
        ),
        "mlp:ICISAligner",
        {},
        lambda _: 1000,
    ),
}
"""By name; `fitters.methods` has a method for each."""


def preset(name: str, *, n_prototypes: int = 0, **changes: Any) -> TrainedAligner:
    """Return the estimator of a published configuration.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    n_prototypes : int
        Classes of the head that it will be trained on: decides the epochs of the paper's presets.
    changes
        Parameters that are to be others, by their own names: ``epochs``, ``n_components``.

    Raises
    ------
    UnknownMethodError
        If there is no such preset.

    Examples
    --------
    >>> sail = preset("sail", epochs=5)
    >>> sail.architecture, sail.loss, sail.epochs
    ('sail', 'siglip', 5)
    """
    from pkgutil import resolve_name

    chosen = lookup(PRESETS, name, what="preset", error=UnknownMethodError)
    settings = {**chosen.settings, "epochs": chosen.epochs(n_prototypes)}
    if "epochs" in changes and "first_epochs" in settings:
        # Who asks for few epochs means either stage.
        settings["first_epochs"] = min(int(settings["first_epochs"]), int(changes["epochs"]))
    make: Callable[..., TrainedAligner] = resolve_name(f"fitters.trained.{chosen.make}")
    return make(**(settings | changes))
