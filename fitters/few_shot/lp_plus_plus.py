"""LP++: a linear probe beside the prototypes, with step sizes that need no search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from fitters.few_shot.learner import LinearClassifier, ShotLearner, Shots

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
    gram = x @ x.T if n < r else x.T @ x
    rate = 4 * n / float(np.linalg.eigvalsh(gram)[-1])
    if shots.prototypes is None:
        return np.float32(rate), np.float32(0.0)
    squares: npt.NDArray[np.float64] = ((x @ shots.prototypes.T) ** 2).sum(axis=0)
    return np.float32(rate), np.float32(n / (4 * float(squares.max())))
