"""The run without extras, on a folder of tests and with a package hidden for real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_extras import ROOT, SITECUSTOMIZE

#: Tests at every distance from a missing package, and of a module that nobody has.
FILES = {
    "test_top.py": "import h5py\ndef test_it(): pass\n",
    "test_inside.py": "def test_it():\n    import h5py\n",
    "test_caught.py": (
        "from featstore.errors import MissingPackageError, needs_extra\n"
        "def code():\n"
        "    try:\n"
        "        with needs_extra('HDF5'):\n"
        "            import h5py\n"
        "    except MissingPackageError:\n"
        "        return 1\n"
        "    return 0\n"
        "def test_it(): assert code() == 0\n"
        "def test_of_the_error(): assert code() == 1\n"
        "def test_of_something_else(): assert 1 + 1 == 3\n"
    ),
    "test_unknown.py": "import some_bug_of_ours\ndef test_it(): pass\n",
}


def test_only_what_an_absent_extra_explains_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (tmp_path / "tests").mkdir()
    for name, text in FILES.items():
        (tmp_path / "tests" / name).write_text(text)
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.minimal", "-p", "no:cacheprovider",
        "--rootdir", str(tmp_path), "-c", os.devnull, "-rA",
        "--no-fold-skipped", "--continue-on-collection-errors", str(tmp_path / "tests"),
    ]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"HIDDEN_MODULES": "h5py", "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    found = re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED)\b.*?(test_\w+)\.py(?:::(\w+))?", done.stdout, re.MULTILINE
    )
    assert sorted(found) == [
        ("ERROR", "test_unknown", ""),
        ("FAILED", "test_caught", "test_of_something_else"),
        ("PASSED", "test_caught", "test_of_the_error"),
        ("SKIPPED", "test_caught", "test_it"),
        ("SKIPPED", "test_inside", "test_it"),
        ("SKIPPED", "test_top", ""),
    ], done.stdout
