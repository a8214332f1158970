"""Learners that go downhill from the prototypes, in steps.

- CLAP and ZS-LP train prototypes on the shots, held near where they started, or not.
- Of cross-modal adaptation prototypes are shots too, half of every batch.
- LP++ is a linear probe beside the prototypes, with step sizes that need no search.
- The paper's few-shot is a map from names to images, trained on a head, then on class means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from featstore.errors import needs_extra
from fitters.errors import SettingError
from fitters.few_shot.learner import (
    LinearClassifier,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    scale_of,
    starting_weights,
    sum_by_class,
    without_bias,
)
from fitters.pairs import Pairs
from fitters.sources import normalize_rows
from fitters.trained import preset

#: Step of the first epoch.
FIRST_EPOCH_RATE = 1e-5


@dataclass(kw_only=True)
class CLAP(ShotLearner):
    """Cosine classifier that starts from the prototypes and pays for leaving them.

        loss = cross-entropy of softmax(scale · x · p_c / ‖p_c‖) + mean over c of λ_c ‖p_c − t_c‖²

    λ_c is the mean probability that the starting prototypes t give class c's shots for c, so that
    prototypes that are good already are held. Silva-Rodríguez et al., CLAP, CVPR 2024, with
    penalty "l2" and fixed λ. `penalty=False` is its ZS-LP: the same without the second term.

    SGD with momentum 0.9, the first epoch at 1e-5, then from `learning_rate` as a cosine to 0. An
    epoch is max(1, n // batch) batches from a shuffle of all views of the n shots, as in the
    original, so that views make no epoch longer. Nothing is chosen on validation rows but, with the
    shots, the scale; the last epoch counts.

    Without prototypes it starts from class means. A class without a shot has λ = 1. With no shot
    it is the prototypes.

    Parameters
    ----------
    penalty : bool
    scale : float or "auto"
        See `fitters.few_shot.learner.scale_of`.
    length : float
        ‖t_c‖. The original leaves CLIP's texts at their raw length, and a step of a longer row
        turns it less and costs more; prototypes here are of length 1, and are scaled.
    epochs, batch_size : int
    learning_rate : float
    seed : int
        Of the order of the rows.
    """

    penalty: bool = True
    scale: Scale = "auto"
    length: float = 10.0
    epochs: int = 300
    learning_rate: float = 0.1
    batch_size: int = 256
    seed: int = 0

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Train the prototypes."""
        start = starting_weights(shots)
        scale = scale_of(shots, start, self.scale)
        x, labels = shots.unit_views
        anchors = (self.length * start).astype(np.float32)
        pull = held_by(shots, start, scale) if self.penalty else np.zeros(shots.n_classes, "f4")
        rows, speed = anchors.copy(), np.zeros_like(anchors)
        steps = max(1, len(shots.labels) // self.batch_size)
        rng = np.random.default_rng(self.seed)
        for epoch in range(self.epochs):
            rate = np.float32(self._rate(epoch))
            order = rng.permutation(len(x))
            for step in range(steps):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                slope = _slope(rows, x[batch], labels[batch], scale)
                slope += (2 / shots.n_classes) * pull[:, None] * (rows - anchors)
                speed = 0.9 * speed + slope
                rows = rows - rate * speed
        weight = np.float32(scale) * normalize_rows(rows, what="trained prototypes")
        return without_bias(weight, {"scale": scale})

    def _rate(self, epoch: int) -> float:
        if epoch == 0:
            return FIRST_EPOCH_RATE
        return float(self.learning_rate * 0.5 * (1 + np.cos(np.pi * (epoch - 1) / self.epochs)))


def held_by(shots: Shots, start: Rows, scale: float) -> npt.NDArray[np.float32]:
    """Return λ: the mean softmax probability of the own class over a class's views, shape (c,)."""
    x, labels = shots.unit_views
    likely = softmax(np.float32(scale) * (x @ start.T), axis=1)[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=shots.n_classes)
    sums = np.bincount(labels, weights=likely, minlength=shots.n_classes)
    means: npt.NDArray[np.float64] = np.divide(
        sums, counts, out=np.ones(shots.n_classes), where=counts > 0
    )
    return means.astype(np.float32)


def _slope(
    rows: Rows, x: Rows, labels: npt.NDArray[np.int64], scale: float
) -> npt.NDArray[np.float32]:
    """Return the gradient of the mean cross-entropy in the prototypes, shape (c, r)."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / lengths
    error = softmax(np.float32(scale) * (x @ unit.T), axis=1)
    error[np.arange(len(labels)), labels] -= 1
    of_unit = np.float32(scale / len(labels)) * (error.T @ x)
    # A unit row only turns: what points along it has no effect.
    along = np.einsum("cr,cr->c", of_unit, unit)[:, None] * unit
    return (of_unit - along) / lengths


@dataclass(kw_only=True)
class ZSLP(CLAP):
    """ZS-LP: a linear probe that starts from the prototypes; `CLAP` without its penalty."""

    penalty: bool = field(default=False, init=False)


#: Steps between two evaluations on the validation rows, and steps in which the rate rises.
EVERY, WARM_UP = 100, 50

#: Learning rate at the start of the warm-up.
FIRST_RATE = 1e-5


@dataclass(kw_only=True)
class CrossModal(ShotLearner):
    """Linear probe on shots and prototypes alike, which starts from the prototypes.

        scores = scale · x Wᵀ

    Lin et al., Multimodality Helps Unimodality, CVPR 2023, linear head. Every batch is half shots
    (of their views, where there are any), half prototypes, each a row of its class; AdamW, the rate
    rising for 50 steps from 1e-5 and falling as a cosine. Every 100 steps, the start included, the
    mean reciprocal rank on the validation rows is taken; the best weights of all learning rates are
    kept, of equal ones the last of the rate that is listed first: few rows are soon all right, and
    do not speak for the start. Without validation rows the last step of the first rate.

    The original has several texts a class, here it is one, their mean; it makes 12,800 steps, with
    batches of 8 and of 32 and decays 0, 1e-4 and 0.01. Needs prototypes, and torch. With no shot it
    is the prototypes.

    Parameters
    ----------
    scale : float or "auto"
        The original has 100, CLIP's; "auto" is `fitters.few_shot.learner.scale_of`.
    learning_rates : sequence of float
    weight_decay : float
    steps, batch_size : int
    seed : int
        Of the order of rows.
    """

    scale: Scale = "auto"
    learning_rates: Sequence[float] = (1e-3, 1e-4)
    weight_decay: float = 0.01
    steps: int = 1600
    batch_size: int = 32
    seed: int = 0

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Train with every rate, and keep the best weights; SettingError without prototypes."""
        if shots.prototypes is None:
            raise SettingError(
                "cross-modal takes the prototypes as shots, and there are none. Give some (of a "
                "run: prototypes=names or head), or take logistic-probe."
            )
        scale = scale_of(shots, shots.prototypes, self.scale)
        weight, step = shots.prototypes, 0
        best = shots.value(without_bias(weight).scores)
        rates = self.learning_rates if shots.has_validation else self.learning_rates[:1]
        for rate in reversed(rates):
            for at, rows in self._train(shots, scale, rate):
                value = shots.value(without_bias(rows).scores)
                if value >= best:
                    best, weight, step = value, rows, at
        return without_bias(np.float32(scale) * weight, {"scale": scale, "epoch": float(step)})

    def _train(self, shots: Shots, scale: float, rate: float) -> list[tuple[int, Rows]]:
        """Return (step, weights) after every `EVERY` steps and the last."""
        with needs_extra("The learner cross-modal", "train"):
            import torch
        from fitters.trained.base import blas_threads

        assert shots.prototypes is not None
        x, labels = shots.unit_views
        rng = np.random.default_rng(self.seed)
        half = max(1, self.batch_size // 2)
        images = _endless(len(x), half, self.steps, rng)
        texts = _endless(shots.n_classes, half, self.steps, rng)
        found: list[tuple[int, Rows]] = []
        with blas_threads():
            rows = torch.from_numpy(np.concatenate([x, shots.prototypes]))
            target = torch.from_numpy(np.concatenate([labels, np.arange(shots.n_classes)]))
            weight = torch.from_numpy(shots.prototypes.copy()).requires_grad_()
            # foreach=False: a third of the time on a CPU, where there is one parameter.
            optimiser = torch.optim.AdamW(
                [weight], lr=rate, weight_decay=self.weight_decay, foreach=False
            )
            for step in range(self.steps):
                optimiser.param_groups[0]["lr"] = self._rate(step, rate)
                batch = torch.from_numpy(np.concatenate([images[step], len(x) + texts[step]]))
                logits = scale * (rows[batch] @ weight.T)
                loss = torch.nn.functional.cross_entropy(logits, target[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if (step + 1) % EVERY == 0 or step + 1 == self.steps:
                    found.append((step + 1, weight.detach().numpy().copy()))
        return found

    def _rate(self, step: int, rate: float) -> float:
        if step < WARM_UP:
            return FIRST_RATE + (rate - FIRST_RATE) * step / WARM_UP
        return float(0.5 * rate * (1 + np.cos(np.pi * (step - WARM_UP) / self.steps)))


def _endless(
    n: int, size: int, steps: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Return `steps` batches of at most `size` of n rows, from one shuffle after another."""
    size = min(size, n)
    a_pass = n // size
    passes = [rng.permutation(n)[: a_pass * size] for _ in range(-(-steps // a_pass))]
    return list(np.concatenate(passes).reshape(-1, size)[:steps])


#: The factor before the mean cosine of a class's shots and its prototype, for the first α.
FIRST_ALPHA = 250.0

#: Epochs between two steps of α.
ALPHA_EVERY = 10


@dataclass(kw_only=True)
class LPPlusPlus(ShotLearner):
    """Linear probe with a learned weight of every class's prototype.

        scores of class c = x · w_c + b_c + α_c (x · t_c)

    Huang et al., LP++, CVPR 2024. Trained for the cross-entropy on all n shots F at once, by
    momentum 0.9 for W and b with the step 4n / λmax(FᵀF), and every tenth epoch one step for α of
    n / (4 max_c Σᵢ (fᵢ · t_c)²). W starts as the sums of the classes' shots, b as 0 (the original
    draws it), every α as the mean over the classes of 250 · the mean cosine of a class's shots and
    its prototype. The epoch with the best mean reciprocal rank on the validation rows is kept, of
    equal ones the last; without validation rows the last of all. No scale of logits is assumed: α
    and W find it.

    Without prototypes the last term is missing. With no shot it is the prototypes.

    Parameters
    ----------
    epochs : int
    """

    epochs: int = 300

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Descend, and keep the best epoch."""
        x, n = shots.x, len(shots.labels)
        texts = shots.prototypes
        of_text = None if texts is None else x @ texts.T
        weight = shots.class_sums.astype(np.float32)
        bias = np.zeros(shots.n_classes, dtype=np.float32)
        alpha = np.full(shots.n_classes, first_alpha(shots), dtype=np.float32)
        rate, alpha_rate = step_sizes(shots)
        speed, bias_speed = np.zeros_like(weight), np.zeros_like(bias)
        own = (np.arange(n), shots.labels)
        best, chosen = -1.0, None
        for epoch in range(1, self.epochs + 1):
            logits = x @ weight.T + bias
            if of_text is not None:
                logits += alpha * of_text
            slope = softmax(logits, axis=1)
            slope[own] -= 1
            slope /= n
            speed = 0.9 * speed + slope.T @ x
            bias_speed = 0.9 * bias_speed + slope.sum(axis=0)
            weight = weight - rate * speed
            bias = bias - rate * bias_speed
            if of_text is not None:
                pull = np.einsum("nc,nc->c", slope, of_text)
                if epoch % ALPHA_EVERY == 0:
                    alpha = alpha - alpha_rate * pull
            whole = weight if texts is None else weight + alpha[:, None] * texts
            facts = {"epoch": float(epoch)}
            if texts is not None:
                facts["alpha"] = float(alpha.mean())
            made = LinearClassifier(whole, bias, facts)
            value = shots.value(made.scores)
            if value >= best:
                best, chosen = value, made
        assert chosen is not None
        return chosen


def first_alpha(shots: Shots) -> float:
    """Return the α that every class starts with; 0 without prototypes."""
    if shots.prototypes is None:
        return 0.0
    own = np.einsum("cr,cr->c", shots.class_sums, shots.prototypes.astype(np.float64))
    having = shots.counts > 0
    return FIRST_ALPHA * float(np.mean(own[having] / shots.counts[having]))


def step_sizes(shots: Shots) -> tuple[np.float32, np.float32]:
    """Return the steps of W and α, from bounds on the curvature of the loss in each."""
    x = shots.x.astype(np.float64)
    n, r = x.shape
    rate = 4 * n / float(np.linalg.eigvalsh(x @ x.T if n < r else x.T @ x)[-1])
    if shots.prototypes is None:
        return np.float32(rate), np.float32(0.0)
    squares: npt.NDArray[np.float64] = ((x @ shots.prototypes.T) ** 2).sum(axis=0)
    return np.float32(rate), np.float32(n / (4 * float(squares.max())))


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
        head = Pairs(_unit(shots.head.x, "head rows"), _unit(shots.head.y, "names of the head"))
        real = None
        if len(shots.labels):
            having = shots.counts > 0
            real = Pairs(_unit(_raw_sums(shots)[having], "class means"), texts[having])
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
