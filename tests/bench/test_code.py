"""The code digest: stable, and different whenever a source is."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.code as code


def test_it_is_the_same_twice_and_sixteen_digits() -> None:
    code.code_digest.cache_clear()
    first = code.code_digest()
    code.code_digest.cache_clear()
    assert code.code_digest() == first
    assert len(first) == 16
    int(first, 16)


@pytest.mark.parametrize(
    "name", ["bench/fits.py", "fitters/linear/solvers.py", "bench/tasks/new.py"]
)
def test_a_changed_or_new_source_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import shutil

    root = Path(code.__file__).parents[1]
    for package in ("bench", "fitters"):
        shutil.copytree(root / package, tmp_path / package)
    monkeypatch.setattr(code.resources, "files", lambda package: tmp_path / package)
    code.code_digest.cache_clear()
    before = code.code_digest()
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    code.code_digest.cache_clear()
    assert code.code_digest() != before
    (tmp_path / "bench" / "cli" / "ls.py").write_text("# the command line decides no number\n")
    after = code.code_digest()
    code.code_digest.cache_clear()
    assert code.code_digest() == after
    monkeypatch.undo()
    code.code_digest.cache_clear()
