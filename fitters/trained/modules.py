"""Modules of trained aligners: heads, losses, penalties and what training minimises.

Random numbers come from a generator that is handed in: torch's global one is never read nor moved.

`same` marks, for the losses that contrast, pairs (i, j), i ≠ j, that are no negatives because row i
and row j are of one group, such as classes of one name: they are left out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from fitters.trained.training import Batch, Objective

if TYPE_CHECKING:
    from fitters.trained.mlp import MLPAligner

LARGEST = 1e3
"""SAIL clamps both factors of its star here, before they are multiplied."""


class Dropout(nn.Module):
    """Dropout from a generator of its own; `generator` is set by `draw_from`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows with each value set to 0 with probability p, the others scaled up."""
        if not self.training or self.p == 0:
            return rows
        return rows * _kept(rows, self.p, self.generator).mul_(1 / (1 - self.p))


class FeatureDropout(nn.Module):
    """Zero input features in some batches, without scaling the others up, as the paper's code.

    Parameters
    ----------
    p : float
        Probability of a feature of a row to become 0, in a batch that is chosen.
    batches : float
        Probability of a batch to be chosen.
    """

    def __init__(self, p: float, batches: float) -> None:
        super().__init__()
        self.p, self.batches = p, batches
        self.generator: torch.Generator | None = None

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows, thinned if this batch is chosen."""
        if not self.training or self.p == 0:
            return rows
        if torch.rand(1, generator=self.generator, device=rows.device).item() >= self.batches:
            return rows
        return rows * _kept(rows, self.p, self.generator)


def _kept(rows: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Return 1 with probability 1 − p and else 0, one for each value of `rows`.

    A comparison of uniform numbers takes a quarter of the time of ``bernoulli_`` on a CPU, and a
    fifth of that of torch's own dropout: 10 of 430 ms of a step of the paper's head.
    """
    return torch.rand(rows.shape, generator=generator, device=rows.device).ge_(p).to(rows.dtype)


def linear_head(k: int, d: int, *, bias: bool = True) -> nn.Module:
    """Return k → d."""
    return nn.Sequential(OrderedDict(project=nn.Linear(k, d, bias=bias)))


def paper_head(k: int, d: int, h: int | None = None, *, dropout: float = 0.5) -> nn.Module:
    """Return k → h → d with GELU, dropout and LayerNorm; h is 4 d where the paper is followed."""
    h = 4 * d if h is None else h
    parts = {"up": nn.Linear(k, h), "bend": nn.GELU(), "dropout": Dropout(dropout)}
    ends = {"down": nn.Linear(h, d), "norm": nn.LayerNorm(d)}
    return nn.Sequential(OrderedDict(**parts, **ends))


class ResidualHead(nn.Module):
    """A linear map plus a gated low-rank bend: P x + σ(gate) · U dropout(gelu(D x)); no biases.

    P and D begin orthogonal and U at 0, so that the head begins as P. The original starts the gate
    at σ = 0, at a logit without a slope: its gradient is 0, and so are those of D and U, and the
    residual never opens. Here it starts at a logit of `gate`, −2 by default.
    """

    def __init__(
        self, k: int, d: int, h: int | None = None, *, dropout: float = 0.1, gate: float = -2.0
    ) -> None:
        super().__init__()
        h = 64 if h is None else h
        self.project = nn.Linear(k, d, bias=False)
        self.down, self.up = nn.Linear(k, h, bias=False), nn.Linear(h, d, bias=False)
        self.gate = nn.Parameter(torch.empty(1))
        self.dropout, self.start = Dropout(dropout), gate

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        bend = self.up(self.dropout(nn.functional.gelu(self.down(rows))))
        return self.project(rows) + torch.sigmoid(self.gate) * bend


class SailHead(nn.Module):
    """SAIL's star MLP: LayerNorm, then g(relu6(f1 x) · f2 x) with h = 8 k hidden units."""

    def __init__(self, k: int, d: int, h: int | None = None) -> None:
        super().__init__()
        h = 8 * k if h is None else h
        self.norm = nn.LayerNorm(k)
        self.gate, self.value, self.project = nn.Linear(k, h), nn.Linear(k, h), nn.Linear(h, d)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        rows = self.norm(rows)
        # Of the gate the clamp only spares relu6 a number that float16 has not: both, as there.
        gate, value = (part(rows).clamp(-LARGEST, LARGEST) for part in (self.gate, self.value))
        return self.project(nn.functional.relu6(gate) * value)


class FreezeAlignHead(nn.Module):
    """FreezeAlign's text head: p = P x, then LayerNorm(p + dropout(M gelu(p)))."""

    def __init__(self, k: int, d: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.project, self.mix, self.norm = nn.Linear(k, d), nn.Linear(d, d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        projected = self.project(rows)
        return self.norm(projected + self.dropout(self.mix(nn.functional.gelu(projected))))


class FreezeAlignImageHead(nn.Module):
    """FreezeAlign's image head, on the pooled vector: P x + D gelu(U x)."""

    def __init__(self, k: int, d: int) -> None:
        super().__init__()
        self.project, self.up, self.down = nn.Linear(k, d), nn.Linear(k, d), nn.Linear(d, d)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        return self.project(rows) + self.down(nn.functional.gelu(self.up(rows)))


class Autoencoder(nn.Module):
    """ICIS's encoder and decoder of one side: a layer with ReLU into the shared space, one back.

    The original's ``num_layers=2`` counts both. h is the latent space.
    """

    def __init__(self, k: int, h: int = 2048) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(k, h), nn.ReLU())
        self.decode = nn.Sequential(nn.Linear(h, k))


#: Name of a head -> the module, and what it takes beside its columns.
HEADS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "linear": (linear_head, ("bias",)),
    "paper": (paper_head, ("h", "dropout")),
    "residual": (ResidualHead, ("h", "dropout", "gate")),
    "sail": (SailHead, ("h",)),
    "freeze_align": (FreezeAlignHead, ("dropout",)),
    "freeze_align_image": (FreezeAlignImageHead, ()),
}


def build_head(
    name: str, k: int, d: int, *, width: int | None, dropout: float | None, bias: bool, gate: float
) -> nn.Module:
    """Return the head called `name` in `HEADS`, its parameters not yet set.

    `width` (hidden units) and `dropout` are the architecture's own where None, and have no effect
    where it has none.
    """
    given = {"h": width, "dropout": dropout, "bias": bias, "gate": gate}
    make, takes = HEADS[name]
    # On the meta device nothing is drawn: `initialise` fills the memory afterwards.
    with torch.device("meta"):
        return make(k, d, **{name: given[name] for name in takes if given[name] is not None})


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fill the parameters of `module`: PyTorch's defaults, but for heads whose originals differ.

    SAIL: Xavier, biases of 0. The residual head: orthogonal, its last layer 0. ICIS: N(0, 0.02),
    biases of 0.
    """
    module.to_empty(device="cpu")
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.weight.fill_(1)
                part.bias.zero_()
            elif isinstance(part, nn.Linear):
                bound = 1 / math.sqrt(part.in_features)
                part.weight.uniform_(-bound, bound, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-bound, bound, generator=generator)
        for part in module.modules():
            if isinstance(part, SailHead):
                for layer in (part.gate, part.value, part.project):
                    nn.init.xavier_uniform_(layer.weight, generator=generator)
                    layer.bias.zero_()
            elif isinstance(part, ResidualHead):
                for layer in (part.project, part.down):
                    nn.init.orthogonal_(layer.weight, generator=generator)
                part.up.weight.zero_()
                part.gate.fill_(part.start)
            elif isinstance(part, Autoencoder):
                for layer in (*part.encode, *part.decode):
                    if isinstance(layer, nn.Linear):
                        layer.weight.normal_(0, 0.02, generator=generator)
                        layer.bias.zero_()


def draw_from(module: nn.Module, generator: torch.Generator) -> None:
    """Make every dropout of `module` draw from `generator`."""
    for part in module.modules():
        if isinstance(part, (Dropout, FeatureDropout)):
            part.generator = generator


def cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean of 1 − cos(predicted_i, target_i): ``CosineEmbeddingLoss`` with y = 1."""
    return (1 - torch.nn.functional.cosine_similarity(predicted, target, dim=1)).mean()


def infonce_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    *,
    same: Tensor | None = None,
) -> Tensor:
    """Return the symmetric cross-entropy of each row's own partner among all in the batch.

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Brought to unit length here.
    scale : float or Tensor
        1 / temperature.

    References
    ----------
    Radford et al., Learning Transferable Visual Models from Natural Language Supervision, 2021,
    figure 3.
    """
    logits = scale * (normalize(x, dim=1) @ normalize(y, dim=1).T)
    if same is not None:
        logits = logits.masked_fill(same, -math.inf)
    own = logits.diagonal()
    of_x = torch.logsumexp(logits, dim=1) - own
    of_y = torch.logsumexp(logits, dim=0) - own
    return ((of_x + of_y) / 2).mean()


def siglip_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    same: Tensor | None = None,
) -> Tensor:
    """Return −Σ_ij log σ(±(scale · cos_ij + bias)) / b: each pair a yes or no of its own.

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Brought to unit length here.

    References
    ----------
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, algorithm 1.
    """
    logits = scale * (normalize(x, dim=1) @ normalize(y, dim=1).T) + bias
    signs = 2 * torch.eye(len(x), dtype=logits.dtype, device=x.device) - 1
    losses = -logsigmoid(signs * logits)
    if same is not None:
        losses = losses.masked_fill(same, 0)
    return losses.sum(dim=1).mean()


def devise_loss(
    x: Tensor,
    y: Tensor,
    *,
    margin: float = 0.1,
    same: Tensor | None = None,
) -> Tensor:
    """Return the mean over i of Σ_j≠i max(0, margin − x_i·y_i + x_i·y_j).

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Taken as they are: the caller makes the true side unit rows.

    References
    ----------
    Frome et al., DeViSE: A Deep Visual-Semantic Embedding Model, NeurIPS 2013, eq. 1.
    """
    scores = x @ y.T
    hinge = (margin - scores.diagonal()[:, None] + scores).clamp(min=0)
    hinge = hinge.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)
    if same is not None:
        hinge = hinge.masked_fill(same, 0)
    return hinge.sum(dim=1).mean()


def structure_penalty(
    before: Tensor,
    after: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """Return the Jensen–Shannon divergence between similarity distributions of a batch.

    With unit rows, centred by the batch's mean, S = X Xᵀ / temperature and P = softmax(S) by rows,
    it compares P before and after: level 1 of the original.

    Parameters
    ----------
    before, after : Tensor of shape (b, k), (b, d)
        Rows that go into a head, and what comes out.

    References
    ----------
    Gröger et al., With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You, 2025.
    """
    p, q = _neighbours(before, temperature), _neighbours(after, temperature)
    middle = (p + q) / 2
    return (_divergence(p, middle) + _divergence(q, middle)) / 2


def _neighbours(rows: Tensor, temperature: float) -> Tensor:
    unit = normalize(rows, dim=1)
    unit = unit - unit.mean(dim=0)
    return torch.softmax(unit @ unit.T / temperature, dim=1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the mean over rows of KL(p‖q)."""
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(dim=1).mean()


class PairObjective(Objective):
    """One head or two, and a loss of pairs, with the parameters of an aligner."""

    def __init__(self, heads: dict[str, nn.Module], aligner: MLPAligner) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.direction = aligner.direction
        self.settings, self.batch_size = aligner, int(aligner.batch_size)
        self.thin = FeatureDropout(
            float(aligner.feature_dropout), float(aligner.feature_dropout_batches)
        )
        self.log_scale = nn.Parameter(torch.empty(1), requires_grad=self._learns)
        self.shift = nn.Parameter(
            torch.empty(1), requires_grad=self._learns and self.settings.loss == "siglip"
        )
        self._begun = False

    @property
    def _learns(self) -> bool:
        return bool(self.settings.learn_temperature) and self.settings.scales

    def undecayed(self) -> list[nn.Parameter]:
        """Return the temperature and the bias: what their size means is not a matter of decay."""
        return [p for p in (self.log_scale, self.shift) if p.requires_grad]

    def after_step(self) -> None:
        """Keep the temperature in its range; called once before the first step to set it."""
        with torch.no_grad():
            if not self._begun:
                self._begun = True
                self.log_scale.fill_(-math.log(self.settings.temperature))
                given = self.settings.logit_bias
                # SigLIP's first bias, log(p / (1 - p)) with p = 1 / batch: as many yes as there are
                start = -math.log(max(self.batch_size, 2) - 1) if given is None else float(given)
                self.shift.fill_(start if self.settings.loss == "siglip" else 0.0)
            elif self._learns:
                low = -math.log(self.settings.temperature_high)
                self.log_scale.clamp_(low, -math.log(self.settings.temperature_low))

    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return x and y in the shared space, each through its head if it has one."""
        return tuple(
            self.heads[side](self.thin(getattr(batch, side)))
            if side in self.heads
            else getattr(batch, side)
            for side in ("x", "y")
        )

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the loss with its regulariser."""
        x, y = outputs
        same = batch.same if self.settings.mask_same else None
        predicted, target = (x, y) if "x" in self.heads else (y, x)
        scale = self.log_scale.exp()
        match self.settings.loss:
            case "cosine":
                loss = cosine_loss(predicted, target)
            case "mse":
                loss = nn.functional.mse_loss(predicted, target)
            case "infonce":
                loss = infonce_loss(x, y, scale, same=same)
            case "siglip":
                loss = siglip_loss(x, y, scale, self.shift, same=same)
            case _:
                # The side that is not mapped has unit rows; of two heads it is the text's.
                own = self.direction == "y->x"
                sides = (normalize(x, dim=1), y) if own else (x, normalize(y, dim=1))
                loss = devise_loss(*sides, margin=float(self.settings.margin), same=same)
        if self.settings.structure > 0:
            warm = int(self.settings.structure_warmup)
            # The first step of the original has none of it.
            rise = min(1.0, step / warm) if warm else 1.0
            loss = loss + self.settings.structure * rise * self._structure(batch, x, y)
        return loss

    def _structure(self, batch: Batch, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over both sides; a side without a head keeps its structure."""
        after = {"x": x, "y": y}
        penalties = [structure_penalty(getattr(batch, side), after[side]) for side in self.heads]
        return torch.stack(penalties).sum() / 2

    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return rows of a side through its head."""
        if side not in self.heads:
            return rows
        return self.heads[side](rows)


class IcisObjective(Objective):
    """ICIS: two autoencoders that share a latent space, and four cosine losses."""

    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return text → text, row → text, row → row and text → row."""
        heads: Any = self.heads
        rows, texts = heads["x"], heads["y"]
        of_texts, of_rows = texts.encode(batch.y), rows.encode(batch.x)
        return (
            texts.decode(of_texts),
            texts.decode(of_rows),
            rows.decode(of_rows),
            rows.decode(of_texts),
        )

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the sum of the four, each a mean over the rows."""
        del step
        total = cosine_loss(outputs[0], batch.y)
        for out, target in zip(outputs[1:], (batch.y, batch.x, batch.x), strict=True):
            total = total + cosine_loss(out, target)
        return total

    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return texts as rows of the head; images and head rows as they are."""
        heads: Any = self.heads
        return rows if side == "x" else heads["x"].decode(heads["y"].encode(rows))
