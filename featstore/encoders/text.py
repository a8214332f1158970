"""Text encoders: tokens, batches, and models of sentence-transformers and of transformers."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer

from featstore.encoders.base import TEXT_KINDS, EncoderOptions
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    TorchEncoder,
    checked_device,
    checked_precision,
)
from featstore.encoders.weights import (
    parse_weights,
    remote_code_facts,
)
from featstore.errors import EncoderError, lookup, unknown_name
from featstore.identity import weights_sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
from featstore.encoders.weights import ModelFiles


@dataclass(frozen=True, eq=False, slots=True)
class PreparedText:
    """Tokens of one text, cut at the model's longest input."""

    ids: np.ndarray
    """(length,) int64, prefix and special tokens included."""
    type_ids: np.ndarray | None
    """(length,) int64 segments, for models that take them."""
    truncated: bool
    """Whether tokens were cut off."""

    @property
    def length(self) -> int:
        """Tokens that the model sees."""
        return len(self.ids)


def checked_text(item: Any, encoder: str) -> str:
    """Return `item`, a text that can be tokenized.

    Raises
    ------
    EncoderError
        If it is no text, or holds half of a surrogate pair.
    """
    if not isinstance(item, str):
        raise EncoderError(f"{encoder} takes texts, got {type(item).__name__}.")
    try:
        item.encode("utf-8")
    except UnicodeEncodeError as err:
        raise EncoderError(
            f"{encoder} takes texts of whole characters; this one has half of one: {item[:40]!r}."
        ) from err
    return item


class TextTokenizer:
    """The tokenizer of a transformers model, with the model's longest input and a prefix.

    Safe in threads: the library's tokenizers keep their truncation as state, so one thread at a
    time uses it.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    encoder : str
        Name, for messages.
    limit : int, optional
        Tokens at most, special tokens included.
    prefix : str
        Put before every text.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: str,
        *,
        limit: int | None,
        prefix: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._limit = limit
        self._prefix = prefix
        self._lock = threading.Lock()
        self._pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        special = int(tokenizer.num_special_tokens_to_add(pair=False))
        if limit is not None and limit <= special:
            raise EncoderError(
                f"{encoder} adds {special} special tokens to every text, so its longest "
                f"input must be more than that. Got {limit} instead."
            )

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return the tokens of each text, by one call of the tokenizer.

        Raises
        ------
        EncoderError
            If one is no text.
        """
        texts = [self._prefix + checked_text(item, self._encoder) for item in items]
        cut = {"truncation": self._limit is not None, "max_length": self._limit}
        prepared = []
        with self._lock:
            tokens = self._tokenizer(texts, verbose=False, **cut)
            types = tokens["token_type_ids"] if self._with_types else [None] * len(texts)
            for text, ids, own in zip(texts, tokens["input_ids"], types, strict=True):
                # Only a text that fills the input may have been cut: it is tokenized once more.
                full = len(ids) == self._limit
                whole = self._tokenizer(text, verbose=False)["input_ids"] if full else ids
                segments = None if own is None else np.array(own, np.int64)
                prepared.append(
                    PreparedText(np.array(ids, np.int64), segments, len(whole) > len(ids))
                )
        return prepared

    def batch(self, texts: Sequence[PreparedText]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, padded on the right to the longest text of the batch."""

        def padded(rows: Iterable[np.ndarray | None], value: int = 0) -> torch.Tensor:
            tensors = [torch.from_numpy(row) for row in rows]
            return pad_sequence(tensors, batch_first=True, padding_value=value)

        ids = [text.ids for text in texts]
        found = {"input_ids": padded(ids, self._pad)}
        found["attention_mask"] = padded(np.ones_like(row) for row in ids)
        if self._with_types:
            found["token_type_ids"] = padded(text.type_ids for text in texts)
        return found


def find_files(name: str, options: EncoderOptions, repo: str) -> tuple[ModelFiles, dict[str, str]]:
    """Return the files of a text model, and what is recorded of where its weights are from.

    Parameters
    ----------
    name : str
        ``family:model``.
    options : EncoderOptions
        Weights, and a device and precision that are checked before anything is loaded.
    repo : str
        Where the hub has it.

    Raises
    ------
    EncoderError
        If the weights are a single file, are not there or belong to another model.
    """
    source = parse_weights(options.weights, encoder=name.replace(":sentence-transformers/", ":"))
    checked_precision(options.precision, checked_device(options.device))
    if source.kind == "hub":
        return ModelFiles(None, repo), {**source.facts(), "repository": repo}
    if source.path is None or not source.path.is_dir():
        raise EncoderError(
            f"{name} needs a folder (weights, configuration and tokenizer), got a single file."
        )
    return ModelFiles(source.path, None), source.facts()


class TorchTextEncoder(TorchEncoder):
    """Base of the text encoders: a subclass adds its model, tokens, space and `_vectors`."""

    kinds = TEXT_KINDS
    own_batch_size = 64
    _tokens: Any
    """With ``prepare_many`` of texts, and ``batch``: the model's inputs, on the host."""

    def __init__(self, name: str, options: EncoderOptions) -> None:
        super().__init__(name, options)
        self._copies = DeviceCopies(name, None, self._device)

    def _complete(
        self,
        network: Any,
        *,
        weights: dict[str, str] | None,
        versions: Mapping[str, str],
        tokenizer: Any,
        trusted: bool,
    ) -> None:
        """Move a network of transformers to the device; complete space, facts and length."""
        self.space |= remote_code_facts([*network.modules(), tokenizer], trusted=trusted)
        network.to(self._device)
        self.dim = int(self.encode_float32([""]).shape[1])
        self.facts |= {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in network.parameters()),
            "versions": {
                **versions, "torch": torch.__version__, "transformers": transformers.__version__,
            },
        }  # fmt: skip

    def prepare(self, item: Any) -> PreparedText:
        """Return the tokens of a text, cut at the model's longest input. Safe in threads.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        return self.prepare_many([item])[0]

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return what `prepare` does of each text, by one call of the tokenizer.

        Raises
        ------
        EncoderError
            If one is no text.
        """
        return self._tokens.prepare_many(items)

    def length(self, prepared: PreparedText) -> int:
        """Return how many tokens of a prepared text the model sees."""
        return prepared.length

    def is_truncated(self, prepared: PreparedText) -> bool:
        """Say whether a text was cut at the model's longest input."""
        return prepared.truncated

    def _computed(self, batch: Sequence[PreparedText | str], *, exact: bool) -> np.ndarray:
        texts = [self.prepare(item) if isinstance(item, str) else item for item in batch]
        inputs = {
            name: self._copies.moved(tensor) for name, tensor in self._tokens.batch(texts).items()
        }
        with self._running(exact=exact):
            vectors = HostCopy(self._vectors(inputs))
        return vectors.numpy()

    @abstractmethod
    def _vectors(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the (b, d) output of the model for a batch of tokens on its device."""


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
        raise EncoderError(
            f"The max_length of {name} must be at least 1{upper}. Got {max_length:,} instead."
        )
    return max_length


#: What a tokenizer without a limit says is far beyond this.
_NO_LIMIT = 10**6
#: Of the transformer's configuration, what its tensors do not show.
_ST_ARCHITECTURE = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps")
#: Names of tensors in checkpoints of long ago.
_OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))


class SentenceTransformerEncoder(TorchTextEncoder):
    """A sentence-transformers model: tokenizer, transformer, pooling and what follows.

    What the model does to its output it does here too (all-MiniLM normalises), and nothing
    more. Weights are held in float32 whatever they are stored in.

    Parameters
    ----------
    name : str
        ``st:all-MiniLM-L6-v2``.
    model : SentenceTransformer
    files : ModelFiles
        Where its files lie, for the hash of the tokenizer and the check that all was loaded.
    options : EncoderOptions
        Prompt name or prefix (by default the model's own default prompt), and how it is computed.
    weights : dict, optional
        Where the weights came from; recorded in `facts`.

    Raises
    ------
    EncoderError
        If the model is of another kind, or incomplete.
    """

    _tokens: TextTokenizer

    def __init__(
        self,
        name: str,
        model: SentenceTransformer,
        files: ModelFiles,
        options: EncoderOptions,
        *,
        weights: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, options)
        # float16 to float32 is exact, so the hash does not depend on which the library chose.
        self._model = model.float().eval()
        prefix = _prompt(name, model, options)
        self.space = text_space(self._model, name, files, prefix)
        if "message" in getattr(model[0], "modality_config", {}):
            raise EncoderError(
                f"{name} puts texts into a chat template, which is not served. Use the family hf "
                "with a prefix and pool=last, or pass an object to extract(encoder=...)."
            )
        limit = self.space["max_seq_length"]
        self._tokens = TextTokenizer(
            model.tokenizer,
            name,
            # A tokenizer without a limit of its own says 1e30.
            limit=limit if limit is not None and limit < _NO_LIMIT else None,
            prefix=prefix,
        )
        self._prefix_length = _prefix_length(model.tokenizer, prefix)
        self._complete(
            self._model, weights=weights, tokenizer=model.tokenizer,
            versions={"sentence-transformers": version("sentence-transformers")},
            trusted=options.trust_remote_code,
        )  # fmt: skip

    def _vectors(self, inputs: dict[str, Any]) -> torch.Tensor:
        if self._prefix_length:
            # Pooling leaves these tokens out, if the model says so.
            inputs["prompt_length"] = self._prefix_length
        vectors: torch.Tensor = self._model(inputs)["sentence_embedding"]
        return vectors


def _prefix_length(tokenizer: Any, prefix: str) -> int:
    """Return the tokens of a prefix, without the special token that would end a text."""
    if not prefix:
        return 0
    ids = tokenizer(prefix)["input_ids"]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)


def open_st(name: str, options: EncoderOptions) -> SentenceTransformerEncoder:
    """Build the encoder ``st:<model>`` with weights from a package, a folder or the hub.

    Raises
    ------
    EncoderError
        If the weights do not come, are incomplete or of another kind of model, or the model has
        no such prompt.
    """
    model_name = name.partition(":")[2]
    repo = model_name if "/" in model_name else f"sentence-transformers/{model_name}"
    files, facts = find_files(name, options, repo)
    if files.folder is not None and not (files.folder / "modules.json").is_file():
        # Without it the library would make up a mean pooling of its own.
        raise EncoderError(
            f"The folder '{files.folder.name}' holds no modules.json, so its pooling is unknown. "
            "Use a folder that sentence-transformers saved."
        )
    from sentence_transformers import SentenceTransformer

    with files.loading(name, options) as (where, keywords):
        model = SentenceTransformer(where, device="cpu", **keywords)
    if options.max_length is not None:
        network = model[0].auto_model
        model.max_seq_length = checked_max_length(name, options.max_length, network=network)
    return SentenceTransformerEncoder(name, model, files, options, weights=facts)


def _prompt(name: str, model: SentenceTransformer, options: EncoderOptions) -> str:
    """Return what is put before every text: as asked for, or the model's own default prompt."""
    prompts, requested = dict(sorted((model.prompts or {}).items())), options.prompt_name
    if requested is None and options.prefix is None:
        return str(prompts.get(model.default_prompt_name or "", ""))
    if requested is None:
        return str(options.prefix)
    if options.prefix is not None:
        raise EncoderError(
            f"{name} got both prompt_name={requested!r} and prefix={options.prefix!r}. Give one."
        )
    return str(lookup(prompts, requested, what="prompt", where=f"in {name}", error=EncoderError))


def text_space(model: Any, name: str, files: ModelFiles, prompt: str) -> dict[str, Any]:
    """Return the keyed facts of a loaded SentenceTransformer.

    Raises
    ------
    EncoderError
        If the model is not a transformer with pooling, or a tensor was not in its files.
    """
    modules = list(model)
    kinds = [type(module).__name__ for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise EncoderError(
            f"{name} is made of {', '.join(kinds)}; only models of a transformer with pooling "
            "are served. Use another model, or pass an object to extract(encoder=...)."
        )
    transformer, pooling, *rest = modules
    network = transformer.auto_model
    unused = _not_loaded(network, files, name)
    prefix = next(key for key, module in model.named_modules() if module is network)
    state = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if key.removeprefix(f"{prefix}.") not in unused
    }
    config = network.config.to_dict()
    limit, mode = model.max_seq_length, pooling.pooling_mode
    return {
        "family": "st",
        "name": name.partition(":")[2].removeprefix("sentence-transformers/"),
        "weights_sha256": weights_sha256(state),
        "architecture": {key: config[key] for key in _ST_ARCHITECTURE if key in config},
        "tokenizer_sha256": files.tokenizer_sha256(name),
        "max_seq_length": None if limit is None else int(limit),
        "lower_case": bool(getattr(transformer, "do_lower_case", False)),
        "pooling": {
            "mode": mode if isinstance(mode, str) else "+".join(mode),
            "include_prompt": bool(getattr(pooling, "include_prompt", True)),
        },
        "after_pooling": [_module_facts(module) for module in rest],
        "normalized": "Normalize" in kinds,
        "prompt": prompt,
    }


def _module_facts(module: Any) -> dict[str, Any]:
    """Return the kind of a module after pooling and, of a dense layer, its activation."""
    activation = getattr(module, "activation_function", None)
    more = {} if activation is None else {"activation": type(activation).__name__}
    return {"kind": type(module).__name__, **more}


def _not_loaded(network: Any, files: ModelFiles, encoder: str) -> set[str]:
    """Return the tensors of the pooler that no file holds; refuse any other.

    The library fills what is missing with random numbers and goes on. For the pooler that does
    not matter, since pooling takes the token states: it is left out of the hash, which else
    would differ at every load. Anything else would make the embeddings random.
    """
    stored = files.tensor_names()
    if stored is None:
        raise EncoderError(
            f"{encoder} has no model.safetensors, so what it loaded cannot be checked. Save it "
            "with safetensors (model.save_pretrained)."
        )
    base = f"{network.base_model_prefix}."
    present = {_today(key).removeprefix(base) for key in stored}
    state: Mapping[str, Any] = network.state_dict()
    # Tied tensors are stored under one of their names.
    present_data = {state[key].data_ptr() for key in present if key in state}
    missing = [
        key
        for key, tensor in state.items()
        if key not in present and tensor.data_ptr() not in present_data
    ]
    needed = [key for key in missing if not key.startswith("pooler.")]
    if needed:
        raise EncoderError(
            f"The weights of {encoder} are incomplete: {len(needed):,} of {len(state):,} tensors "
            f"are missing ({', '.join(needed[:3])}{', ...' * (len(needed) > 3)}). Give the "
            "complete folder of this model."
        )
    return set(missing)


def _today(key: str) -> str:
    for old, new in _OLD_NAMES:
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


#: Of a configuration, what its tensors do not show; each model has some of them.
_HF_ARCHITECTURE = (
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


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    # Summed in float32, whatever the states are in: a long text would lose digits.
    return (states * weights).float().sum(dim=1) / weights.float().sum(dim=1)


#: Pooling -> (b, d) vectors of a model's output and its mask, which is 1 on tokens, 0 on padding.
POOLS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "cls": lambda output, _: output.last_hidden_state[:, 0],
    "mean": lambda output, mask: _mean(output.last_hidden_state, mask),
    "pooler": lambda output, _: output.pooler_output,
    # Padding stands on the right.
    "last": lambda output, mask: output.last_hidden_state[
        torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1
    ],
}


def load_hf(name: str, files: ModelFiles, options: EncoderOptions) -> LoadedModel:
    """Load network and tokenizer from a folder or the hub; only safetensors, never a pickle.

    Raises
    ------
    EncoderError
        If they do not come.
    """
    with files.loading(name, options) as (where, keywords):
        tokenizer = AutoTokenizer.from_pretrained(where, **keywords)
        network, report = AutoModel.from_pretrained(
            where, use_safetensors=True, output_loading_info=True, **keywords
        )
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


class HFTextEncoder(TorchTextEncoder):
    """A transformers text model: token states, pooled to one vector. Nothing is normalised.

    Parameters
    ----------
    name : str
        ``hf:roberta-base``.
    loaded : LoadedModel
        Network, tokenizer and files.
    options : EncoderOptions
        pool, which has to be given: ``cls``: the state of the first token (SimCSE's *cls before
        pooler*); ``mean``: of all tokens of the text, special ones included, padding not;
        ``pooler``: the model's own dense layer with tanh on the first token (supervised SimCSE);
        ``last``: the last token, for models that read from left to right. max_length: by default
        as the tokenizer says, at most what the model has positions for. prefix: put before every
        text (E5's ``query: ``).
    weights : dict, optional
        Where the weights came from; recorded in `facts`.

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
        options: EncoderOptions,
        *,
        weights: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, options)
        network, pool, prefix = loaded.network, str(options.pool), options.prefix or ""
        check_pooling(name, loaded, pool)
        limit = options.max_length
        if limit is None:
            limits = [loaded.tokenizer.model_max_length, longest_input(network)]
            limit = min(limit for limit in limits if limit is not None)
        limit = checked_max_length(name, limit, network=network)
        self._pool = pool
        self._network: nn.Module = network
        self._tokens = TextTokenizer(loaded.tokenizer, name, limit=limit, prefix=prefix)
        config = network.config.to_dict()
        state = {
            key: tensor
            for key, tensor in network.state_dict().items()
            if pool == "pooler" or not _of_pooler(key)
        }
        self.space = {
            "family": "hf",
            "name": name.partition(":")[2],
            "weights_sha256": weights_sha256(state),
            "architecture": {
                key: config[key] for key in _HF_ARCHITECTURE if config.get(key) is not None
            },
            "tokenizer_sha256": loaded.files.tokenizer_sha256(name),
            "max_length": limit,
            "pool": pool,
            "prefix": prefix,
            "normalized": False,
        }
        self._complete(
            network, weights=weights, versions={}, tokenizer=loaded.tokenizer,
            trusted=options.trust_remote_code,
        )  # fmt: skip

    def _vectors(self, inputs: dict[str, Any]) -> torch.Tensor:
        output = self._network(**inputs, return_dict=True)
        return POOLS[self._pool](output, inputs["attention_mask"])


def open_hf(name: str, options: EncoderOptions) -> HFTextEncoder:
    """Build the encoder ``hf:<model>`` with weights from a folder or the hub.

    Its pooling has to be given, because a transformers model says nothing about it and each makes
    another space.

    Raises
    ------
    EncoderError
        If the weights do not come or are incomplete, or the pooling does not fit.
    """
    files, facts = find_files(name, options, name.partition(":")[2])
    if options.pool is None:
        raise EncoderError(
            f"{name} needs a pooling: -s pool= (API: pool=) cls, mean, pooler or last. The model "
            "does not say which it was trained with; its card does. A search takes st:NAME instead."
        )
    return HFTextEncoder(name, load_hf(name, files, options), options, weights=facts)
