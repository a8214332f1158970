"""The JSON files of this folder: one case a line, so that a diff shows which cases changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """Return a pinned document: case -> values."""
    document: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return document


def write(name: str, document: dict[str, Any]) -> None:
    """Pin a document."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rounded(value: float) -> float:
    """Return a number with ten significant digits."""
    return float(f"{value:.10g}")
