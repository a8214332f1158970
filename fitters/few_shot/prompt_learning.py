"""Learned prompts: CoOp and CoCoOp."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fitters.errors import DivergedError, PairsError, SettingError
from fitters.few_shot.learner import Classifier, Rows, Shots, without_bias
from fitters.trained.base import blas_threads, training_device

Position = Literal["end", "middle", "front"]
"""Position of the class name: behind the context, in its middle, or before it."""


class TextTower(Protocol):
    """A frozen text tower that takes token embeddings, as `OpenClipPromptTower` does.

    Attributes
    ----------
    name : str
        For messages.
    context_length : int
        Tokens of the longest prompt, start and end included.
    width : int
        Of a token embedding.
    dim : int
        Of a text embedding: r, the columns of the images.
    logit_scale : float
        What cosines are multiplied by to become logits.
    start, end : int
        Tokens that every prompt begins and ends with.
    """

    name: str
    context_length: int
    width: int
    dim: int
    logit_scale: float
    start: int
    end: int

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, uncut, without those of start and end."""

    def to(self, device: torch.device) -> Self:
        """Move the tower to a device; `embed` takes tokens from the CPU all the same."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Return token embeddings, (b, l) to (b, l, width)."""

    def encode(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Return unit rows, differentiably: (b, l, width) and ends (b,) to (b, dim)."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """c prompts of up to l tokens, with m gaps each.

    Attributes
    ----------
    embedded : float32 tensor of shape (c, l, w)
        Token embeddings; what stands in the gaps and behind the end does not matter.
    gaps : int64 tensor of shape (c, m)
        Places of the context vectors, in their order.
    ends : int64 tensor of shape (c,)
        Place of the end token.
    """

    embedded: Tensor
    gaps: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.embedded)

    def filled(self, context: Tensor) -> Tensor:
        """Return the prompts with a context, (m, w) for all or (c, m, w): shape (c, l, w)."""
        rows = torch.arange(len(self), device=self.gaps.device)[:, None]
        return self.embedded.index_put((rows, self.gaps), context.expand(len(self), -1, -1))

    def to(self, device: torch.device) -> Prompts:
        """Return the prompts on a device."""
        return Prompts(self.embedded.to(device), self.gaps.to(device), self.ends.to(device))

    def part(self, rows: slice) -> Prompts:
        """Return some of the prompts."""
        return Prompts(self.embedded[rows], self.gaps[rows], self.ends[rows])

    def repeated(self, times: int) -> Prompts:
        """Return all prompts, and all again, so many times."""
        return Prompts(
            self.embedded.repeat(times, 1, 1),
            self.gaps.repeat(times, 1),
            self.ends.repeat(times),
        )


def make_prompts(
    tower: TextTower, names: Sequence[str], n_context: int, position: Position
) -> Prompts:
    """Return ``[start] context name . [end]`` for every class, or with the name elsewhere.

    As CoOp's: underscores of a name are blanks, and a full stop follows what comes last.

    Parameters
    ----------
    names : sequence of str
        One a class.
    n_context : int
        m, context vectors; at least 1.
    position : str
        In the middle, the first m // 2 stand before the name.

    Raises
    ------
    SettingError
        If a name is blank, or a prompt is longer than the tower's context.
    """
    before = {"end": n_context, "middle": n_context // 2, "front": 0}[position]
    rows, gaps = [], []
    for name in names:
        cleaned = name.replace("_", " ").strip()
        # The full stop belongs to the last word where both are punctuation ("St." and "..").
        whole = tower.tokens(f"{cleaned}.")
        own = len(tower.tokens(cleaned)) if position != "end" else len(whole)
        if not cleaned:
            raise SettingError("A class has a blank name. Prompts need the names of the classes.")
        gap = [tower.end] * n_context
        ids = [tower.start, *gap[:before], *whole[:own], *gap[before:], *whole[own:], tower.end]
        if len(ids) > tower.context_length:
            most = tower.context_length - n_context - 2
            raise SettingError(
                f"The name {name!r} has {len(whole)} tokens with its full stop; {tower.name} takes "
                f"{tower.context_length} tokens, which leave {most} beside {n_context} context "
                "vectors. Use fewer of them, or shorter names."
            )
        rows.append(ids)
        behind = 1 + before + own
        gaps.append([*range(1, 1 + before), *range(behind, behind + n_context - before)])
    longest = max(map(len, rows))
    padded = torch.tensor([row + [tower.end] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        embedded = tower.embed(padded)
    return Prompts(embedded, torch.tensor(gaps), torch.tensor([len(row) - 1 for row in rows]))


def word_vectors(tower: TextTower, words: str) -> Tensor:
    """Return the token embeddings of words as a first context, shape (m, w)."""
    ids = tower.tokens(words.replace("_", " ").strip())
    with torch.no_grad():
        return tower.embed(torch.tensor([ids]))[0].clone()


@dataclass(frozen=True)
class Descent:
    """How contexts are trained; the values are CoOp's.

    Attributes
    ----------
    epochs : int or None
        None: 50 for one shot a class, 100 for up to four, 200 for more, as in CoOp's scripts.
    batch_size : int
        The last batch of an epoch is left out where it is not full, unless it is the only one.
    learning_rate, momentum, weight_decay : float
        Of plain SGD; the decay is an L2 term and pulls contexts to 0.
    warmup_epochs : int
        First epochs with `warmup_rate`; a cosine over `epochs` begins after them.
    warmup_rate : float
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5

    def epochs_for(self, shots: int) -> int:
        """Return the epochs for so many shots of a class."""
        if self.epochs is not None:
            return self.epochs
        return 50 if shots <= 1 else 100 if shots <= 4 else 200

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the learning rate of an epoch, counted from 0.

        The cosine is counted from the end of the warm-up but over all epochs, so that its last
        epochs are never reached: so does the original's scheduler.
        """
        if epoch < self.warmup_epochs:
            return self.warmup_rate
        turn = math.pi * (epoch - self.warmup_epochs) / epochs
        return self.learning_rate * (1 + math.cos(turn)) / 2


def descend(
    parameters: Sequence[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    n: int,
    epochs: int,
    descent: Descent,
    rng: np.random.Generator,
) -> None:
    """Train `parameters` in place.

    Parameters
    ----------
    parameters : sequence of tensors
        Leaves that need a gradient.
    loss_of : callable
        Row numbers of a batch → its mean loss.
    n : int
        Rows.
    epochs : int
    descent : Descent
    rng : numpy Generator
        Draws the order of the rows of every epoch.

    Raises
    ------
    DivergedError
        If a loss is not finite.
    """
    optimiser = torch.optim.SGD(
        list(parameters),
        lr=descent.learning_rate,
        momentum=descent.momentum,
        weight_decay=descent.weight_decay,
    )
    size = min(descent.batch_size, n)
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = descent.rate(epoch, epochs)
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, n - size + 1, size):
            loss = loss_of(order[start : start + size])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(
                    f"The training diverged: a loss of epoch {epoch + 1} is {value}. Use a smaller "
                    f"learning rate than {descent.learning_rate:g}."
                )


#: Standard deviation of a first context that is drawn, not taken from words.
FIRST_SPREAD = 0.02

#: Prompts whose activations are kept for the backward pass. With more classes they are recomputed
#: there, group by group: 128 prompts hold 1.0 GB (measured) in a tower of 12 layers of 512.
HELD_PROMPTS = 128


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


#: Image columns to one hidden unit of the network.
SHRINKING = 16

#: Prompts that are encoded at once when images are scored.
BLOCK = 512


def meta_net(
    r: int, width: int, rng: np.random.Generator, dtype: torch.dtype = torch.float32
) -> torch.nn.Sequential:
    """Return W₂ relu(W₁ x + b₁) + b₂, a shift of every context vector from an image of r columns.

    With h = r / 16 hidden units; first parameters are uniform within ± 1 / √inputs, as torch's own.
    """
    hidden = max(1, r // SHRINKING)
    with torch.device("meta"):  # torch draws nothing
        layers = torch.nn.Linear(r, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width)
    net = torch.nn.Sequential(*layers).to_empty(device="cpu").to(dtype)
    for inputs, values in zip((r, r, hidden, hidden), net.parameters(), strict=True):
        bound = 1 / np.sqrt(inputs)
        drawn = rng.uniform(-bound, bound, values.shape).astype(np.float32)
        values.data.copy_(torch.from_numpy(drawn))
    return net


@dataclass(frozen=True, eq=False)
class PromptClassifier:
    """Scores images by prompts; with a net each image has prompts of its own, c texts.

    Attributes
    ----------
    tower, prompts, context, net
        As they were learned.
    facts : dict
    """

    tower: TextTower
    prompts: Prompts
    context: Tensor
    net: torch.nn.Module | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        images = max(1, BLOCK // len(self.prompts))
        out = np.empty((len(x), len(self.prompts)), dtype=np.float32)
        with blas_threads(), torch.inference_mode():
            for start in range(0, len(x), images):
                rows = torch.from_numpy(np.ascontiguousarray(x[start : start + images]))
                out[start : start + images] = self.logits(rows.to(self.context)).cpu().numpy()
        return out

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch, (b, r) to (b, c)."""
        if self.net is None:
            return (
                self.tower.logit_scale * rows @ text_rows(self.tower, self.prompts, self.context).T
            )
        b, c = len(rows), len(self.prompts)
        contexts = self.context + self.net(rows)[:, None]  # (b, m, w)
        texts = text_rows(
            self.tower, self.prompts.repeated(b), contexts.repeat_interleave(c, dim=0)
        )
        return self.tower.logit_scale * torch.einsum("br,bcr->bc", rows, texts.reshape(b, c, -1))


@dataclass
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
    device : str
        As torch names it, or "auto": see `fitters.trained.base.training_device`. The tower is
        moved there, and stays.

    Attributes
    ----------
    context_ : float32 array of shape (m, w) or (c, m, w)
        After `fit`: what was learned.

    References
    ----------
    Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, section 3.2.
    """

    tower: TextTower
    names: Sequence[str]
    _: KW_ONLY
    n_context: int = 16
    words: str | None = None
    position: Position = "end"
    class_specific: bool = False
    descent: Descent = Descent()
    seed: int = 0
    device: str = "cpu"

    def fit(self, shots: Shots) -> Classifier:
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
        if len(self.names) != shots.n_classes:
            raise PairsError(
                f"Prompts need one name a class: {len(self.names):,} names for {shots.n_classes:,}."
            )
        if shots.x.shape[1] != self.tower.dim:
            raise PairsError(
                f"Images have {shots.x.shape[1]:,} columns, texts of {self.tower.name} "
                f"{self.tower.dim:,}. Prompts are learned on the images of the same model, "
                "without an aligner."
            )
        device = training_device(self.device)
        if device.type != "cpu":
            self.tower.to(device)
        rng = np.random.default_rng(self.seed)
        context = first_context(self.tower, self.words, self.n_context, rng)
        prompts = make_prompts(self.tower, self.names, len(context), self.position).to(device)
        context = context.to(prompts.embedded)
        if self.class_specific:
            context = context.repeat(len(prompts), 1, 1)
        net = self._net(rng, context.dtype)
        own = [] if net is None else list(net.to(device).parameters())
        model, learned = PromptClassifier(self.tower, prompts, context, net), [context, *own]
        context.requires_grad_()
        with blas_threads():
            shown = shown_rows(shots, context.dtype, rng)
            labels = torch.from_numpy(shots.labels)

            def loss_of(batch: Tensor) -> Tensor:
                logits = model.logits(shown(batch).to(device))
                return torch.nn.functional.cross_entropy(logits, labels[batch].to(device))

            if len(labels):
                epochs = self.descent.epochs_for(int(shots.counts.max()))
                descend(learned, loss_of, len(labels), epochs, self.descent, rng)
            for tensor in learned:
                tensor.requires_grad = False
            self.context_ = context.cpu().numpy()
            if net is not None and len(labels):
                self.net_ = net
                return model
            with torch.inference_mode():
                weight = self.tower.logit_scale * text_rows(self.tower, prompts, context)
        return without_bias(weight.cpu().numpy())

    def _net(self, _rng: np.random.Generator, _dtype: torch.dtype) -> torch.nn.Module | None:
        """Return what shifts the context for every image, not trained yet; None: nothing does."""
        return None


@dataclass
class CoCoOp(CoOp):
    """Learn a context and the network that shifts it for every image.

    The text row of class c for image x is T([v_1 + π] … [v_m + π] name_c .) with π = net(x), the
    same for all m; the net has one hidden layer of r / 16. Loss and the rest are CoOp's. Every
    image needs c texts of its own, in training and when it is scored. With no shot the result is
    zero-shot with the words, no net.

    Parameters
    ----------
    tower, names, n_context, words, seed, device
        As for `CoOp`; the words are "a photo of a" by default, the name stands behind them.
    descent : Descent, optional
        10 epochs of single images by default.

    Attributes
    ----------
    context_ : float32 array of shape (m, w)
    net_ : torch.nn.Sequential
        After `fit` on shots.

    References
    ----------
    Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022, section 3.2.
    """

    n_context: int = 4
    words: str | None = "a photo of a"
    position: Position = field(default="end", init=False)
    class_specific: bool = field(default=False, init=False)
    descent: Descent = Descent(epochs=10, batch_size=1)

    def _net(self, rng: np.random.Generator, dtype: torch.dtype) -> torch.nn.Module:
        return meta_net(self.tower.dim, self.tower.width, rng, dtype)
