"""``make gpu``: compare rows with the CPU's, measure, and write ``build/gpu.md``, to be pasted.

Each line is a ratio of two speeds of this run with its goal, and how alike rows are that must be
the same. It fails where rows are wrong. A speed below its goal is told.

On a machine without one, ``--device cpu --models timm:test_vit timm:test_convnext --images 64
--batch 8`` shows that it runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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

#: Share of the bare forward pass that a job should reach, and cosine to float32 on the CPU.
RATIO, COSINE = 0.95, 0.999

#: Files of a manifest, whose items repeat them.
FILES = 64

#: Sizes of pictures in turn: ImageNet's and larger photographs; and what costs nothing to decode.
SIZES = ((500, 375), (375, 500), (640, 480), (1024, 768))
TINY = ((64, 64),)


@dataclass(frozen=True)
class Check:
    """One line of the table: a ratio of speeds with its goal, and how alike rows are.

    `rows` is their smallest cosine.
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


def manifest_of(folder: Path, images: int, sizes: Sequence[tuple[int, int]] = SIZES) -> Manifest:
    """Return the manifest of so many JPEG files in a folder, made with the first call.

    Smooth noise with a little grain: 500×375 pixels take about 60 KiB, as ImageNet's do.
    """
    root = folder / f"manifest-{images}-{sizes[0][0]}"
    if root.exists():
        return read_manifest(root)
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(min(FILES, images)):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(sizes[number % len(sizes)], Image.Resampling.BICUBIC))
        grain = rng.integers(-12, 13, smooth.shape)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(root / "images" / f"{number:02d}.jpg", quality=90)
    ids = [f"g/{number:06d}" for number in range(images)]
    uris = [f"images/{number % FILES:02d}.jpg" for number in range(images)]
    table = pl.DataFrame({"item_id": ids, "uri": uris})
    return write_manifest(root, facts={"name": "g", "revision": "1"}, tables={"image": table})


def random_weights(model: str, folder: Path) -> Path:
    """Write what the architecture is initialised with."""
    from safetensors.torch import save_file

    path = folder / f"{model.replace(':', '-')}.safetensors"
    if not path.exists():
        state = build_bare(model)[0].state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, path)
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
    manifest: Manifest, model: str, folder: Path, store: str, used: Any = None, **options: Any
) -> tuple[float, np.ndarray]:
    """Return the seconds of an extraction by an open encoder, perhaps `used`, and its rows."""
    config = ExtractConfig(dtype="float32", **options)
    specs = [EncoderSpec(model, weights=str(random_weights(model, folder)))]
    job = Job(manifest, kind="image", encoders=specs, store=folder / store, config=config)
    job = job.open(None if used is None else [used])
    started = time.perf_counter()
    (done,) = run_job(job)
    seconds = time.perf_counter() - started
    return seconds, featstore.open_store(folder / store).view(done.key).numpy(np.float32)


def one_model(
    model: str,
    folder: Path,
    *,
    device: str,
    precision: str,
    images: int,
    batch: int,
    checked: int = 16,
) -> Iterator[Check]:
    """Compare jobs with the bare forward pass on tensors that lie on the device already.

    The pictures of one are tiny, and prepared once: what is left is stacking, copying, the forward
    pass, reading back and writing. Another decodes and prepares JPEG files of photographs.
    """
    weights = random_weights(model, folder)
    tiny, photographs = manifest_of(folder, images, TINY), manifest_of(folder, images)
    encoder = open_encoder(model, kind="image", weights=weights, device=device, precision=precision)
    uris = tiny.tables["image"]["uri"].head(checked).to_list()
    pictures = [encoder.prepare(decode_image(tiny.root / uri)) for uri in uris]
    prepared = encoder.preprocessing.floats(torch.from_numpy(np.stack(pictures)))
    repeated = prepared[torch.arange(batch) % len(prepared)]
    encoder.encode([*repeated.numpy()])  # warm
    bare = bare_speed(model, weights, repeated, device=device, precision=precision, images=images)
    name = f"{model}, {precision}, batches of {batch}"
    common = {"device": device, "precision": precision, "batch_size": batch}
    for what, used, manifest, patience in (
        ("JPEG files", encoder, photographs, 60.0),
        ("prepared pictures", Remembering(encoder), tiny, None),
    ):
        store = f"{name} {what}".replace(":", "-")
        seconds, rows = timed(
            manifest, model, folder, store, used, decode_timeout=patience, **common
        )
        speed = images / seconds
        note = f"{speed:,.0f} of {bare:,.0f} images/s"
        same = None
        if manifest is tiny:
            same = smallest_cosine(rows[: len(prepared)], cpu_float32(model, weights, prepared))
        yield Check(f"{name}: {what}", speed / bare, RATIO, note, same)


def bare_speed(
    model: str, weights: Path, pixels: torch.Tensor, *, device: str, precision: str, images: int
) -> float:
    """Return the images a second of the bare model on pixels that lie on the device."""
    module, run = build_bare(model, weights)
    module, pixels = module.to(device), pixels.to(device)
    if "convnext" in model:
        module = module.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    kind, short = device.partition(":")[0], precision != "float32"
    with torch.inference_mode(), torch.autocast(kind, getattr(torch, precision), enabled=short):
        for _ in range(3):
            found = run(module, pixels)
        found.sum().item()  # waits until the device has done all
        batches = max(1, images // len(pixels))
        started = time.perf_counter()
        for _ in range(batches):
            found = run(module, pixels)
        found.sum().item()
        return batches * len(pixels) / (time.perf_counter() - started)


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


def every_check(asked: argparse.Namespace, folder: Path) -> Iterator[Check]:
    """Measure all that is asked for."""
    for model in asked.models:
        for precision in asked.precisions:
            yield from one_model(
                model, folder, device=asked.device, precision=precision, images=asked.images,
                batch=asked.batch or MODELS.get(model, 64),
            )  # fmt: skip


def write_table(checks: Sequence[Check], device: str, path: Path) -> None:
    """Write the checks as Markdown."""
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"On {card}, with {cores} cores. A speed is a job's over that of the bare forward pass,",
        "or of what is named. Rows alike: their smallest cosine.",
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
    parser.add_argument("--batch", type=int, help="default: the model's")
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
