"""Text encoders of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoTokenizer

from featstore.encoders.base import transferring
from featstore.encoders.quiet import quiet_transformers
from featstore.encoders.runtime import checked_device, checked_precision
from featstore.encoders.text_space import ModelFiles
from featstore.encoders.torch_text import (
    PreparedText,
    TextTokenizer,
    TorchTextEncoder,
    checked_max_length,
    longest_input,
)
from featstore.encoders.weights import (
    WeightsSource,
    hub_error,
    hub_unreachable,
    one_line,
    parse_weights,
    remote_code_facts,
)
from featstore.errors import EncoderError, UnknownEncoderError, unknown_name
from featstore.identity import weights_sha256

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

#: Of a configuration, what its tensors do not show; each model has some of them.
_ARCHITECTURE = (
    "model_type",
    "hidden_act",
    "hidden_activation",
    "activation",
    "activation_function",
    "num_attention_heads",
    "num_key_value_heads",
    "n_heads",
    "n_head",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "norm_eps",
    "pad_token_id",
    "rope_theta",
    "sliding_window",
    "local_attention",
    "relative_attention",
    "max_relative_positions",
    "relative_attention_num_buckets",
    "position_buckets",
    "pos_att_type",
)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Network and tokenizer of one model, and where their files lie."""

    network: Any
    """In float32, in evaluation mode."""
    tokenizer: Any
    files: ModelFiles
    missing: frozenset[str]
    """Tensors that no file holds; the library made them up."""


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(dim=1) - 1]  # padding stands on the right


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    # Summed in float32, whatever the states are in: a long text would lose digits.
    return (states * weights).float().sum(dim=1) / weights.float().sum(dim=1)


_POOLS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda states, _mask: states[:, 0],
    "mean": _mean,
    "last": _last,
}
POOLS: tuple[str, ...] = ("cls", "mean", "pooler", "last")


def pooled(output: Any, mask: torch.Tensor, pool: str) -> torch.Tensor:
    """Return the (b, d) vectors of a model's output; `mask` is 1 on tokens, 0 on padding."""
    if pool == "pooler":
        vectors: torch.Tensor = output.pooler_output
        return vectors
    return _POOLS[pool](output.last_hidden_state, mask)


def check_hf_name(model_name: str) -> None:
    """Refuse what cannot be the name of a model: ``model`` or ``owner/model``.

    Raises
    ------
    UnknownEncoderError
        If it is not of that form.
    """
    if not _NAME.fullmatch(model_name):
        raise UnknownEncoderError(
            f"No encoder named 'hf:{model_name}': a transformers model is named hf:model or "
            "hf:owner/model, for instance hf:roberta-base. A folder is given with --weights."
        )


def load_hf(name: str, source: WeightsSource, *, trust_remote_code: bool) -> LoadedModel:
    """Load network and tokenizer from a folder or the hub; only safetensors, never a pickle.

    Raises
    ------
    EncoderError
        If they do not come.
    """
    model_name = name.partition(":")[2]
    if source.kind == "hub":
        where, files = model_name, ModelFiles(None, model_name)
        unreachable = hub_unreachable()
    else:
        folder = source.path
        if folder is None or not folder.is_dir():
            raise EncoderError(
                f"{name} needs a folder (weights, configuration and tokenizer), got a single file."
            )
        where, files, unreachable = str(folder), ModelFiles(folder, None), None
    options: dict[str, Any] = {
        # What is in the cache already is used without the network.
        "local_files_only": source.kind != "hub" or unreachable is not None,
        "trust_remote_code": trust_remote_code,
    }
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            network, report = AutoModel.from_pretrained(
                where, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as err:  # missing, damaged or foreign files: each library has its own
        if source.kind == "hub":
            raise hub_error(name, unreachable or one_line(err)) from err
        reason = one_line(err).replace(where, Path(where).name)
        raise EncoderError(
            f"{name} could not be loaded from the folder '{Path(where).name}': {reason}"
        ) from err
    missing = frozenset(str(key) for key in report["missing_keys"])
    return LoadedModel(network.float().eval(), tokenizer, files, missing)


def check_pooling(name: str, loaded: LoadedModel, pool: str) -> None:
    """Refuse a pooling that a model does not have, and a model that is not whole.

    Raises
    ------
    EncoderError
        Saying what is wrong.
    """
    if pool not in POOLS:
        raise EncoderError(unknown_name("pool", pool, POOLS, where=f"for {name}"))
    network, config = loaded.network, loaded.network.config
    if getattr(config, "is_encoder_decoder", False):
        raise EncoderError(
            f"{name} is an encoder with a decoder; only models of one stack are served."
        )
    needed = sorted(key for key in loaded.missing if pool == "pooler" or not _of_pooler(key))
    if needed:
        total = len(network.state_dict())
        shown = ", ".join(needed[:3]) + ", ..." * (len(needed) > 3)
        # The library fills what is missing with random numbers and goes on.
        what = "has no trained pooler" if all(map(_of_pooler, needed)) else "is incomplete"
        raise EncoderError(
            f"{name} {what}: {len(needed):,} of {total:,} tensors are missing ({shown}). Take "
            "another pooling, or give the complete folder of this model."
        )
    if pool == "pooler" and not any(map(_of_pooler, network.state_dict())):
        raise EncoderError(f"{name} has no pooler. Take pool=cls or pool=mean.")
    _check_padding(name, loaded)
    causal = _is_causal(loaded)
    if causal and pool in ("cls", "pooler"):
        raise EncoderError(
            f"{name} reads from left to right: its first token knows nothing of the text. Take "
            "pool=last or pool=mean."
        )
    if pool == "last" and not causal:
        raise EncoderError(
            f"{name} reads in both directions, and its last token is only the mark of the end. "
            "Take pool=cls or pool=mean."
        )


def _of_pooler(key: str) -> bool:
    return key.startswith("pooler.")


def _check_padding(name: str, loaded: LoadedModel) -> None:
    """Refuse a tokenizer that pads with another token than the model takes for padding.

    RoBERTa and its kin count positions over tokens that are not padding: with another number
    they would give real tokens the wrong positions.
    """
    wanted = getattr(loaded.network.config, "pad_token_id", None)
    given = loaded.tokenizer.pad_token_id
    if wanted is not None and given is not None and wanted != given:
        raise EncoderError(
            f"The tokenizer of {name} pads with token {given}, the model with {wanted}. Give the "
            "tokenizer that belongs to this model."
        )


def _is_causal(loaded: LoadedModel) -> bool:
    """Say whether the first token is blind to the ones after it, by trying."""
    vocabulary = int(loaded.network.config.vocab_size)
    pad = getattr(loaded.network.config, "pad_token_id", None)
    first, one, other = [token for token in range(min(vocabulary, 4)) if token != pad][:3]
    ids = torch.tensor([[first, one], [first, other]])
    with torch.inference_mode():
        states = loaded.network(
            input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True
        ).last_hidden_state
    return bool(torch.allclose(states[0, 0], states[1, 0], rtol=1e-5, atol=1e-6))


def hf_space(
    name: str,
    loaded: LoadedModel,
    *,
    pool: str,
    max_length: int,
    prefix: str,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Return the keyed facts of a loaded model; a pooler that is not used is left out."""
    network = loaded.network
    config = network.config.to_dict()
    state = {
        key: tensor
        for key, tensor in network.state_dict().items()
        if pool == "pooler" or not _of_pooler(key)
    }
    return {
        "family": "hf",
        "name": name.partition(":")[2],
        "weights_sha256": weights_sha256(state),
        "architecture": {key: config[key] for key in _ARCHITECTURE if config.get(key) is not None},
        "tokenizer_sha256": loaded.files.tokenizer_sha256(name),
        "max_length": max_length,
        "pool": pool,
        "prefix": prefix,
        "normalized": False,
        **remote_code_facts([*network.modules(), loaded.tokenizer], trusted=trust_remote_code),
    }


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
        raise EncoderError(
            f"{name} needs a pooling: --pool (API: pool=) cls, mean, pooler or last. The model "
            "does not say which it was trained with; its card does."
        )
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
