"""``make gpu``: measure the four models on this machine's GPU and write ``build/gpu.md``.

On a machine without one, ``--device cpu --models timm:test_vit --images 64`` shows that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from tests.gpu.throughput import COSINE, MODELS, RATIO, measure, write_table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--images", type=int, default=16_384)
    parser.add_argument("--batch", type=int, help="default: the model's")
    parser.add_argument("--compile", action="store_true", help="timm models compiled as well")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.md"))
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use; nothing was measured.")
        return 1
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.models:
            for precision in asked.precisions:
                for compiled in (False, True) if asked.compile else (False,):
                    if compiled and not model.startswith("timm:"):
                        continue
                    row = measure(
                        model,
                        Path(folder),
                        device=asked.device,
                        precision=precision,
                        images=asked.images,
                        batch=asked.batch or MODELS.get(model, 64),
                        compiled=compiled,
                    )
                    rows.append(row)
                    print(row, flush=True)
                    write_table(rows, asked.out)
    print(asked.out.read_text())
    missed = [row for row in rows if row.cosine <= COSINE or row.ratio < RATIO]
    for row in missed:
        print(f"below its goal: {row.model} {row.precision}")
    return 1 if any(row.cosine <= COSINE for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
