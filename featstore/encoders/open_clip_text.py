"""Text encoder: the text tower of an open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch

from featstore.encoders.hub import hub_unreachable
from featstore.encoders.open_clip_model import OpenClipPair
from featstore.encoders.open_clip_tokens import OpenClipTokens
from featstore.encoders.quiet import quiet_root_logger, quiet_transformers
from featstore.encoders.text_tokens import PreparedText
from featstore.encoders.torch_text import TorchTextEncoder
from featstore.encoders.transfer import transferring
from featstore.encoders.weights import one_line
from featstore.errors import EncoderError

#: Tensors of a pair that are not the text tower's.
_OTHER = ("visual.", "logit_", "text_decoder.")


class OpenClipTextEncoder(TorchTextEncoder):
    """``encode_text(normalize=False)`` of an open_clip model.

    Parameters
    ----------
    pair : OpenClipPair
    device : str
    batch_size : int, optional
        64 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``.
    """

    _tokens: OpenClipTokens

    def __init__(
        self,
        pair: OpenClipPair,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(
            pair.name, device=device, batch_size=batch_size, threads=threads, precision=precision
        )
        tokenizer, source = _tokenizer(pair)
        self._tokens = OpenClipTokens(tokenizer, pair.name)
        model: Any = pair.model
        state = {
            key: value for key, value in model.state_dict().items() if not key.startswith(_OTHER)
        }
        tower = getattr(model, "text", None) or model.transformer
        self.space = {
            **pair.tower_space("text", state, tower),
            "tokenizer": self._tokens.space(source),
        }
        self._model = model.to(self._device)
        self.dim = int(self.encode([""]).shape[1])
        self.facts = {
            **pair.facts(),
            "parameters": sum(tensor.numel() for tensor in state.values()),
        }

    @property
    def model(self) -> Any:
        """The open_clip model, both towers."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The open_clip tokenizer."""
        return self._tokens.tokenizer

    def _vectors(self, texts: Sequence[PreparedText]) -> torch.Tensor:
        with transferring():
            ids = torch.from_numpy(np.stack([text.ids for text in texts])).to(self._device)
        vectors: torch.Tensor = self._model.encode_text(ids, normalize=False)
        return vectors


def _tokenizer(pair: OpenClipPair) -> tuple[Any, str]:
    """Return a pair's tokenizer, and the folder or repository of its files."""
    folder = pair.tokenizer_name.removeprefix("local-dir:")
    local = folder != pair.tokenizer_name
    config = open_clip.get_model_config(pair.tokenizer_name)["text_cfg"]
    repo = str(config.get("hf_tokenizer_name") or "")
    # Asked once, because the library would retry for a minute.
    unreachable = hub_unreachable() if repo and not local else None
    options = {"local_files_only": local or unreachable is not None} if repo else {}
    try:
        with quiet_root_logger(), quiet_transformers():
            tokenizer = open_clip.get_tokenizer(pair.tokenizer_name, **options)
    except Exception as err:  # network, disk and format errors of three libraries
        reason = one_line(err)
        if local:
            where = f"its folder: {reason.replace(folder, 'the folder')}"
        else:
            where = f"the hub ({repo}): {unreachable or reason}"
        msg = (
            f"The tokenizer of {pair.name} could not be read from {where} Give a folder that "
            "open_clip saved, with configuration, weights and tokenizer."
        )
        raise EncoderError(msg) from err
    return tokenizer, folder if local else repo
