"""Tip-Adapter, Tip-Adapter-F, and APE, which looks at some columns only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from featstore.errors import needs_extra
from fitters.few_shot.learner import (
    PUBLISHED,
    Classifier,
    Labels,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    evenly,
    log_losses,
    own_scale,
    reciprocal_rank,
    scale_of,
    starting_weights,
    sum_by_class,
)
from fitters.sources import normalize_rows

#: Candidate weights of the cache beside the prototypes, and rates at which shots lose influence.
ALPHAS = (0.0, *(float(10.0**power) for power in np.arange(-1.0, 2.75, 0.25)))
BETAS = tuple(float(2.0**power) for power in np.arange(-1.0, 5.5, 0.5))

#: The original's first values for ImageNet, taken where there are no validation rows.
ALPHA, BETA = 1.17, 1.0

# Cosines with keys that are held at once.
_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class Cache:
    """Shots as keys, the class of each as its value.

    A key counts for mean / own number of keys of a class: 1 where all classes have equally many,
    as in the original, whose sums would else go to the classes of most shots.

    Attributes
    ----------
    keys : array of shape (n, r)
    labels : int64 array of shape (n,)
    n_classes : int
    weights : array of shape (n,), optional
        What each key counts for beside; None: 1.
    """

    keys: Rows
    labels: Labels
    n_classes: int
    weights: npt.NDArray[np.float32] | None = None

    @property
    def mass(self) -> npt.NDArray[np.float32]:
        """What a key of each class counts for, shape (c,); 0 for a class that has none."""
        counts = np.bincount(self.labels, minlength=self.n_classes)
        mean = len(self.labels) / np.count_nonzero(counts)
        mass = np.divide(mean, counts, out=np.zeros(self.n_classes), where=counts > 0)
        return mass.astype(np.float32)

    def logits(self, x: Rows, beta: float) -> npt.NDArray[np.float32]:
        """Return mass · Σ over the keys of a class of exp(−β (1 − x · key)), shape (m, c)."""
        return next(iter(self.paths(x, (beta,))))

    def paths(self, x: Rows, betas: Sequence[float]) -> list[npt.NDArray[np.float32]]:
        """Return the logits for every β: the cosines (m, n) are computed once."""
        counted = self.mass[self.labels]
        if self.weights is not None:
            counted *= self.weights
        places = self.labels, np.arange(len(self.labels))
        values = csr_array((counted, places), shape=(self.n_classes, len(self.labels)))
        found = [np.empty((len(x), self.n_classes), dtype=np.float32) for _ in betas]
        size = max(1, _BLOCK // max(1, len(self.labels)))
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            # Keys are rows: their classes are then sums of rows, which lie together.
            gap = np.subtract(self.keys @ x[block].T, np.float32(1.0), order="C")
            near = np.empty_like(gap)
            for logits, beta in zip(found, betas, strict=True):
                np.exp(np.multiply(gap, np.float32(beta), out=near), out=near)
                logits[block] = (values @ near).T
        return found

    def left_out(
        self, held: Labels, x: Rows, betas: Sequence[float]
    ) -> list[npt.NDArray[np.float32]]:
        """Return the logits (m, c) of keys `held`, whose rows are x, each by a cache without it.

        Their classes have two keys or more, so that as many classes share the mass.
        """
        own, rows = self.labels[held], np.arange(len(held))
        counts = np.bincount(self.labels, minlength=self.n_classes)[own]
        itself = self.mass[own] * (1.0 if self.weights is None else self.weights[held])
        found = self.paths(x, betas)
        for logits in found:
            logits[rows, own] -= itself
            logits[rows, own] *= counts / (counts - 1)
            logits *= np.float32(1.0 - 1.0 / len(self.labels))
        return found


@dataclass(frozen=True, eq=False)
class TipClassifier:
    """Scores scale · x Tᵀ + α · cache(x); without prototypes T the cache alone.

    Attributes
    ----------
    cache : Cache
    prototypes : array of shape (c, r) or None
    scale, alpha, beta : float
    epoch : int, optional
        Of the training of the keys.
    columns : int64 array, optional
        Those that the cache looks at, the rest of a row at unit length; None: all.
    chosen : mapping
        Further facts.
    """

    cache: Cache
    prototypes: Rows | None
    scale: float
    alpha: float
    beta: float
    epoch: int | None = None
    columns: Labels | None = None
    chosen: Mapping[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, float]:
        """What was chosen, by name."""
        mixed = {} if self.prototypes is None else {"alpha": self.alpha, "scale": self.scale}
        trained = {} if self.epoch is None else {"epoch": float(self.epoch)}
        return {"beta": self.beta, **mixed, **trained, **self.chosen}

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        cached = self.cache.logits(
            x if self.columns is None else _narrow(x, self.columns), self.beta
        )
        if self.prototypes is None:
            return cached
        scores: npt.NDArray[np.float32] = np.float32(self.scale) * (x @ self.prototypes.T)
        scores += np.float32(self.alpha) * cached
        return scores


@dataclass(kw_only=True)
class TipAdapter(ShotLearner):
    """Zero-shot scores plus those of the shots that are near.

        scores = scale · x Tᵀ + α · exp(−β (1 − x Kᵀ)) L

    with prototypes T, keys K (the mean of each shot's augmented views at unit length, or the shot
    where there are no views) and their one-hot labels L, times `Cache.mass` where classes have
    unequally many. Zhang et al., Tip-Adapter, ECCV 2022.

    α and β are the pair with the best mean reciprocal rank on the validation rows, of equal ones
    the α nearest `ALPHA`, then the β nearest `BETA` in their ratio; these two without validation
    rows. Without prototypes only β plays a part. With no shot it is the prototypes.

    Parameters
    ----------
    scale : float or "auto"
        The original writes 100, CLIP's. "auto" is `fitters.few_shot.learner.scale_of`.
    alphas, betas : sequence of float
        Tried. The original's steps are linear, in ranges that it sets for every dataset.
    """

    scale: Scale = "auto"
    alphas: Sequence[float] = ALPHAS
    betas: Sequence[float] = BETAS

    def _learn(self, shots: Shots) -> Classifier:
        """Fill the cache, and choose α and β."""
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        return TipClassifier(cache, shots.prototypes, scale, *self.choose(shots, cache, scale))

    def choose(self, shots: Shots, cache: Cache, scale: float) -> tuple[float, float]:
        """Return α and β by the validation rows."""
        if not shots.has_validation:
            return ALPHA, BETA
        x, labels = shots.validation
        weights: Sequence[float] = (1.0,)
        first = np.zeros((len(x), shots.n_classes), dtype=np.float32)
        if shots.prototypes is not None:
            weights = self.alphas
            first = np.float32(scale) * (x @ shots.prototypes.T)
        values = [
            (
                reciprocal_rank(first + np.float32(alpha) * cached, labels),
                -_far(alpha, ALPHA), -_far(beta, BETA), -alpha, -beta,
            )
            for beta, cached in zip(self.betas, cache.paths(x, self.betas), strict=True)
            for alpha in weights
        ]  # fmt: skip
        *_, alpha, beta = max(values)
        return -alpha, -beta


def _far(value: float, published: float) -> float:
    """Return how far a value is from the published one, as the logarithm of their ratio."""
    return float(abs(np.log(value / published))) if value > 0 else float("inf")


#: APE's candidates: shares of the columns, and coarser grids of Tip-Adapter's α and β.
_COLUMNS = (0.25, 0.5, 1.0)
_APE_ALPHAS, _APE_BETAS = (*ALPHAS[:1], *ALPHAS[1::2]), BETAS[1::2]

#: The original's values, of its share about the half and α the middle of its range.
_APE = (0.5, 2.0, 1.0)


@dataclass(kw_only=True)
class APE(ShotLearner):
    """Tip-Adapter on the columns that part the classes, with keys weighed by what they add.

        scores = scale · x Tᵀ + α · exp(−β (1 − x′ K′ᵀ)) diag(exp(γ KL)) L

    with primes for the Q chosen columns at unit length, and KL_i that of the label of key i from
    the softmax of its cosines with the prototypes: a key that zero-shot gets wrong counts for more.
    Zhu et al., Not All Features Matter, ICCV 2023 (the training-free form).

    Q, α and β are those with the least log-loss on shots that are left out of the cache one at a
    time; which columns the Q first are, and KL, are of all shots. Without a class of two shots half
    the columns, α 2 and β 1 are taken. No validation row is looked at. Without prototypes all keys
    count alike and only Q and β play a part. With no shot it is the prototypes.

    Parameters
    ----------
    scale : float or "auto"
        "auto" is `fitters.few_shot.learner.own_scale`.
    shares : sequence of float
        Tried: Q as a share of the columns.
    alphas, betas : sequence of float
        Tried.
    gamma : float
    temperature : float
        Of the softmax in KL, before cosines; the original has 1, so that it is nearly uniform.
    """

    scale: Scale = "auto"
    shares: Sequence[float] = _COLUMNS
    alphas: Sequence[float] = _APE_ALPHAS
    betas: Sequence[float] = _APE_BETAS
    gamma: float = 0.1
    temperature: float = 1.0

    def _learn(self, shots: Shots) -> TipClassifier:
        """Order the columns, and choose how many, α and β."""
        keys, labels, texts = shots.mean_views, shots.labels, shots.prototypes
        scale = PUBLISHED if texts is None else own_scale(shots, self.scale)
        order = np.argsort(-column_values(shots), kind="stable")
        held = np.flatnonzero(shots.counts[labels] > 1)
        held = held[evenly(len(held), shots.n_classes)]
        tried: list[tuple[float, int, TipClassifier]] = []
        for share in self.shares if len(held) else _APE[:1]:
            columns = np.sort(order[: max(1, round(share * len(order)))])
            narrow = _narrow(keys, columns)
            weights = None
            if texts is not None and self.gamma != 0.0:
                cosines = self.temperature * (narrow @ _narrow(texts, columns).T)
                own = np.exp(-log_losses(cosines, labels).astype(np.float64))
                # Σ_c y_c log₂((y_c + ε) / (p_c + ε)) of every row, p the softmax; ε 1e-6.
                surprise = np.log2((1.0 + 1e-6) / (own + 1e-6))
                weights = np.exp(self.gamma * surprise).astype(np.float32)
            cache = Cache(narrow, labels, shots.n_classes, weights)
            made = TipClassifier(cache, texts, scale, *_APE[1:], columns=columns)
            found = self._tried(made, shots, held) if len(held) else [(0.0, made)]
            tried += [(loss, len(columns), one) for loss, one in found]
        _, n_columns, best = min(tried, key=lambda one: one[0])
        return replace(best, chosen={"columns": float(n_columns), "folds": float(len(held))})

    def _tried(
        self, made: TipClassifier, shots: Shots, held: Labels
    ) -> list[tuple[float, TipClassifier]]:
        """Return the log-loss of the held shots for every α and β of one cache."""
        cache, own = made.cache, shots.labels[held]
        first: Rows | float = 0.0
        alphas: Sequence[float] = (made.scale,)
        if made.prototypes is not None:
            first = made.scale * (shots.mean_views[held] @ made.prototypes.T)
            alphas = self.alphas
        paths = cache.left_out(held, cache.keys[held], self.betas)
        return [
            (
                round(float(log_losses(first + np.float32(alpha) * logits, own).mean()), 6),
                replace(made, alpha=alpha, beta=beta),
            )
            for beta, logits in zip(self.betas, paths, strict=True)
            for alpha in alphas
        ]


def column_values(shots: Shots, weight: float = 0.7) -> npt.NDArray[np.float64]:
    """Return APE's value of every column, shape (r,): high where classes differ.

    −weight · S + (1 − weight) · V, with S the mean of x_a x_b over all pairs of rows of different
    classes, prototypes and shots, and V the variance of the prototypes. From class sums alone::

        S = ((Σ_c u_c)² − Σ_c u_c²) / (M² − Σ_c m_c²)

    with u_c the sum and m_c the number of the rows of a class, M of all.
    """
    sums = sum_by_class(shots.mean_views, shots.labels, shots.n_classes)
    counts, varies = shots.counts.astype(np.float64), np.zeros(sums.shape[1])
    if shots.prototypes is not None:
        sums, counts = sums + shots.prototypes, counts + 1
        if shots.n_classes > 1:
            varies = shots.prototypes.astype(np.float64).var(axis=0, ddof=1)
    pairs = counts.sum() ** 2 - np.sum(counts**2)
    shared = (sums.sum(axis=0) ** 2 - np.sum(sums**2, axis=0)) / max(pairs, 1.0)
    return (1.0 - weight) * varies - weight * shared


def _narrow(rows: Rows, columns: Labels) -> Rows:
    """Return these columns of unit rows at unit length; all of them as they are."""
    if len(columns) == rows.shape[1]:
        return rows
    return normalize_rows(rows[:, columns], what="columns of rows").astype(np.float32)


@dataclass(kw_only=True)
class TipAdapterF(ShotLearner):
    """Tip-Adapter whose keys learn; prototypes and labels stay.

    Starts from Tip-Adapter's keys and trains them, with α and β at `ALPHA` and `BETA`, for the
    cross-entropy of the shots: AdamW (decay 0.01, ε 1e-4), the rate falling as a cosine by step. An
    epoch sees every shot once, as its view number (epoch mod v) where there are views. The epoch
    with the best mean reciprocal rank on the validation rows is kept, of equal ones the first, the
    untrained keys included; without validation rows the last. Then α and β are chosen as by
    `TipAdapter`. Zhang et al., Tip-Adapter, ECCV 2022; the original keeps the epoch that is best on
    test rows, and sets the α that it trains with for every dataset.

    Without prototypes the scale stands before the cache in training, so that the softmax has
    something to be sharp by. With no shot it is the prototypes. Needs torch.

    Parameters
    ----------
    scale : float or "auto"
        See `TipAdapter`.
    epochs, batch_size : int
    learning_rate : float
    seed : int
        Of the order of the shots.
    """

    scale: Scale = "auto"
    epochs: int = 20
    learning_rate: float = 1e-3
    batch_size: int = 256
    seed: int = 0

    def _learn(self, shots: Shots) -> Classifier:
        """Train the keys, and choose epoch, α and β."""
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        trained, epoch = self._train(shots, cache, scale)
        chosen = TipAdapter().choose(shots, trained, scale)
        return TipClassifier(trained, shots.prototypes, scale, *chosen, epoch)

    def _train(self, shots: Shots, cache: Cache, scale: float) -> tuple[Cache, int]:
        """Return the cache of the best epoch, and its number; 0 is the untrained one."""
        with needs_extra("The learner tip-adapter-f", "train"):
            import torch
        from fitters.trained.base import blas_threads

        by_prototypes = shots.prototypes is not None
        weight = ALPHA if by_prototypes else scale
        x = _by_view(shots)
        labels = torch.from_numpy(shots.labels)
        one_hot = torch.nn.functional.one_hot(labels, shots.n_classes)
        values = one_hot * torch.from_numpy(cache.mass)
        rng = np.random.default_rng(self.seed)

        def value(made: Cache) -> float:
            return shots.value(TipClassifier(made, shots.prototypes, scale, ALPHA, BETA).scores)

        best = (value(cache), 0, cache)
        with blas_threads():
            prototypes = torch.from_numpy(shots.prototypes) if by_prototypes else None
            keys = torch.from_numpy(cache.keys.copy()).requires_grad_()
            optimiser = torch.optim.AdamW([keys], lr=self.learning_rate, eps=1e-4, foreach=False)
            steps = self.epochs * -(-len(shots.labels) // self.batch_size)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for epoch in range(1, self.epochs + 1):
                order = rng.permutation(len(shots.labels))
                for start in range(0, len(order), self.batch_size):
                    batch = torch.from_numpy(order[start : start + self.batch_size])
                    rows = torch.from_numpy(x[(epoch - 1) % len(x)])[batch]
                    logits = weight * (torch.exp(BETA * (rows @ keys.T - 1)) @ values)
                    if prototypes is not None:
                        logits = logits + scale * (rows @ prototypes.T)
                    loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
                made = Cache(keys.detach().numpy().copy(), shots.labels, shots.n_classes)
                reached = value(made)
                if reached > best[0] or not shots.has_validation:
                    best = (reached, epoch, made)
        return best[2], best[1]


def _by_view(shots: Shots) -> Rows:
    """Return unit rows to train on, shape (v, n, r): every view, or the shots themselves."""
    if shots.views is None:
        return shots.x[None]
    rows, _ = shots.unit_views
    return np.ascontiguousarray(rows.reshape(shots.views.shape).swapaxes(0, 1))
