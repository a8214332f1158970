"""What a GPU must do beside one model's speed: two encoders in one pass, texts, decoding there.

Each check is a ratio of two speeds measured in this run, with a goal for it, and how alike rows are
that must be the same. Only rows can be wrong: a speed below its goal is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.encoders.base import length_batches
from featstore.manifest import write_manifest
from tests.gpu.throughput import (
    COSINE,
    RATIO,
    manifest_of,
    random_weights,
    smallest_cosine,
    synchronize,
)

#: Share of the rows that are the same bits beside another encoder; and what one pass, or a decoder
#: on the device, must at least do of what two passes, or processes, do.
SAME = 1.0

#: Smallest cosine between rows of pictures decoded by two libraries, which round differently.
DECODED = 0.99


@dataclass(frozen=True)
class Check:
    """One line of the second table: a ratio of speeds with its goal, and how alike rows are.

    `rows` is the share of those that are the same bits, or their smallest cosine.
    """

    name: str
    value: float | None
    goal: float = RATIO
    note: str = ""
    rows: float | None = None
    alike: float = COSINE

    @property
    def missed(self) -> bool:
        """Whether a speed was measured and is below its goal; NaN is."""
        return self.value is not None and not self.value >= self.goal

    @property
    def wrong(self) -> bool:
        """Whether rows were compared and differ; NaN does."""
        return self.rows is not None and not self.rows >= self.alike


def timed(manifest: Manifest, specs: Sequence[EncoderSpec], store: Path, **options: Any) -> Any:
    """Return the seconds of an extraction, and the rows of each of its sets."""
    kind = options.pop("kind", "image")
    config = ExtractConfig(dtype="float32", **options)
    started = time.perf_counter()
    done = extract_many(manifest, kind=kind, encoders=specs, store=store, config=config)
    seconds = time.perf_counter() - started
    opened = featstore.open_store(store)
    return seconds, [opened.view(one.key).numpy(np.float32) for one in done]


def two_encoders(
    models: Sequence[str], folder: Path, *, images: int, **options: Any
) -> Iterator[Check]:
    """Encode with two models in one pass and with each alone: the same bits, in less time."""
    manifest = manifest_of(folder, images)
    specs = [EncoderSpec(name, weights=str(random_weights(name, folder))) for name in models]
    timed(manifest, specs, folder / "warm", limit=2 * options["batch_size"], **options)
    seconds, together = timed(manifest, specs, folder / "together", **options)
    alone = [timed(manifest, [spec], folder / f"alone-{n}", **options) for n, spec in
             enumerate(specs)]  # fmt: skip
    for spec, ours, (_, (theirs,)) in zip(specs, together, alone, strict=True):
        same = float((ours.view(np.uint32) == theirs.view(np.uint32)).all(axis=1).mean())
        name = f"rows of {spec.encoder} beside another encoder, same bits"
        yield Check(name, None, rows=same, alike=SAME)
    yield Check(
        "two encoders in one pass, speed over one after the other",
        sum(one for one, _ in alone) / seconds,
        SAME,
        f"{images / seconds:,.0f} images/s with {' and '.join(models)}",
    )


def decode_on_the_device(model: str, folder: Path, *, images: int, **options: Any) -> Check:
    """Decode JPEG files on the device, and in processes."""
    name = "decode on the device, speed over decoding in processes"
    if not options["device"].startswith("cuda") or find_spec("torchvision") is None:
        return Check(name, None, SAME, "needs CUDA and torchvision")
    manifest = manifest_of(folder, images)
    specs = [EncoderSpec(model, weights=str(random_weights(model, folder)))]
    found = {}
    for decode in ("cpu", "gpu"):
        timed(manifest, specs, folder / f"warm-{decode}", limit=64, decode=decode, **options)
        found[decode] = timed(manifest, specs, folder / f"on-{decode}", decode=decode, **options)
    (cpu, (ours,)), (gpu, (theirs,)) = found["cpu"], found["gpu"]
    return Check(
        name, cpu / gpu, SAME, f"{images / gpu:,.0f} images/s",
        rows=smallest_cosine(ours, theirs), alike=DECODED,
    )  # fmt: skip


def random_bert(folder: Path, *, width: int, layers: int) -> Path:
    """Write a BERT with random weights and a tokenizer of letters; return its folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    heads = max(1, width // 32)
    BertModel(
        BertConfig(vocab_size=len(words), num_attention_heads=heads, **sizes)
    ).save_pretrained(folder)
    return folder


def text_rate(
    folder: Path, *, texts: int, width: int = 384, layers: int = 6, **options: Any
) -> Check:
    """Encode captions, and tokenise them and run the bare model in the same batches."""
    name = "texts, speed over tokenising and the bare forward pass"
    if find_spec("transformers") is None:
        return Check(name, None, RATIO, "needs transformers")
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, size=texts)
    captions = [" ".join(rng.choice(["cat", "on", "a", "mat", "."], size=n)) for n in lengths]
    ids = [f"t/{number}" for number in range(texts)]
    table = pl.DataFrame({"item_id": ids, "text": captions})
    manifest = write_manifest(
        folder / "texts", facts={"name": "t", "revision": "1"}, tables={"caption": table}
    )
    bert = random_bert(folder / "bert", width=width, layers=layers)
    specs = [EncoderSpec("hf:bert", weights=str(bert), pool="mean")]
    timed(manifest, specs, folder / "warm-text", kind="caption", limit=512, **options)
    ours, (rows,) = timed(manifest, specs, folder / "text", kind="caption", **options)
    bare, exact = _bare_texts(bert, captions, options)
    note = f"{texts / ours:,.0f} texts/s; the job's start is in it"
    return Check(name, bare / ours, RATIO, note, rows=smallest_cosine(rows, exact))


def _bare_texts(
    bert: Path, captions: list[str], options: dict[str, Any]
) -> tuple[float, np.ndarray]:
    """Return the seconds of the tokenizer and the model alone, block by block, and the rows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = AutoModel.from_pretrained(bert).eval().to(options["device"])
    short = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(options["precision"])
    kind = options["device"].partition(":")[0]
    with torch.inference_mode(), torch.autocast(kind, dtype=short, enabled=short is not None):
        for part in (captions[:512], captions):
            synchronize(options["device"])
            started = time.perf_counter()
            found = np.empty((len(part), model.config.hidden_size), np.float32)
            for start in range(0, len(part), 4096):
                block = tokenizer(part[start : start + 4096])["input_ids"]
                for rows in length_batches([len(ids) for ids in block], options["batch_size"]):
                    padded = tokenizer.pad(
                        {"input_ids": [block[row] for row in rows]}, return_tensors="pt"
                    ).to(options["device"])
                    hidden = model(**padded).last_hidden_state.float()
                    mask = padded["attention_mask"][..., None]
                    pooled = ((hidden * mask).sum(1) / mask.sum(1)).cpu()
                    found[start + np.asarray(rows)] = pooled.numpy()
            synchronize(options["device"])
    return time.perf_counter() - started, found


def table_of(checks: Sequence[Check]) -> list[str]:
    """Return the checks as lines of Markdown."""
    lines = ["| what | speed | goal | rows alike | at least | |", "|---|---|---|---|---|---|"]
    for one in checks:
        speed = "– | –" if one.value is None else f"{one.value:.3f} | {one.goal:g}"
        rows = "– | –" if one.rows is None else f"{one.rows:.6f} | {one.alike:g}"
        lines.append(f"| {one.name} | {speed} | {rows} | {one.note} |")
    return lines
