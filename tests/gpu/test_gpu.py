"""The same rows on a GPU as in float32 on the CPU; speed is `make gpu`'s affair.

What a GPU machine runs, a tiny model runs on the CPU here: the functions are the same.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu import checks, run, throughput
from tests.gpu.checks import Check
from tests.gpu.throughput import COSINE, MODELS, Row, measure, smallest_cosine, write_table

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


def test_what_a_gpu_machine_runs_runs_here_on_tiny_models(tmp_path: Path) -> None:
    rows = [
        measure(model, tmp_path, device="cpu", precision=precision, images=40, batch=8, checked=10)
        for model, precision in (("timm:test_vit", "float32"), ("timm:test_convnext", "bfloat16"))
    ]
    for row in rows:
        assert (row.card, row.images, row.batch) == ("CPU", 40, 8)
        assert row.cosine > (1 - 1e-9 if row.precision == "float32" else COSINE)
        assert row.ratio == row.extract / row.bare
        assert row.jpeg_ratio == row.from_jpeg / row.bare
        assert row.busy is None  # which only a GPU is
    write_table(rows, tmp_path / "table.md", more=["the end"])
    *lines, last = (tmp_path / "table.md").read_text().splitlines()[-3:]
    assert last == "the end"
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["timm:test_vit", "float32"], ["timm:test_convnext", "bfloat16"],
    ]  # fmt: skip
    found = json.loads((tmp_path / "table.json").read_text())
    assert [Row(**one) for one in found] == rows


def test_the_command_fails_below_a_goal_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All its parts, on tiny models here; a goal that nothing reaches, and one that all do."""
    out = tmp_path / "gpu.md"
    words = ["run", "--device", "cpu", "--models", "timm:test_vit", "timm:test_resnet", "--images",
             "12", "--batch", "4", "--precisions", "float32", "--texts", "12", "--text-model", "32",
             "1", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    for module in (throughput, checks):
        monkeypatch.setattr(module, "RATIO", 1e9)
    measured = run.measured
    done: list[Any] = []

    def once(asked: Namespace, folder: Path) -> tuple[list[Row], list[Check]]:
        if not done:
            done.extend(measured(asked, folder))
            return done[0], done[1]
        return done[0], [replace(check, goal=0.0) for check in done[1]]

    monkeypatch.setattr(run, "measured", once)
    for code in (1, 0):
        assert run.main() == code
        said = capsys.readouterr().out
        assert ("below its goal: timm:test_vit float32" in said) is bool(code)
        assert ("below its goal: texts" in said) is bool(code)
        monkeypatch.setattr(throughput, "RATIO", 0.0)
    table = out.read_text()
    assert "| rows of timm:test_resnet beside another encoder, same bits | 1.000 | 1 |" in table
    assert "decoding in processes | not measured | 1 | needs CUDA" in table


def test_what_is_not_measured_or_no_number_is_no_success() -> None:
    assert not Check("a", None, 1.0).missed
    assert not Check("a", 1.0, 1.0).missed
    assert Check("a", 0.99, 1.0).missed
    assert Check("a", float("nan"), 1.0).missed


def test_the_smallest_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    b = np.array([[2.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
    assert smallest_cosine(a, b) == pytest.approx(np.sqrt(0.5))
