"""Text encoder: a sentence-transformers model as it was published, and its keyed facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

from featstore.encoders.base import EncoderOptions
from featstore.encoders.torch_text import (
    ModelFiles,
    TextTokenizer,
    TorchTextEncoder,
    checked_max_length,
    find_files,
)
from featstore.errors import EncoderError, lookup
from featstore.identity import weights_sha256

#: What a tokenizer without a limit says is far beyond this.
_NO_LIMIT = 10**6
#: Of the transformer's configuration, what its tensors do not show.
_ARCHITECTURE = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps")
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
            versions={"sentence-transformers": sentence_transformers.__version__},
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


def open_text(name: str, options: EncoderOptions) -> SentenceTransformerEncoder:
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
    limit = model.max_seq_length
    return {
        "family": "st",
        "name": name.partition(":")[2].removeprefix("sentence-transformers/"),
        "weights_sha256": weights_sha256(state),
        "architecture": {key: config[key] for key in _ARCHITECTURE if key in config},
        "tokenizer_sha256": files.tokenizer_sha256(name),
        "max_seq_length": None if limit is None else int(limit),
        "lower_case": bool(getattr(transformer, "do_lower_case", False)),
        "pooling": {
            "mode": pooling_mode(pooling),
            "include_prompt": bool(getattr(pooling, "include_prompt", True)),
        },
        "after_pooling": [_module_facts(module) for module in rest],
        "normalized": "Normalize" in kinds,
        "prompt": prompt,
    }


def pooling_mode(pooling: Any) -> str:
    """Return the pooling of a model, ``mean`` or ``cls+max``."""
    mode = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


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
