"""A plugin of pytest for a broken tree: is the broken file importable, and which tests fail?

It writes what it found as JSON.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

_found: dict[str, Any] = {"import": "", "failed": [], "errors": []}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the module that was broken ("" for none), and the file to write."""
    parser.addoption("--mutant")
    parser.addoption("--mutant-report", type=Path)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import the broken module, as a test would."""
    module = session.config.getoption("--mutant")
    try:
        if module:
            importlib.import_module(module)
    except Exception as err:
        _found["import"] = repr(err)
        pytest.exit(f"{module} cannot be imported: {err!r}", returncode=1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the name of a test that failed, and of one that did not come so far."""
    if report.failed:
        _found["failed" if report.when == "call" else "errors"].append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was found."""
    session.config.getoption("--mutant-report").write_text(json.dumps(_found))
