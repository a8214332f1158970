"""How many tokens a transformer can take: its table of positions says, not its tokenizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from featstore.errors import EncoderError


def longest_input(network: Any) -> int | None:
    """Return the most tokens that a network has positions for, or None if it has no table.

    Where positions are counted from the padding index (RoBERTa, MPNet), the first of them are
    never a token's: 514 rows make 512 tokens.
    """
    for name, module in network.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - first
    config = getattr(network, "config", None)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(limit) if limit is not None and limit > 0 else None


def checked_max_length(name: str, max_length: int, *, network: Any) -> int:
    """Return `max_length` if the network can take that many tokens.

    Raises
    ------
    EncoderError
        If it cannot.
    """
    limit = longest_input(network)
    if max_length < 1 or (limit is not None and max_length > limit):
        upper = "" if limit is None else f" and at most {limit:,}, the positions that it has"
        msg = f"The max_length of {name} must be at least 1{upper}. Got {max_length:,} instead."
        raise EncoderError(msg)
    return max_length
