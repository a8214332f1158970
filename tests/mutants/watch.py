"""A plugin of pytest for a broken tree: is the broken file importable, and which tests fail?

It reads the name of the broken module from the environment, and writes what it found as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

#: The module that was broken ("" for none), and the file to write.
MODULE, REPORT = "HEADSTOCK_MUTANT", "HEADSTOCK_MUTANT_REPORT"

_found: dict[str, Any] = {"import": "", "failed": [], "errors": []}


def pytest_collection_finish() -> None:
    """Import the broken module, as a test would."""
    try:
        if os.environ[MODULE]:
            importlib.import_module(os.environ[MODULE])
    except Exception as err:
        _found["import"] = repr(err)
        pytest.exit(f"{os.environ[MODULE]} cannot be imported: {err!r}", returncode=1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the name of a test that failed, and of one that did not come so far."""
    if report.failed:
        _found["failed" if report.when == "call" else "errors"].append(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write what was found."""
    Path(os.environ[REPORT]).write_text(json.dumps(_found))
