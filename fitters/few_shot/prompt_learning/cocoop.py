"""`CoCoOp`: a context that a small network shifts for every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fitters.few_shot.learner import Classifier, Rows, Shots
from fitters.few_shot.linear_classifier import without_bias
from fitters.few_shot.prompt_learning.coop import (
    check_shots,
    first_context,
    shown_rows,
    text_rows,
)
from fitters.few_shot.prompt_learning.descent import Descent, descend
from fitters.few_shot.prompt_learning.prompts import Prompts, make_prompts
from fitters.few_shot.prompt_learning.tower import TextTower
from fitters.trained.precision import blas_threads

#: Image columns to one hidden unit of the network.
SHRINKING = 16

#: Prompts that are encoded at once when images are scored.
BLOCK = 512


@dataclass(frozen=True, eq=False)
class MetaNet:
    """W₂ relu(W₁ x + b₁) + b₂: a shift of every context vector from an image of r columns.

    Attributes
    ----------
    tensors : tuple of four tensors
        (h, r), (h,), (w, h), (w,), with h = r / 16.
    """

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def drawn(
        cls, r: int, width: int, rng: np.random.Generator, dtype: torch.dtype = torch.float32
    ) -> MetaNet:
        """Return first parameters, uniform within ± 1 / √inputs, as torch's linear layers."""
        hidden = max(1, r // SHRINKING)

        def draw(inputs: int, *shape: int) -> Tensor:
            bound = 1 / np.sqrt(inputs)
            drawn = rng.uniform(-bound, bound, shape).astype(np.float32)
            return torch.from_numpy(drawn).to(dtype)

        return cls(
            (
                draw(r, hidden, r), draw(r, hidden),
                draw(hidden, width, hidden), draw(hidden, width),
            )
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """Return the shifts, (b, r) to (b, 1, w)."""
        first, first_bias, second, second_bias = self.tensors
        hidden = torch.relu(torch.nn.functional.linear(x, first, first_bias))
        return torch.nn.functional.linear(hidden, second, second_bias)[:, None]


@dataclass(frozen=True, eq=False)
class ConditionalClassifier:
    """Scores images, each by prompts of its own: c texts an image.

    Attributes
    ----------
    tower, prompts, context, net
        As they were learned.
    facts : dict
    """

    tower: TextTower
    prompts: Prompts
    context: Tensor
    net: MetaNet
    facts: Mapping[str, float] = field(default_factory=dict)

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        images = max(1, BLOCK // len(self.prompts))
        out = np.empty((len(x), len(self.prompts)), dtype=np.float32)
        with blas_threads(), torch.inference_mode():
            for start in range(0, len(x), images):
                rows = torch.from_numpy(np.ascontiguousarray(x[start : start + images]))
                logits = self.logits(rows.to(self.context.dtype))
                out[start : start + images] = logits.numpy()
        return out

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch, (b, r) to (b, c)."""
        b, c = len(rows), len(self.prompts)
        contexts = self.context + self.net(rows)  # (b, m, w)
        texts = text_rows(
            self.tower, self.prompts.repeated(b), contexts.repeat_interleave(c, dim=0)
        )
        products = torch.einsum("br,bcr->bc", rows, texts.reshape(b, c, -1))
        return self.tower.logit_scale * products


class CoCoOp:
    """Learn a context and the network that shifts it for every image.

    The text row of class c for image x is T([v_1 + π] … [v_m + π] name_c .) with π = net(x), the
    same for all m; the net has one hidden layer of r / 16. Loss and the rest are CoOp's. Every
    image needs c texts of its own, in training and when it is scored. With no shot the result is
    zero-shot with the words, no net.

    Parameters
    ----------
    tower, names, n_context, words, seed
        As for `CoOp`; the words are "a photo of a" by default, the name stands behind them.
    descent : Descent, optional
        10 epochs of single images by default.

    Attributes
    ----------
    context_ : float32 array of shape (m, w)
    net_ : MetaNet
        After `fit` on shots.

    References
    ----------
    Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022, section 3.2.
    """

    def __init__(
        self,
        tower: TextTower,
        names: Sequence[str],
        *,
        n_context: int = 4,
        words: str | None = "a photo of a",
        descent: Descent | None = None,
        seed: int = 0,
    ) -> None:
        self.tower = tower
        self.names = tuple(names)
        self.n_context = n_context
        self.words = words
        self.descent = Descent(epochs=10, batch_size=1) if descent is None else descent
        self.seed = seed

    def fit(self, shots: Shots) -> Classifier:
        """Learn context and net; the same shots and seed give the same bits on one thread.

        Raises
        ------
        PairsError, SettingError, DivergedError
            As `CoOp.fit`.
        """
        check_shots(shots, self.tower, self.names)
        rng = np.random.default_rng(self.seed)
        context = first_context(self.tower, self.words, self.n_context, rng)
        prompts = make_prompts(self.tower, self.names, len(context), "end")
        context = context.to(prompts.embedded.dtype)
        net = MetaNet.drawn(self.tower.dim, self.tower.width, rng, context.dtype)
        learned = [context, *net.tensors]
        for tensor in learned:
            tensor.requires_grad_()
        model = ConditionalClassifier(self.tower, prompts, context, net)
        with blas_threads():
            shown = shown_rows(shots, context.dtype, rng)
            labels = torch.from_numpy(shots.labels)

            def loss_of(batch: Tensor) -> Tensor:
                return torch.nn.functional.cross_entropy(model.logits(shown(batch)), labels[batch])

            if len(labels):
                epochs = self.descent.epochs_for(int(shots.counts.max()))
                descend(learned, loss_of, len(labels), epochs, self.descent, rng)
            for tensor in learned:
                tensor.requires_grad = False
            self.context_ = context.numpy()
            if len(labels):
                self.net_ = net
                return model
            with torch.inference_mode():
                weight = self.tower.logit_scale * text_rows(self.tower, prompts, context)
        return without_bias(weight.numpy())
