"""`CoOp`: the words around a class name, learned as vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fitters.errors import PairsError
from fitters.few_shot.learner import Shots
from fitters.few_shot.linear_classifier import LinearClassifier, without_bias
from fitters.few_shot.prompt_learning.descent import Descent, descend
from fitters.few_shot.prompt_learning.prompts import (
    Position,
    Prompts,
    make_prompts,
    word_vectors,
)
from fitters.few_shot.prompt_learning.tower import TextTower
from fitters.trained.precision import blas_threads

#: Standard deviation of a context that no words begin.
FIRST_SPREAD = 0.02

#: Prompts whose activations are held for the way back. Of more classes they are computed again
#: there, group by group: 128 prompts hold 1.0 GB (measured) in a tower of 12 layers of 512.
HELD_PROMPTS = 128


class CoOp:
    """Learn context vectors by the cross-entropy of the shots.

    The text row of class c is T([v_1] … [v_m] name_c .), T the frozen tower and v the context,
    the only parameters; logits are s · cos(image, text row), s the tower's own scale. The loss is
    the mean cross-entropy of the shots' own classes among all classes. Where shots have views, a
    batch sees one of each, drawn anew. Prototypes and validation rows are not looked at, and the
    last epoch counts, as in the original. With no shot the result is zero-shot with the first
    context.

    Parameters
    ----------
    tower : TextTower
        Of the images' own model: shots are its image embeddings, at unit length.
    names : sequence of str
        One a class, in the order of the labels.
    n_context : int
        m; ignored where `words` are given, which are their own tokens.
    words : str, optional
        First context; drawn with deviation 0.02 otherwise.
    position : {"end", "middle", "front"}
        Where the class name stands.
    class_specific : bool
        A context of its own for every class. All begin with one draw, so that the order of the
        classes does not matter.
    descent : Descent, optional
    seed : int
        Draws the first context, the order of the shots and their views.

    Attributes
    ----------
    context_ : float32 array of shape (m, w) or (c, m, w)
        After `fit`: what was learned.

    References
    ----------
    Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, section 3.2.
    """

    def __init__(
        self,
        tower: TextTower,
        names: Sequence[str],
        *,
        n_context: int = 16,
        words: str | None = None,
        position: Position = "end",
        class_specific: bool = False,
        descent: Descent | None = None,
        seed: int = 0,
    ) -> None:
        self.tower = tower
        self.names = tuple(names)
        self.n_context = n_context
        self.words = words
        self.position: Position = position
        self.class_specific = class_specific
        self.descent = Descent() if descent is None else descent
        self.seed = seed

    def fit(self, shots: Shots) -> LinearClassifier:
        """Learn the context; the same shots and seed give the same bits on one thread of a CPU.

        Raises
        ------
        PairsError
            If there is not one name a class, or the images are not of the tower's width.
        SettingError
            If a prompt is longer than the tower's context.
        DivergedError
            If the loss is no longer finite.
        """
        check_shots(shots, self.tower, self.names)
        rng = np.random.default_rng(self.seed)
        context = first_context(self.tower, self.words, self.n_context, rng)
        prompts = make_prompts(self.tower, self.names, len(context), self.position)
        context = context.to(prompts.embedded.dtype)
        if self.class_specific:
            context = context.repeat(len(prompts), 1, 1)
        context.requires_grad_()
        with blas_threads():
            shown = shown_rows(shots, context.dtype, rng)
            labels = torch.from_numpy(shots.labels)
            scale = self.tower.logit_scale

            def loss_of(batch: Tensor) -> Tensor:
                logits = scale * shown(batch) @ text_rows(self.tower, prompts, context).T
                return torch.nn.functional.cross_entropy(logits, labels[batch])

            if len(labels):
                epochs = self.descent.epochs_for(int(shots.counts.max()))
                descend([context], loss_of, len(labels), epochs, self.descent, rng)
            self.context_ = context.detach().numpy()
            with torch.inference_mode():
                weight = scale * text_rows(self.tower, prompts, context)
        return without_bias(weight.numpy())


def shown_rows(
    shots: Shots, dtype: torch.dtype, rng: np.random.Generator
) -> Callable[[Tensor], Tensor]:
    """Return what gives a batch of shots its unit rows: of views one each, drawn anew."""
    unit, _ = shots.unit_views
    n_views = len(unit) // max(1, len(shots.labels))
    rows = torch.from_numpy(unit).to(dtype)
    if n_views <= 1:
        return lambda batch: rows[batch]
    return lambda batch: rows[
        batch * n_views + torch.from_numpy(rng.integers(n_views, size=len(batch)))
    ]


def text_rows(tower: TextTower, prompts: Prompts, context: Tensor) -> Tensor:
    """Return the unit rows of prompts with their context, (c, r); of many, in groups."""
    if len(prompts) <= HELD_PROMPTS:
        return tower.encode(prompts.filled(context), prompts.ends)
    rows = []
    for start in range(0, len(prompts), HELD_PROMPTS):
        group = slice(start, start + HELD_PROMPTS)
        own = context[group] if context.ndim == 3 else context
        part = prompts.part(group)
        rows.append(
            checkpoint(
                lambda vectors, part=part: tower.encode(part.filled(vectors), part.ends),
                own,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            if torch.is_grad_enabled()
            else tower.encode(part.filled(own), part.ends)
        )
    return torch.cat(rows)


def first_context(
    tower: TextTower, words: str | None, n_context: int, rng: np.random.Generator
) -> Tensor:
    """Return a context to begin with, shape (m, w)."""
    if words is not None:
        return word_vectors(tower, words)
    drawn = rng.normal(scale=FIRST_SPREAD, size=(n_context, tower.width))
    return torch.from_numpy(drawn.astype(np.float32))


def check_shots(shots: Shots, tower: TextTower, names: Sequence[str]) -> None:
    """Refuse shots that are not of these classes, or not of the tower's space."""
    if len(names) != shots.n_classes:
        msg = f"Prompts need one name a class: {len(names):,} names for {shots.n_classes:,}."
        raise PairsError(msg)
    if shots.x.shape[1] != tower.dim:
        msg = (
            f"Images have {shots.x.shape[1]:,} columns, texts of {tower.name} {tower.dim:,}. "
            "Prompts are learned on the images of the same model, without an aligner."
        )
        raise PairsError(msg)
