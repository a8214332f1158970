"""Extraction on a device against the bare model: the same rows, and how fast.

The bare forward pass runs on tensors that lie on the device already. Beside it, a real job
(reader, pipeline, store) encodes a manifest of JPEG files of which each is prepared once and then
remembered, so that decoding and resizing are off the limit and what is measured is the rest:
stacking, copying, the forward pass, reading back, writing; its pictures are tiny. A second job
decodes and prepares JPEG files of the size of photographs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

import featstore
from featstore.encoders.registry import open_encoder
from featstore.extraction.job import run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.images import decode_image
from featstore.manifest import Manifest, read_manifest, write_manifest

#: Architecture and batch size. All with random weights: speed does not depend on them.
MODELS = {
    "timm:vit_base_patch16_224": 256,
    "timm:beit_base_patch16_224": 256,
    "timm:convnext_base": 256,
    "oc:ViT-B-32": 512,
}

#: Images a second of the bare model by autocast on an RTX 4090, in timm's table
#: benchmark-infer-amp-nchw-pt291-cu128-4090.csv, and products a second of cards in such precisions,
#: dense, in 1e12, in their data sheets.
ON_4090 = {
    "timm:vit_base_patch16_224": 2_993,
    "timm:beit_base_patch16_224": 2_713,
    "timm:convnext_base": 2_102,
}
PRODUCTS = {"4090": 165, "H100": 989, "A100": 312, "L4": 121, "T4": 65}

#: How far off that may be: memory and launches do not grow with the products.
EXPECTED = 0.3

#: Share of the bare forward pass that a job should reach, and cosine to float32 on the CPU.
RATIO, COSINE = 0.95, 0.999

#: Files of the manifest; its items repeat them.
FILES = 64

#: Their sizes in turn: those of ImageNet's pictures and of larger photographs; and one that costs
#: nothing to decode.
SIZES = ((500, 375), (375, 500), (640, 480), (1024, 768))
TINY = ((64, 64),)

#: Width and height of each picture.
Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Row:
    """One line of the table; speeds are images a second."""

    card: str
    model: str
    precision: str
    compiled: bool
    batch: int
    images: int
    bare: float
    extract: float
    ratio: float
    from_jpeg: float
    jpeg_ratio: float
    cosine: float

    @property
    def missed(self) -> bool:
        """Whether a speed is below its goal; NaN is."""
        return not min(self.ratio, self.jpeg_ratio) >= RATIO

    @property
    def wrong(self) -> bool:
        """Whether its rows differ from the CPU's; NaN does."""
        return not self.cosine > COSINE


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


def measure(
    model: str,
    folder: Path,
    *,
    device: str,
    precision: str,
    images: int,
    batch: int,
    compiled: bool = False,
    checked: int = 16,
) -> Row:
    """Measure one model by two jobs of so many items; some rows are compared with the CPU's."""
    weights = random_weights(model, folder)
    tiny, photographs = manifest_of(folder, images, TINY), manifest_of(folder, images)
    encoder = open_encoder(
        model, kind="image", weights=weights, device=device, precision=precision, compile=compiled
    )
    uris = tiny.tables["image"]["uri"].head(checked).to_list()
    pictures = [encoder.prepare(decode_image(tiny.root / uri)) for uri in uris]
    prepared = list(encoder.preprocessing.floats(pictures).clone().numpy())
    encoder.encode([prepared[number % len(prepared)] for number in range(batch)])  # warm, compiled
    bare = bare_speed(
        model, weights, prepared, device=device, precision=precision, images=images, batch=batch,
        compiled=compiled,
    )  # fmt: skip
    speeds = {}
    # The tiny ones last: their rows are looked at.
    jobs = (("from_jpeg", encoder, photographs), ("extract", Remembering(encoder), tiny))
    for name, used, manifest in jobs:
        store = folder / f"store-{model.replace(':', '-')}-{precision}-{compiled}-{name}"
        job = Job(
            manifest,
            kind="image",
            encoders=[EncoderSpec(model, weights=str(weights))],
            store=store,
            config=ExtractConfig(
                device=device,
                precision=precision,
                batch_size=batch,
                dtype="float32",
                decode_timeout=None if name == "extract" else 60.0,
            ),
        ).open([used])
        started = time.perf_counter()
        (result,) = run_job(job)
        speeds[name] = images / (time.perf_counter() - started)
        assert (result.new, result.failed) == (images, 0)
    view = featstore.open_store(store).view(result.key)
    exact = cpu_float32(model, weights, prepared)
    return Row(
        card=torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU",
        model=model,
        precision=precision,
        compiled=compiled,
        batch=batch,
        images=images,
        bare=bare,
        extract=speeds["extract"],
        ratio=speeds["extract"] / bare,
        from_jpeg=speeds["from_jpeg"],
        jpeg_ratio=speeds["from_jpeg"] / bare,
        cosine=smallest_cosine(view.numpy(np.float32)[: len(exact)], exact),
    )


def bare_speed(
    model: str,
    weights: Path,
    prepared: Sequence[np.ndarray],
    *,
    device: str,
    precision: str,
    images: int,
    batch: int,
    compiled: bool,
) -> float:
    """Return the images a second of the bare model on pixels that lie on the device."""
    module, run = build_bare(model, weights)
    module = module.to(device)
    pixels = torch.from_numpy(
        np.stack([prepared[number % len(prepared)] for number in range(batch)])
    ).to(device)
    if "convnext" in model:
        module = module.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    forward: Any = torch.compile(run) if compiled else run
    kind = device.partition(":")[0]
    short = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    with torch.inference_mode(), torch.autocast(kind, dtype=short, enabled=short is not None):
        for _ in range(3):
            forward(module, pixels)
        synchronize(device)
        started = time.perf_counter()
        batches = max(1, images // batch)
        for _ in range(batches):
            forward(module, pixels)
        synchronize(device)
        return batches * batch / (time.perf_counter() - started)


def cpu_float32(model: str, weights: Path, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Return what the bare model gives on the CPU."""
    module, run = build_bare(model, weights)
    with torch.inference_mode():
        return run(module, torch.from_numpy(np.stack(prepared))).float().numpy()


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the smallest cosine of two rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.einsum("ij,ij->i", a, b) / norms).min())


def expectations(rows: Sequence[Row]) -> list[str]:
    """Return as Markdown what timm's table lets one expect of cards, beside what was measured."""
    cards = [card for card in PRODUCTS if card != "4090"]
    lines = [
        f"Expected of the bare pass (± {EXPECTED:.0%}): timm's table of an RTX 4090, by the",
        "products a second of the data sheets. Nothing fails here.",
        "",
        f"| model | {' | '.join(cards)} | measured |",
        "|---|---|---|---|---|---|",
    ]
    for model, known in ON_4090.items():
        each = [f"{known * PRODUCTS[card] / PRODUCTS['4090']:,.0f}" for card in cards]
        own = [
            f"{row.bare:,.0f} ({row.card}, {row.precision})" for row in rows if row.model == model
        ]
        lines.append(f"| {model} | {' | '.join(each)} | {'; '.join(own) or 'not here'} |")
    return lines


def write_table(rows: Sequence[Row], path: Path, *, more: Sequence[str] = ()) -> None:
    """Write the rows, and lines after them, as Markdown, and the rows as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    columns = ("card", "model", "precision", "compiled", "batch", "bare", "extract", "ratio",
               "JPEG", "ratio", "cosine")  # fmt: skip
    lines = [
        "Images a second: the bare forward pass on resident tensors; a job whose pictures are",
        "prepared once and repeated; a job that decodes and prepares JPEG files of 500×375 to",
        f"1024×768 pixels, on {cores} cores. Each job has its ratio to the bare pass. Cosine: the",
        f"smallest to float32 on the CPU. Goals: ratio {RATIO}, cosine {COSINE}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    lines += [
        f"| {row.card} | {row.model} | {row.precision} | {'yes' if row.compiled else 'no'} "
        f"| {row.batch} | {row.bare:,.0f} | {row.extract:,.0f} | {row.ratio:.3f} "
        f"| {row.from_jpeg:,.0f} | {row.jpeg_ratio:.3f} | {row.cosine:.6f} |"
        for row in rows
    ]
    path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
