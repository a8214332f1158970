"""Tiny random text models with tokenizers trained here: whole folders, without any hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

CORPUS = [
    "a photo of a dog on a bridge",
    "two people stand in the rain",
    "one holds a large umbrella, the other a paper",
    "Ein Mann fährt auf einem roten Fahrrad über die Brücke.",
    "tench, Tinca tinca",
] * 4

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def _saved(inner, folder: Path, names: dict[str, str], inputs: list[str]):
    """Save a tokenizer as transformers does; return what transformers makes of it."""
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": token for name, token in names.items()}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **special)
    made.save_pretrained(folder)
    return made


def byte_level_bpe(folder: Path):
    """RoBERTa's tokenizer: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(CORPUS, vocab_size=350, special_tokens=special, show_progress=False)
    bpe.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>"}
    names |= {"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return _saved(bpe._tokenizer, folder, names, ["input_ids", "attention_mask"])


def word_piece(folder: Path):
    """BERT's tokenizer: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3."""
    inner = Tokenizer(WordPiece(unk_token="[UNK]"))
    inner.normalizer = BertNormalizer(lowercase=True)
    inner.pre_tokenizer = BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    return _saved(inner, folder, names, ["input_ids", "token_type_ids", "attention_mask"])


def save_random(kind, config, folder: Path) -> Path:
    """Save a random model of that class; the same one every time."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        network = kind(config)
        # Larger than at birth, so that every token and position shows in the output.
        with torch.no_grad():
            for tensor in network.parameters():
                if tensor.ndim == 2:
                    tensor.mul_(8)
    network.save_pretrained(folder)
    return folder


#: By model: its tokenizer, and what its configuration says beside TINY.
KINDS = {
    "roberta": (byte_level_bpe, {"max_position_embeddings": 42, "type_vocab_size": 1}),
    "bert": (word_piece, {"vocab_size": 300, "max_position_embeddings": 40}),
    "mpnet": (byte_level_bpe, {"max_position_embeddings": 42, "pad_token_id": 1}),
    "gpt2": (byte_level_bpe, {"max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": 2,
                              "pad_token_id": 1}),
}  # fmt: skip


def save_kind(kind: str, folder: Path) -> Path:
    """Save a tiny random model of a kind, with its tokenizer."""
    from transformers import AutoConfig, AutoModel

    tokenizer, options = KINDS[kind]
    tokenizer(folder)
    config = AutoConfig.for_model(kind, **{**TINY, "vocab_size": 350, **options})
    return save_random(AutoModel.from_config, config, folder)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def edit_json(path: Path, **changes) -> None:
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **changes})


def rewrite(folder: Path, change) -> None:
    """Let a function change the tensors of a model's folder."""
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def nudge(folder: Path, key: str = "encoder.layer.1.output.dense.bias") -> None:
    rewrite(folder, lambda state: state[key].view(-1)[0].add_(1e-6))


def without_pooler(folder: Path) -> None:
    """The library fills it with random numbers, at every load other ones."""
    rewrite(folder, lambda state: [state.pop(key) for key in [*state] if key.startswith("pooler.")])


#: Changes of a model's folder, each of which is keyed by whatever reads it.
MUTATIONS = {
    "weights": nudge,
    "activation": lambda f: edit_json(f / "config.json", hidden_act="gelu_new"),
    "heads": lambda f: edit_json(f / "config.json", num_attention_heads=4),
    "epsilon": lambda f: edit_json(f / "config.json", layer_norm_eps=1e-6),
    "tokenizer": lambda f: edit_json(f / "tokenizer.json", normalizer=None),
}
