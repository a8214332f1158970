"""dev.lock, and what writes it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _known(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted(extra: str) -> list[Requirement]:
    """Return what an extra lists, with what the extras that it names list."""
    found = []
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found += [inner for name in requirement.extras for inner in _wanted(name)]
        else:
            found.append(requirement)
    return found


def test_the_lock_holds_a_version_within_each_range_and_nothing_of_one_machine() -> None:
    lines = (ROOT / "dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.!]*", pin)] == []
    versions = dict(pin.split("==") for pin in pins)
    for requirement in (*map(Requirement, PROJECT["dependencies"]), *_wanted("dev")):
        version = versions[_known(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}; run `make lock`"
