"""What others do with the same images: clip-retrieval's reader and writer, and the usual loop."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featstore.encoders.base import Encoder

WORKERS = os.cpu_count() or 1


def loader_rows(encoder: Any, paths: list[Path], batch: int) -> list[np.ndarray]:
    """Return the rows of images as the usual loop gets them: a DataLoader of decoding processes."""
    from torch.utils.data import DataLoader

    data = LoaderData(encoder, paths)
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=batch,
        num_workers=WORKERS,
        collate_fn=list,
    )
    return [encoder.encode(part) for part in loader]


class LoaderData:
    """The items of the loop."""

    def __init__(self, encoder: Any, paths: list[Path]) -> None:
        self._encoder, self._paths = encoder, paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Any:
        with Image.open(self._paths[number]) as image:
            # The library's own transform, as the usual loop has it: floats.
            return self._encoder.preprocessing.transform(image.convert("RGB")).numpy()


def clip_retrieval() -> Callable[[Encoder, Path, Path, int], None] | None:
    """Return clip-retrieval's way from a folder of images to one npy and one Parquet file.

    Reader, runner and writer are those of the package, which must be installed (without its
    dependencies: they pin NumPy below 2, pyarrow below 16, sentence-transformers below 3). Its
    mapper downloads a CLIP model; in its place stands one that calls our encoder.

    Returns
    -------
    callable or None
        Called with encoder, folder of images, folder to write, and batch size. None if the
        package is not there.
    """
    found = find_spec("clip_retrieval")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "clip_inference"
    reader, runner, writer = (_module(folder / f"{name}.py") for name in _PARTS)

    def run(encoder: Encoder, images: Path, out: Path, batch: int) -> None:
        steps = runner.Runner(
            reader_builder=lambda sampler: reader.FilesReader(
                sampler, _Preprocess(encoder), None, images, batch, WORKERS, enable_text=False
            ),
            mapper_builder=lambda: _Mapper(encoder),
            writer_builder=lambda part: writer.NumpyWriter(
                part,
                str(out),
                enable_text=False,
                enable_image=True,
                enable_metadata=False,
                output_partition_count=1,
            ),
            logger_builder=lambda _: _Quiet(),
            output_partition_count=1,
        )
        with warnings.catch_warnings():
            # It pins memory whether or not there is a GPU.
            warnings.filterwarnings("ignore", message=".*pin_memory")
            steps(0)

    return run


_PARTS = ("reader", "runner", "writer")


def _module(path: Path) -> Any:
    """Import a file of the package without the package, which imports its web server."""
    spec = spec_from_file_location(f"clip_retrieval_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Preprocess:
    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __call__(self, image: Image.Image) -> Any:
        return self._encoder.preprocessing.transform(image.convert("RGB"))


class _Mapper:
    """Encodes a batch; rows are normalised and cast, as its own mapper does."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = self._encoder.encode(list(batch["image_tensor"].numpy()))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        names = batch["image_filename"]
        return {"image_embs": rows.astype(np.float16), "image_filename": names}


class _Quiet:
    """Logs nothing; its own logger would be a process more."""

    def start(self) -> None:
        """Begin."""

    def end(self) -> None:
        """End."""

    def __call__(self, _: dict[str, Any]) -> None:
        """Log a batch."""
