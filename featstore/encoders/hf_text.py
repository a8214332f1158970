"""Text encoder: a transformers model with the pooling that the caller names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from featstore.encoders.hf_model import (
    LoadedModel,
    check_hf_name,
    check_pooling,
    hf_space,
    load_hf,
    pooled,
)
from featstore.encoders.input_length import checked_max_length, longest_input
from featstore.encoders.precision import checked_precision
from featstore.encoders.text_tokens import PreparedText, TextTokenizer
from featstore.encoders.torch_runtime import checked_device
from featstore.encoders.torch_text import TorchTextEncoder
from featstore.encoders.transfer import transferring
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError

__all__ = ["HFTextEncoder", "check_hf_name", "open_hf"]


class HFTextEncoder(TorchTextEncoder):
    """A transformers text model: token states, pooled to one vector. Nothing is normalised.

    Parameters
    ----------
    name : str
        ``hf:roberta-base``.
    loaded : LoadedModel
        Network, tokenizer and files.
    pool : str
        ``cls``: the state of the first token (SimCSE's *cls before pooler*); ``mean``: of all
        tokens of the text, special ones included, padding not; ``pooler``: the model's own
        dense layer with tanh on the first token (supervised SimCSE); ``last``: the last token,
        for models that read from left to right.
    max_length : int, optional
        Longest input in tokens; by default as the tokenizer says, at most what the model has
        positions for.
    prefix : str
        Put before every text (E5's ``query: ``).
    weights : dict, optional
        Where the weights came from; recorded in `facts`.
    device : str
    batch_size : int, optional
        64 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``.
    trust_remote_code : bool
        Whether code of the model's own may have been run: then its hash is keyed.

    Raises
    ------
    EncoderError
        If the model has no such pooling, or its tokenizer does not fit it.
    """

    _tokens: TextTokenizer

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        *,
        pool: str,
        max_length: int | None = None,
        prefix: str = "",
        weights: dict[str, str] | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            name, device=device, batch_size=batch_size, threads=threads, precision=precision
        )
        network = loaded.network
        check_pooling(name, loaded, pool)
        if max_length is None:
            limits = [loaded.tokenizer.model_max_length, longest_input(network)]
            max_length = min(limit for limit in limits if limit is not None)
        limit = checked_max_length(name, max_length, network=network)
        self._pool = pool
        self._network: nn.Module = network
        self._tokens = TextTokenizer(loaded.tokenizer, name, limit=limit, prefix=prefix)
        self.space = hf_space(
            name,
            loaded,
            pool=pool,
            max_length=limit,
            prefix=prefix,
            trust_remote_code=trust_remote_code,
        )
        network.to(self._device)
        self.dim = int(self.encode([""]).shape[1])
        self.facts = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in network.parameters()),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def _vectors(self, texts: Sequence[PreparedText]) -> torch.Tensor:
        with transferring():
            inputs: dict[str, Any] = {
                name: tensor.to(self._device) for name, tensor in self._tokens.batch(texts).items()
            }
        output = self._network(**inputs, return_dict=True)
        return pooled(output, inputs["attention_mask"], self._pool)


def open_hf(
    name: str,
    *,
    pool: str | None = None,
    max_length: int | None = None,
    prefix: str | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
    trust_remote_code: bool = False,
) -> HFTextEncoder:
    """Build the encoder ``hf:<model>`` with weights from a folder or the hub.

    Parameters
    ----------
    name, weights, device, batch_size, threads, precision
        As for ``open_encoder``.
    pool : str
        ``cls``, ``mean``, ``pooler`` or ``last``; has to be given, because a transformers model
        says nothing about it and each makes another space.
    max_length, prefix
        As for `HFTextEncoder`.
    trust_remote_code : bool
        Whether code in the model's folder or repository may be run.

    Raises
    ------
    UnknownEncoderError
        If the name is not of the form of one.
    EncoderError
        If the weights do not come or are incomplete, or the pooling does not fit.
    """
    check_hf_name(name.partition(":")[2])
    source = parse_weights(weights, encoder=name)
    checked_precision(precision, checked_device(device))
    if pool is None:
        msg = (
            f"{name} needs a pooling: --pool (API: pool=) cls, mean, pooler or last. The model "
            "does not say which it was trained with; its card does."
        )
        raise EncoderError(msg)
    loaded = load_hf(name, source, trust_remote_code=trust_remote_code)
    facts = source.facts()
    if source.kind == "hub":
        facts["repository"] = name.partition(":")[2]
    return HFTextEncoder(
        name,
        loaded,
        pool=pool,
        max_length=max_length,
        prefix=prefix or "",
        weights=facts,
        device=device,
        batch_size=batch_size,
        threads=threads,
        precision=precision,
        trust_remote_code=trust_remote_code,
    )
