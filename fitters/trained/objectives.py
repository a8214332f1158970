"""What `MLPAligner` and `ICISAligner` go down on: heads and losses put together."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fitters.trained.architectures import Autoencoder, FeatureDropout
from fitters.trained.batches import Batch
from fitters.trained.losses import (
    cosine_loss,
    devise_loss,
    first_bias,
    infonce_loss,
    mse_loss,
    siglip_loss,
)
from fitters.trained.regularisers import structure_penalty
from fitters.trained.training import Objective


class PairSettings(Protocol):
    """What `PairObjective` is told; `MLPAligner` documents each."""

    loss: str
    direction: str
    batch_size: int
    feature_dropout: float
    feature_dropout_batches: float
    temperature: float
    learn_temperature: bool
    temperature_low: float
    temperature_high: float
    logit_bias: float | None
    margin: float
    mask_same: bool
    structure: float
    structure_levels: int
    structure_warmup: int
    legacy: bool


class PairObjective(Objective):
    """One head or two, and a loss of pairs; `asked` holds the settings."""

    def __init__(self, heads: dict[str, nn.Module], asked: PairSettings) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.asked = asked
        self.thin = FeatureDropout(
            float(asked.feature_dropout), float(asked.feature_dropout_batches)
        )
        self.log_scale = nn.Parameter(torch.empty(1), requires_grad=self._learns)
        self.shift = nn.Parameter(
            torch.empty(1), requires_grad=self._learns and asked.loss == "siglip"
        )
        self._begun = False

    @property
    def _learns(self) -> bool:
        return bool(self.asked.learn_temperature) and self.asked.loss in ("infonce", "siglip")

    def undecayed(self) -> list[nn.Parameter]:
        """Return the temperature and the bias: what their size means is not a matter of decay."""
        return [p for p in (self.log_scale, self.shift) if p.requires_grad]

    def after_step(self) -> None:
        """Keep the temperature in its range; called once before the first step to set it."""
        with torch.no_grad():
            if not self._begun:
                self._begun = True
                self.log_scale.fill_(-math.log(self.asked.temperature))
                given = self.asked.logit_bias
                start = first_bias(int(self.asked.batch_size)) if given is None else float(given)
                self.shift.fill_(start if self.asked.loss == "siglip" else 0.0)
            elif self._learns:
                low = -math.log(self.asked.temperature_high)
                self.log_scale.clamp_(low, -math.log(self.asked.temperature_low))

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
        weight = batch.weight
        same = batch.same if self.asked.mask_same else None
        predicted, target = (x, y) if "x" in self.heads else (y, x)
        scale = self.log_scale.exp()
        match self.asked.loss:
            case "cosine":
                loss = cosine_loss(predicted, target, weight)
            case "mse":
                loss = mse_loss(predicted, target, weight)
            case "infonce":
                loss = infonce_loss(x, y, scale, same=same, weight=weight)
            case "siglip":
                loss = siglip_loss(
                    x, y, scale, self.shift, same=same, weight=weight,
                    mean_over_pairs=bool(self.asked.legacy),
                )  # fmt: skip
            case _:
                loss = self._devise(x, y, same, weight)
        if self.asked.structure > 0:
            warm = int(self.asked.structure_warmup)
            # The first step of the original has none of it.
            rise = min(1.0, step / warm) if warm else 1.0
            loss = loss + self.asked.structure * rise * self._structure(batch, x, y)
        return loss

    def _devise(self, x: Tensor, y: Tensor, same: Tensor | None, weight: Tensor | None) -> Tensor:
        # The side that is not mapped has unit rows; of two heads it is the text's.
        if self.asked.direction == "y->x":
            x = normalize(x, dim=1)
        else:
            y = normalize(y, dim=1)
        order = None
        if self.asked.legacy:
            order = torch.randperm(len(x), generator=self.thin.generator)
        margin = float(self.asked.margin)
        return devise_loss(x, y, margin=margin, same=same, weight=weight, order=order)

    def _structure(self, batch: Batch, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over both sides; a side without a head keeps its structure."""
        after = {"x": x, "y": y}
        total = torch.zeros(())
        for side in self.heads:
            total = total + structure_penalty(
                getattr(batch, side),
                after[side],
                levels=int(self.asked.structure_levels),
                legacy=bool(self.asked.legacy),
            )
        return total / 2

    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return rows of a side through its head."""
        if side not in self.heads:
            return rows
        out: Tensor = self.heads[side](rows)
        return out


class IcisObjective(Objective):
    """ICIS: two autoencoders that share a latent space, and four cosine losses.

    Rows of group −1 are texts of unseen classes: they take part in text → text alone.
    """

    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return text → text of all rows, and row → text, row → row, text → row of the seen."""
        rows, texts = self.heads["x"], self.heads["y"]
        assert isinstance(rows, Autoencoder)
        assert isinstance(texts, Autoencoder)
        seen = batch.groups >= 0
        of_texts = texts.encode(batch.y)
        of_rows = rows.encode(batch.x[seen])
        return (
            texts.decode(of_texts),
            texts.decode(of_rows),
            rows.decode(of_rows),
            rows.decode(of_texts[seen]),
        )

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the sum of the four; each is a mean over the rows that it has."""
        del step
        seen = batch.groups >= 0
        weight = batch.weight
        total = cosine_loss(outputs[0], batch.y, weight)
        if seen.any():
            kept = None if weight is None else weight[seen]
            for out, target in zip(outputs[1:], (batch.y, batch.x, batch.x), strict=True):
                total = total + cosine_loss(out, target[seen], kept)
        return total

    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return texts as rows of the head; images and head rows as they are."""
        return rows if side == "x" else row_of_text(dict(self.heads), rows)


def row_of_text(heads: dict[str, nn.Module], texts: Tensor) -> Tensor:
    """Return ICIS's prediction: the head's decoder on the text's encoder."""
    rows, encoder = heads["x"], heads["y"]
    assert isinstance(rows, Autoencoder)
    assert isinstance(encoder, Autoencoder)
    out: Tensor = rows.decode(encoder.encode(texts))
    return out
