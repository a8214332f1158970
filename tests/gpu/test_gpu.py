"""The same rows on a GPU as in float32 on the CPU; speed is `make gpu`'s affair.

What a GPU machine runs, a tiny model runs on the CPU here: the functions are the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.run import MODELS, Check, main, one_model, smallest_cosine

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", MODELS)
def test_rows_are_those_of_float32_on_the_cpu(model: str, precision: str, tmp_path: Path) -> None:
    checks = one_model(model, tmp_path, device="cuda:0", precision=precision, images=512, batch=128)
    assert [check.rows for check in checks if check.wrong] == []


@pytest.mark.slow
def test_what_a_gpu_machine_runs_runs_here_on_a_tiny_model(tmp_path: Path) -> None:
    words = "--device cpu --models timm:test_convnext --precisions bfloat16 --images 8 --batch 4"
    assert main([*words.split(), "--out", str(tmp_path / "table.md")]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()[5:]
    assert [line.split(" | ")[3] == "–" for line in lines] == [True, False]


def test_only_rows_are_wrong() -> None:
    slow, wrong = Check("a", 0.5, rows=1.0), Check("b", None, rows=float("nan"))
    assert [(one.missed, one.wrong) for one in (slow, wrong)] == [(True, False), (False, True)]


def test_the_smallest_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    b = np.array([[2.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
    assert smallest_cosine(a, b) == pytest.approx(np.sqrt(0.5))
