"""What learning a prompt needs of a text tower; fitters knows no encoder.

`featstore.encoders.open_clip_prompts` has one for open_clip's models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class TextTower(Protocol):
    """A frozen text tower that takes token embeddings.

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
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Return token embeddings, (b, l) to (b, l, width)."""
        ...

    def encode(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Return unit rows, differentiably: (b, l, width) and ends (b,) to (b, dim)."""
        ...
