"""Print pins of the lowest versions that an extra allows: ``make test-minimal LOWEST=1`` uses them.

A lower bound in pyproject.toml that nobody installs is a guess. This runs before anything is
installed, by a bare Python.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(extra: str) -> list[str]:
    """Return a pin for each package that the project requires, by itself and with an extra."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [requirement.replace(">=", "==") for requirement in listed]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1])))
