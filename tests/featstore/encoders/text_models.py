"""Tiny random text models with tokenizers trained here: whole folders, without any hub."""

from __future__ import annotations

from pathlib import Path

import torch
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


def byte_level_bpe(folder: Path):
    """RoBERTa's tokenizer: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4."""
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(CORPUS, vocab_size=350, special_tokens=special, show_progress=False)
    bpe.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def word_piece(folder: Path):
    """BERT's tokenizer: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordPiece(unk_token="[UNK]"))
    inner.normalizer = BertNormalizer(lowercase=True)
    inner.pre_tokenizer = BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


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


def save_roberta(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaModel

    byte_level_bpe(folder)
    config = RobertaConfig(**TINY, vocab_size=350, max_position_embeddings=42, type_vocab_size=1)
    return save_random(RobertaModel, config, folder)


def save_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    word_piece(folder)
    return save_random(
        BertModel, BertConfig(**TINY, vocab_size=300, max_position_embeddings=40), folder
    )


def save_mpnet(folder: Path) -> Path:
    from transformers import MPNetConfig, MPNetModel

    byte_level_bpe(folder)
    config = MPNetConfig(**TINY, vocab_size=350, max_position_embeddings=42, pad_token_id=1)
    return save_random(MPNetModel, config, folder)


def save_gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2Model

    byte_level_bpe(folder)
    config = GPT2Config(
        vocab_size=350, n_positions=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    return save_random(GPT2Model, config, folder)


SAVERS = {"roberta": save_roberta, "bert": save_bert, "mpnet": save_mpnet, "gpt2": save_gpt2}
