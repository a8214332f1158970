"""Code that came with a model and was run because the caller said so: it is part of the key."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.fingerprint import files_sha256

#: Where transformers puts the code of models; nothing else lives below this name.
_PACKAGE = "transformers_modules"


def remote_code_facts(objects: Iterable[Any], *, trusted: bool) -> dict[str, Any]:
    """Return the keyed facts of a model's own code; nothing unless it was trusted.

    Parameters
    ----------
    objects : iterable
        The model's modules and its tokenizer.
    trusted : bool
        Whether the caller allowed code from the model's folder or repository.

    Returns
    -------
    dict
        Empty, or ``trust_remote_code`` with the hash of the files that were imported.
    """
    if not trusted:
        return {}
    folders: set[Path] = set()
    for thing in objects:
        for kind in type(thing).__mro__:
            if kind.__module__.partition(".")[0] == _PACKAGE:
                folders.add(Path(inspect.getfile(kind)).parent)
    files = {path.name: path for folder in sorted(folders) for path in sorted(folder.glob("*.py"))}
    files.pop("__init__.py", None)
    return {"trust_remote_code": {"files": len(files), "files_sha256": files_sha256(files)}}
