"""The heads: modules from rows of k columns to rows of d.

Every module has the parameters that `fitters.trained.shapes.HEADS` lists under its name. Random
numbers come from a generator that is handed in: torch's global one is never read nor moved.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
        if torch.rand(1, generator=self.generator).item() >= self.batches:
            return rows
        return rows * _kept(rows, self.p, self.generator)


def _kept(rows: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Return 1 with probability 1 − p and else 0, one for each value of `rows`.

    A comparison of uniform numbers takes a quarter of the time of ``bernoulli_`` on a CPU, and a
    fifth of that of torch's own dropout: 10 of 430 ms of a step of the paper's head.
    """
    return torch.rand(rows.shape, generator=generator).ge_(p).to(rows.dtype)


class LinearHead(nn.Module):
    """k → d."""

    def __init__(self, k: int, d: int, *, bias: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(k, d, bias=bias)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.project(rows)
        return out


class PaperHead(nn.Module):
    """k → h → d with GELU, dropout and LayerNorm; h is 4 d where the paper is followed."""

    def __init__(self, k: int, d: int, h: int | None = None, *, dropout: float = 0.5) -> None:
        super().__init__()
        h = 4 * d if h is None else h
        self.up, self.down, self.norm = nn.Linear(k, h), nn.Linear(h, d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        hidden = self.dropout(nn.functional.gelu(self.up(rows)))
        out: Tensor = self.norm(self.down(hidden))
        return out


class ResidualHead(nn.Module):
    """A linear map plus a gated low-rank bend: P x + σ(gate) · U dropout(gelu(D x)); no biases.

    P and D begin orthogonal and U at 0, so that the head begins as P. The original starts the gate
    at σ = 0, at a logit without a slope: its gradient is 0, and so are those of D and U, and the
    residual never opens. Here it starts at a logit of `gate`, −2 unless told otherwise.
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
        out: Tensor = self.project(rows) + torch.sigmoid(self.gate) * bend
        return out


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
        out: Tensor = self.project(nn.functional.relu6(gate) * value)
        return out


class FreezeAlignHead(nn.Module):
    """FreezeAlign's text head: p = P x, then LayerNorm(p + dropout(M gelu(p)))."""

    def __init__(self, k: int, d: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.project, self.mix, self.norm = nn.Linear(k, d), nn.Linear(d, d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        projected = self.project(rows)
        mixed = self.dropout(self.mix(nn.functional.gelu(projected)))
        out: Tensor = self.norm(projected + mixed)
        return out


class FreezeAlignImageHead(nn.Module):
    """FreezeAlign's image head, on the pooled vector: P x + D gelu(U x)."""

    def __init__(self, k: int, d: int) -> None:
        super().__init__()
        self.project, self.up, self.down = nn.Linear(k, d), nn.Linear(k, d), nn.Linear(d, d)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.project(rows) + self.down(nn.functional.gelu(self.up(rows)))
        return out


class Autoencoder(nn.Module):
    """ICIS's encoder and decoder of one side: a layer with ReLU into the shared space, one back.

    The original's ``num_layers=2`` counts both. h is the latent space.
    """

    def __init__(self, k: int, h: int = 2048) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(k, h), nn.ReLU())
        self.decode = nn.Sequential(nn.Linear(h, k))


def build_head(
    name: str, k: int, d: int, *, width: int | None, dropout: float | None, bias: bool, gate: float
) -> nn.Module:
    """Return the head called `name` in `HEADS`, its parameters not yet set.

    `width` (hidden units) and `dropout` are the architecture's own where None, and play no part
    where it has none.
    """
    kept = {} if dropout is None else {"dropout": dropout}
    # On the meta device nothing is drawn: `initialise` fills the memory afterwards.
    with torch.device("meta"):
        match name:
            case "linear":
                head: nn.Module = LinearHead(k, d, bias=bias)
            case "paper":
                head = PaperHead(k, d, width, **kept)
            case "residual":
                head = ResidualHead(k, d, width, gate=gate, **kept)
            case "sail":
                head = SailHead(k, d, width)
            case "freeze_align":
                head = FreezeAlignHead(k, d, **kept)
            case _:
                head = FreezeAlignImageHead(k, d)
    return head


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
