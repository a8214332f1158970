"""The paper's few-shot: a map from names to images, trained on a head, then on class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fitters.errors import SettingError
from fitters.few_shot.learner import LinearClassifier, Shots, sum_by_class, without_bias
from fitters.moments.transform import normalize_rows
from fitters.pairs import Pairs
from fitters.trained.base import ArrayRows
from fitters.trained.presets import preset


@dataclass(kw_only=True)
class PaperFewShot:
    """Classify by class names, through a map that learns from a head and from the shots.

    Mendez et al., Supervised Classification Heads as Semantic Prototypes, ICML 2026. The preset
    ``paper-mlp`` maps name texts into the space of the shots: first it is trained on the rows of a
    head with the names of their classes, then, with a fresh optimiser and the whole schedule again,
    on one pair a class, the mean of the raw embeddings of its shots with its name. The classifier
    is the cosine with the mapped names, or with other texts of the classes, where there are some:
    the paper trains on plain names and tests on a prompt. Everything is at unit length; nothing is
    centred or chosen, and validation rows have no effect. Without shots only the first stage is
    trained, as long as a head by itself is.

    Needs torch, texts and a head (`Shots.texts`, `Shots.scored_texts`, `Shots.head`); prototypes
    are not looked at.

    Parameters
    ----------
    epochs : int, optional
        Of each stage; None: the preset's, 500 on the head, then 2,500 on the shots for heads of
        up to 2,000 classes, else 500.
    learning_rate : float, optional
        Of each stage; None: the preset's.
    seed : int
    """

    #: What a run has to hand over beside shots.
    needs: ClassVar[tuple[str, ...]] = ("texts", "head")

    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0

    def fit(self, shots: Shots) -> LinearClassifier:
        """Train both stages, and map the names of the classes.

        Raises
        ------
        SettingError
            If there are no texts or no head.
        MissingPackageError
            If torch is not installed.
        """
        if shots.texts is None or shots.head is None:
            lacking = "texts of the classes" if shots.texts is None else "head with its names"
            raise SettingError(
                f"paper-few-shot maps names into the space of images, and got no {lacking}. "
                "Name the sets in the run: names, head and head-names."
            )
        texts = _unit(shots.texts, "texts of classes")
        head = ArrayRows.of(
            Pairs(_unit(shots.head.x, "head rows"), _unit(shots.head.y, "names of the head"))
        )
        real = None
        if len(shots.labels):
            having = shots.counts > 0
            means = _unit(_raw_sums(shots)[having], "class means")
            real = ArrayRows.of(Pairs(means, texts[having]), first_group=head.n)
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        changes: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        aligner = preset(
            "paper-mlp", n_prototypes=head.n, seed=self.seed, sequential=real is not None, **changes
        )
        aligner.fit_rows(head, real)
        scored = texts
        if shots.scored_texts is not None:
            scored = _unit(shots.scored_texts, "texts of classes")
        return without_bias(aligner.project_y(scored), {"epoch": float(aligner.epochs_)})


def _raw_sums(shots: Shots) -> npt.NDArray[np.float64]:
    """Return the sums of raw rows of every class, shape (c, r): what is a mean but for length."""
    rows = shots.x.astype(np.float64)
    if shots.lengths is not None:
        rows = rows * shots.lengths[:, None]
    return sum_by_class(rows, shots.labels, shots.n_classes)


def _unit(rows: npt.NDArray[np.floating], what: str) -> npt.NDArray[np.float32]:
    return normalize_rows(rows, what=what).astype(np.float32)
