"""Lists that installed packages ship, read from their files without importing the packages."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from data_manifests.plan import BuildError


def package_file(package: str, relative: str, *, install: str) -> Path:
    """Return a file of an installed package, without importing it (that may load torch).

    Raises
    ------
    BuildError
        If the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        if (Path(place) / relative).is_file():
            return Path(place) / relative
    what = f"has no {relative}; another version is needed" if places else "is not installed"
    msg = f"{package} {what}: a list is read from it. Run pip install {install}."
    raise BuildError(msg)


def constant_list(file: Path, name: str) -> list[str]:
    """Return a list of strings that a Python file assigns to `name`; nothing of it is run.

    Raises
    ------
    BuildError
        If there is no such list.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name for target in node.targets
            ):
                value = ast.literal_eval(node.value)
                if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
                    return list(value)
    except (OSError, ValueError, SyntaxError) as err:
        msg = f"Cannot read the list {name!r} in {file}: {err}. Install the package again."
        raise BuildError(msg) from err
    msg = f"{file} has no list {name!r}. Install another version of the package."
    raise BuildError(msg)
