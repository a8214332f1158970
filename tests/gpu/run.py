"""``make gpu``: compare rows with the CPU's, measure, and write ``build/gpu.md``, to be pasted.

Each line is a ratio of two speeds of this run with its goal, and how alike rows are that must be
the same. It fails where rows are wrong. A speed below its goal is told.

On a machine without one, ``--device cpu --models timm:test_vit timm:test_convnext --images 64
--batch 8 --texts 64 --text-model 32 1`` shows that it runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

import featstore
from featstore.encoders.base import length_batches
from featstore.encoders.registry import open_encoder
from featstore.extraction.job import run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.images import decode_image
from featstore.manifest.io import read_manifest, write_manifest
from featstore.manifest.manifest import Manifest

#: Architecture and batch size. All with random weights: speed does not depend on them.
MODELS = {
    "timm:vit_base_patch16_224": 256,
    "timm:beit_base_patch16_224": 256,
    "timm:convnext_base": 256,
    "oc:ViT-B-32": 512,
}

#: Share of the bare forward pass that a job should reach, and cosine to float32 on the CPU.
RATIO, COSINE = 0.95, 0.999

#: Share of the rows that are the same bits beside another encoder; and what one pass, or a decoder
#: on the device, must at least do of what two passes, or processes, do.
SAME = 1.0

#: Smallest cosine between rows of pictures decoded by two libraries, which round differently.
DECODED = 0.99


#: Files of the manifest; its items repeat them.
FILES = 64

#: Their sizes in turn: those of ImageNet's pictures and of larger photographs; and one that costs
#: nothing to decode.
SIZES = ((500, 375), (375, 500), (640, 480), (1024, 768))
TINY = ((64, 64),)

#: Width and height of each picture.
Sizes = Sequence[tuple[int, int]]


SHORT = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Check:
    """One line of the table: a ratio of speeds with its goal, and how alike rows are.

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


class Remembering:
    """An encoder that prepares each picture once; everything else is the encoder's."""

    #: Pictures are prepared here, and not in the processes that decode.
    geometry = None

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._prepared: dict[bytes, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def prepare(self, item: Image.Image) -> Any:
        key = hashlib.blake2b(item.tobytes(), digest_size=16).digest()
        if key not in self._prepared:
            self._prepared[key] = self._encoder.prepare(item)
        return self._prepared[key]


def make_manifest(root: Path, images: int, sizes: Sizes = SIZES) -> Manifest:
    """Write JPEG files of the size of photographs, and a manifest that names each many times.

    Smooth noise with a little grain: 500×375 pixels take about 60 KiB, as ImageNet's do.
    """
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(min(FILES, images)):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        width, height = sizes[number % len(sizes)]
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        grain = rng.integers(-12, 13, smooth.shape)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(root / "images" / f"{number:02d}.jpg", quality=90)
    table = pl.DataFrame(
        {
            "item_id": [f"g/{number:06d}" for number in range(images)],
            "uri": [f"images/{number % FILES:02d}.jpg" for number in range(images)],
        }
    )
    return write_manifest(root, facts={"name": "g", "revision": "1"}, tables={"image": table})


def manifest_of(folder: Path, images: int, sizes: Sizes = SIZES) -> Manifest:
    """Return the manifest of so many items in a folder, made with the first call."""
    place = folder / f"manifest-{images}-{sizes[0][0]}"
    return read_manifest(place) if place.exists() else make_manifest(place, images, sizes)


def random_weights(model: str, folder: Path) -> Path:
    """Write what the architecture is initialised with."""
    from safetensors.torch import save_file

    path = folder / f"{model.replace(':', '-')}.safetensors"
    if path.exists():
        return path
    state = {name: value.contiguous() for name, value in build_bare(model)[0].state_dict().items()}
    save_file(state, path)
    return path


def build_bare(
    model: str, weights: Path | None = None
) -> tuple[torch.nn.Module, Callable[..., torch.Tensor]]:
    """Return the library's own model, and what maps it and pixels to embeddings."""
    family, _, name = model.partition(":")
    if family == "oc":
        import open_clip

        module = open_clip.create_model(name)
        run = lambda module, pixels: module.encode_image(pixels)  # noqa: E731
    else:
        import timm

        module = timm.create_model(name, pretrained=False)
        run = lambda module, pixels: module.forward_head(  # noqa: E731
            module.forward_features(pixels), pre_logits=True
        )
    if weights is not None:
        from safetensors.torch import load_file

        module.load_state_dict(load_file(weights))
    return module.eval(), run


def timed(
    manifest: Manifest,
    specs: Sequence[EncoderSpec],
    store: Path,
    *,
    used: Sequence[Any] | None = None,
    kind: str = "image",
    **options: Any,
) -> tuple[float, list[np.ndarray]]:
    """Return the seconds of an extraction by open encoders, and the rows of each of its sets."""
    config = ExtractConfig(dtype="float32", **options)
    job = Job(manifest, kind=kind, encoders=specs, store=store, config=config).open(used)
    started = time.perf_counter()
    done = run_job(job)
    seconds = time.perf_counter() - started
    opened = featstore.open_store(store)
    return seconds, [opened.view(one.key).numpy(np.float32) for one in done]


def one_model(
    model: str,
    folder: Path,
    *,
    device: str,
    precision: str,
    images: int,
    batch: int,
    compiled: bool = False,
    checked: int = 16,
) -> Iterator[Check]:
    """Compare jobs with the bare forward pass on tensors that lie on the device already.

    The pictures of one are tiny, and prepared once: what is left is stacking, copying, the forward
    pass, reading back and writing. Another decodes and prepares JPEG files of photographs.
    """
    weights = random_weights(model, folder)
    tiny, photographs = manifest_of(folder, images, TINY), manifest_of(folder, images)
    encoder = open_encoder(
        model, kind="image", weights=weights, device=device, precision=precision, compile=compiled
    )
    uris = tiny.tables["image"]["uri"].head(checked).to_list()
    pictures = [encoder.prepare(decode_image(tiny.root / uri)) for uri in uris]
    prepared = encoder.preprocessing.floats(pictures).clone()
    repeated = prepared[torch.arange(batch) % len(prepared)]
    encoder.encode([*repeated.numpy()])  # warm, compiled
    bare = bare_speed(
        model, weights, repeated, device=device, precision=precision, images=images,
        compiled=compiled,
    )  # fmt: skip
    name = f"{model}, {precision}{', compiled' * compiled}, batches of {batch}"
    specs = [EncoderSpec(model, weights=str(weights))]
    common = {"device": device, "precision": precision, "batch_size": batch}
    for what, used, manifest, patience in (
        ("JPEG files", encoder, photographs, 60.0),
        ("prepared pictures", Remembering(encoder), tiny, None),
    ):
        store = folder / f"{name} {what}".replace(":", "-")
        seconds, (rows,) = timed(
            manifest, specs, store, used=[used], decode_timeout=patience, **common
        )
        speed = images / seconds
        note = f"{speed:,.0f} of {bare:,.0f} images/s"
        same = None
        if manifest is tiny:
            same = smallest_cosine(rows[: len(prepared)], cpu_float32(model, weights, prepared))
        yield Check(f"{name}: {what}", speed / bare, RATIO, note, same)


def bare_speed(
    model: str,
    weights: Path,
    pixels: torch.Tensor,
    *,
    device: str,
    precision: str,
    images: int,
    compiled: bool,
) -> float:
    """Return the images a second of the bare model on pixels that lie on the device."""
    module, run = build_bare(model, weights)
    module, pixels = module.to(device), pixels.to(device)
    if "convnext" in model:
        module = module.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    forward: Any = torch.compile(run) if compiled else run
    with bare_precision(device, precision):
        for _ in range(3):
            forward(module, pixels)
        synchronize(device)
        started = time.perf_counter()
        batches = max(1, images // len(pixels))
        for _ in range(batches):
            forward(module, pixels)
        synchronize(device)
        return batches * len(pixels) / (time.perf_counter() - started)


@contextmanager
def bare_precision(device: str, precision: str) -> Iterator[None]:
    """Run what is below in a precision, by autocast."""
    kind, short = device.partition(":")[0], SHORT[precision]
    with torch.inference_mode(), torch.autocast(kind, dtype=short, enabled=short is not None):
        yield


def cpu_float32(model: str, weights: Path, prepared: torch.Tensor) -> np.ndarray:
    """Return what the bare model gives on the CPU."""
    module, run = build_bare(model, weights)
    with torch.inference_mode():
        return run(module, prepared).float().numpy()


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the smallest cosine of two rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.einsum("ij,ij->i", a, b) / norms).min())


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


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
    note = f"{texts / ours:,.0f} texts/s"
    return Check(name, bare / ours, RATIO, note, rows=smallest_cosine(rows, exact))


def _bare_texts(
    bert: Path, captions: list[str], options: dict[str, Any]
) -> tuple[float, np.ndarray]:
    """Return the seconds of the tokenizer and the model alone, block by block, and the rows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = AutoModel.from_pretrained(bert).eval().to(options["device"])
    with bare_precision(options["device"], options["precision"]):
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


def every_check(asked: argparse.Namespace, folder: Path) -> Iterator[Check]:
    """Measure all that is asked for."""
    for model in asked.models:
        for precision in asked.precisions:
            for compiled in (False, True) if asked.compile else (False,):
                if not compiled or model.startswith("timm:"):
                    yield from one_model(
                        model, folder, device=asked.device, precision=precision,
                        images=asked.images, batch=asked.batch or MODELS.get(model, 64),
                        compiled=compiled,
                    )  # fmt: skip
    common = {"device": asked.device, "precision": asked.precisions[0],
              "batch_size": asked.batch or 256}  # fmt: skip
    if len(asked.models) > 1:
        yield from two_encoders(asked.models[:2], folder, images=asked.images, **common)
    yield decode_on_the_device(asked.models[0], folder, images=asked.images, **common)
    width, layers = asked.text_model
    yield text_rate(folder, texts=asked.texts, width=width, layers=layers, **common)


def write_table(checks: Sequence[Check], device: str, path: Path) -> None:
    """Write the checks as Markdown."""
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"On {card}, with {cores} cores. A speed is a job's over that of the bare forward pass,",
        "or of what is named. Rows alike: their smallest cosine, or the share with the same bits.",
        "",
        "| what | speed | goal | rows alike | at least | |",
        "|---|---|---|---|---|---|",
    ]
    for one in checks:
        speed = "– | –" if one.value is None else f"{one.value:.3f} | {one.goal:g}"
        rows = "– | –" if one.rows is None else f"{one.rows:.6f} | {one.alike:g}"
        lines.append(f"| {one.name} | {speed} | {rows} | {one.note} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", nargs="+", help="default: all four, without open_clip three")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--images", type=int, default=16_384)
    parser.add_argument("--texts", type=int, default=262_144)
    parser.add_argument("--text-model", nargs=2, type=int, default=[384, 6], metavar="N",
                        help="width and layers")  # fmt: skip
    parser.add_argument("--batch", type=int, help="default: the model's")
    parser.add_argument("--compile", action="store_true", help="timm models compiled as well")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.md"))
    asked = parser.parse_args(words)
    if asked.models is None:
        absent = find_spec("open_clip") is None
        asked.models = [name for name in MODELS if not (absent and name.startswith("oc:"))]
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use; nothing was measured.")
        return 1
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        for check in every_check(asked, Path(folder)):
            checks.append(check)
            write_table(checks, asked.device, asked.out)
    print(asked.out.read_text())
    for check in checks:
        if check.wrong:
            print(f"wrong rows: {check.name}")
        elif check.missed:
            print(f"slower than its goal: {check.name}")
    return int(any(check.wrong for check in checks))


if __name__ == "__main__":
    raise SystemExit(main())
