"""Facts as TOML text: the standard library reads TOML but does not write it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from featstore.errors import ManifestError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b"}


def toml_text(facts: Mapping[str, Any]) -> str:
    """Return `facts` as TOML: plain values first, then one table a nested mapping.

    The same facts in the same order give the same text, and `tomllib` reads it back as they
    were. Strings, booleans, integers, finite floats, lists of those and mappings are known.

    Raises
    ------
    ManifestError
        If a value is anything else (None, a date, NaN, a list of mappings).
    """
    return "\n".join(_table((), facts)).strip("\n") + "\n"


def _table(path: tuple[str, ...], facts: Mapping[str, Any]) -> list[str]:
    plain = {key: value for key, value in facts.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in facts.items() if isinstance(value, Mapping)}
    lines = []
    if path and (plain or not nested):
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {_value(value, (*path, key))}" for key, value in plain.items()]
    for key, value in nested.items():
        lines += _table((*path, key), value)
    return lines


def _key(key: Any) -> str:
    if not isinstance(key, str):
        msg = f"The facts have a key that is not a string: {key!r}."
        raise ManifestError(msg)
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any, path: tuple[str, ...]) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        parts = [_value(part, path) for part in value]
        if sum(map(len, parts)) > 80:
            return "[\n" + "".join(f"    {part},\n" for part in parts) + "]"
        return f"[{', '.join(parts)}]"
    msg = (
        f"The fact {'.'.join(map(str, path))} is {value!r} ({type(value).__name__}), which "
        "dataset.toml cannot hold. Give a string, number, boolean, list of those or mapping."
    )
    raise ManifestError(msg)


def _string(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        msg = f"The fact {text!r} holds half of a surrogate pair; it is not text."
        raise ManifestError(msg) from err
    return '"' + "".join(_ESCAPES.get(letter) or _plain(letter) for letter in text) + '"'


def _plain(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 32 or code == 127 else letter
