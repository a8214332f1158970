"""``make gpu``: compare rows with the CPU's, measure, and write ``build/gpu.md``, to be pasted.

It fails where rows are wrong. A speed below its goal is told, beside what is to be expected.

On a machine without one, ``--device cpu --models timm:test_vit timm:test_convnext --images 64
--batch 8 --texts 64 --text-model 32 1`` shows that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.gpu.checks import Check, decode_on_the_device, table_of, text_rate, two_encoders
from tests.gpu.throughput import MODELS, Row, expectations, measure, write_table


def measured(asked: argparse.Namespace, folder: Path) -> tuple[list[Row], list[Check]]:
    """Measure all that is asked for, and write the tables after each part."""
    rows: list[Row] = []
    for model in asked.models:
        for precision in asked.precisions:
            row = measure(
                model,
                folder,
                device=asked.device,
                precision=precision,
                images=asked.images,
                batch=asked.batch or MODELS.get(model, 64),
            )
            rows.append(row)
            print(row, flush=True)
            write_table(rows, asked.out)
    common = {"device": asked.device, "precision": asked.precisions[0]}
    batch = {"batch_size": asked.batch or 256}
    checks: list[Check] = []
    if len(asked.models) > 1:
        pair = asked.models[:2]
        checks += two_encoders(pair, folder, images=asked.images, **batch, **common)
    checks.append(
        decode_on_the_device(asked.models[0], folder, images=asked.images, **batch, **common)
    )
    width, layers = asked.text_model
    checks.append(
        text_rate(folder, texts=asked.texts, width=width, layers=layers, **batch, **common)
    )
    write_table(rows, asked.out, more=["", *table_of(checks), "", *expectations(rows)])
    return rows, checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", nargs="+", help="default: all four, without open_clip three")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--images", type=int, default=16_384)
    parser.add_argument("--texts", type=int, default=262_144)
    parser.add_argument("--text-model", nargs=2, type=int, default=[384, 6], metavar="N",
                        help="width and layers")  # fmt: skip
    parser.add_argument("--batch", type=int, help="default: the model's")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.md"))
    asked = parser.parse_args()
    if asked.models is None:
        absent = find_spec("open_clip") is None
        asked.models = [name for name in MODELS if not (absent and name.startswith("oc:"))]
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use; nothing was measured.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rows, checks = measured(asked, Path(folder))
    print(asked.out.read_text())
    named = [*((f"{row.model} {row.precision}", row) for row in rows),
             *((check.name, check) for check in checks)]  # fmt: skip
    for name, one in named:
        if one.wrong:
            print(f"wrong rows: {name}")
        elif one.missed:
            print(f"slower than its goal: {name}")
    return 1 if any(one.wrong for _, one in named) else 0


if __name__ == "__main__":
    raise SystemExit(main())
