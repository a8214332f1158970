"""Prompts of classes as token embeddings, with gaps that the context vectors fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fitters.errors import SettingError
from fitters.few_shot.prompt_learning.tower import TextTower

Position = Literal["end", "middle", "front"]
POSITIONS = ("end", "middle", "front")
"""Where the class name stands: behind the context, in its middle, or before it."""


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
        rows = torch.arange(len(self))[:, None]
        values = context.expand(len(self), -1, -1)
        return self.embedded.index_put((rows, self.gaps), values)

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
        One of `POSITIONS`. In the middle, the first m // 2 stand before the name.

    Raises
    ------
    SettingError
        If a name is blank, or a prompt is longer than the tower's context.
    """
    if position not in POSITIONS or n_context < 1:
        msg = (
            f"A prompt has at least one context vector and its class name at "
            f"{', '.join(POSITIONS)}; got {n_context} and {position!r}."
        )
        raise SettingError(msg)
    before = {"end": n_context, "middle": n_context // 2, "front": 0}[position]
    rows, gaps = [], []
    for name in names:
        cleaned = name.replace("_", " ").strip()
        # The full stop belongs to the last word where both are punctuation ("St." and "..").
        whole = tower.tokens(f"{cleaned}.")
        own = len(tower.tokens(cleaned)) if position != "end" else len(whole)
        if not cleaned:
            msg = "A class has a blank name. Prompts need the names of the classes."
            raise SettingError(msg)
        gap = [tower.end] * n_context
        ids = [tower.start, *gap[:before], *whole[:own], *gap[before:], *whole[own:], tower.end]
        if len(ids) > tower.context_length:
            most = tower.context_length - n_context - 2
            msg = (
                f"The name {name!r} has {len(whole)} tokens with its full stop; {tower.name} takes "
                f"{tower.context_length} tokens, which leave {most} beside {n_context} context "
                "vectors. Use fewer of them, or shorter names."
            )
            raise SettingError(msg)
        rows.append(ids)
        behind = 1 + before + own
        gaps.append([*range(1, 1 + before), *range(behind, behind + n_context - before)])
    longest = max(map(len, rows))
    padded = torch.tensor([row + [tower.end] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        embedded = tower.embed(padded)
    return Prompts(embedded, torch.tensor(gaps), torch.tensor([len(row) - 1 for row in rows]))


def word_vectors(tower: TextTower, words: str) -> Tensor:
    """Return the token embeddings of words as a first context, shape (m, w).

    Raises
    ------
    SettingError
        If there are none.
    """
    ids = tower.tokens(words.replace("_", " ").strip())
    if not ids:
        msg = f"The words {words!r} have no token. Give some, such as 'a photo of a'."
        raise SettingError(msg)
    with torch.no_grad():
        return tower.embed(torch.tensor([ids]))[0].clone()
