"""The same rows on a GPU as in float32 on the CPU; speed is `make gpu`'s affair.

What a GPU machine runs, a tiny model runs on the CPU here: the functions are the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.throughput import (
    COSINE,
    MODELS,
    Row,
    expectations,
    measure,
    smallest_cosine,
    write_table,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", MODELS)
def test_rows_are_those_of_float32_on_the_cpu(model: str, precision: str, tmp_path: Path) -> None:
    row = measure(
        model, tmp_path, device="cuda:0", precision=precision, images=512, batch=128
    )  # fmt: skip
    assert row.cosine > COSINE


def test_what_a_gpu_machine_runs_runs_here_on_a_tiny_model(tmp_path: Path) -> None:
    row = measure(
        "timm:test_convnext", tmp_path, device="cpu", precision="bfloat16", images=16, batch=8,
        checked=8,
    )  # fmt: skip
    assert (row.card, row.images, row.batch) == ("CPU", 16, 8)
    assert row.cosine > COSINE
    assert (row.ratio, row.jpeg_ratio) == (row.extract / row.bare, row.from_jpeg / row.bare)
    write_table([row], tmp_path / "table.md", more=["the end"])
    line, last = (tmp_path / "table.md").read_text().splitlines()[-2:]
    assert last == "the end"
    assert line.split(" | ")[1:3] == ["timm:test_convnext", "bfloat16"]
    assert [Row(**one) for one in json.loads((tmp_path / "table.json").read_text())] == [row]


def test_what_is_expected_stands_beside_what_was_measured_and_only_rows_are_wrong() -> None:
    known = dict.fromkeys(Row.__annotations__, 1.0) | {
        "card": "NVIDIA H100", "model": "timm:convnext_base", "precision": "bfloat16", "bare": 9e3,
    }  # fmt: skip
    slow, wrong = Row(**known | {"ratio": 0.5}), Row(**known | {"cosine": float("nan")})
    assert [(one.missed, one.wrong) for one in (slow, wrong)] == [(True, False), (False, True)]
    line = expectations([slow])[-1]
    # By hand: 2,102 images/s on a card of 165, and one of 989, 312, 121 and 65.
    assert line == (
        "| timm:convnext_base | 12,599 | 3,975 | 1,541 | 828 | 9,000 (NVIDIA H100, bfloat16) |"
    )


def test_the_smallest_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    b = np.array([[2.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
    assert smallest_cosine(a, b) == pytest.approx(np.sqrt(0.5))
