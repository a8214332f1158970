"""Run the tests that need no extra, where none is installed: ``pytest -p tests.minimal``.

A module that cannot be imported, or a test that fails, for want of an optional package is skipped
and says which. Everything else fails as ever: an import that no extra explains is a fault.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Generator
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest

from featstore.errors import IMPORTED_AS

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

#: Import names of packages of the extras where they differ from those in pyproject.toml, and of
#: packages that only come with one of these.
NAMES = IMPORTED_AS | {"faiss-cpu": "faiss", "cca-zoo": "cca_zoo", "pylance": "lance"}
BROUGHT = frozenset({"botocore", "boto3", "pandas", "requests", "tokenizers"})

#: Fewer tests that pass in a run of all mean that something which needs no extra has come to import
#: one: then nearly everything would be skipped, and the run be green.
LEAST = 2500


def optional_packages() -> frozenset[str]:
    """Return the import names of all that is in an extra, and absent here."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    listed = [
        re.split(r"[<>=\[]", requirement)[0]
        for requirements in project["optional-dependencies"].values()
        for requirement in requirements
    ]
    names = {NAMES.get(name, name.replace("-", "_")) for name in listed} | BROUGHT
    # Extras name extras of the project itself.
    names.discard(project["name"])
    return frozenset(name for name in names if find_spec(name) is None)


ABSENT = optional_packages()


class Asked(MetaPathFinder):
    """Finds nothing, and notes which absent packages were asked for since a test began."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Note the name of a package that is in an extra and absent; see `MetaPathFinder`."""
        if fullname.partition(".")[0] in ABSENT - BROUGHT:
            self.names.append(fullname.partition(".")[0])


ASKED = Asked()
# The last of the finders: what it is asked for, no other has.
sys.meta_path.append(ASKED)


def pytest_runtest_setup() -> None:
    """Forget what the test before asked for."""
    ASKED.names.clear()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module that cannot be imported for want of an extra into a skipped one."""
    before = set(sys.modules)
    report = yield
    if report.failed:
        wanted = re.findall(
            r"^E +ModuleNotFoundError: No module named '(\w+)", str(report.longrepr), re.M
        )
        if wanted and wanted[-1] in ABSENT:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: needs {wanted[-1]}")
            # pytest leaves half a module behind; whoever imports it next must fail alike.
            for name in sys.modules.keys() - before:
                if name.startswith("tests."):
                    del sys.modules[name]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test that failed after it asked for an absent extra into a skipped one."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    # A fixture of several tests fails once, and is not asked again.
    known = [str(error.name)] if isinstance(error, ImportError) and error.name in ABSENT else []
    if report.failed and (wanted := [*known, *ASKED.names]):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: needs {wanted[0]}")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of all tests in which most were skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    # The processes of pytest-xdist have no reporter, and each a part of the tests.
    if reporter is None or not whole or session.exitstatus != pytest.ExitCode.OK:
        return
    passed = len(reporter.stats.get("passed", ()))
    if passed < LEAST:
        reporter.write_line(f"Only {passed:,} tests passed; at least {LEAST:,} need no extra.")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
