"""Docstrings as they are after import, for griffe, which reads source files.

A record of options, and a function that takes them, has ``{options}`` in its docstring; a decorator
fills it in when the module is imported.
"""

from __future__ import annotations

from typing import Any

import griffe


class FilledDocstrings(griffe.Extension):
    """Take the docstring from the imported object where a decorator completes it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the docstring of one class or function."""
        if obj.docstring is not None and "{options}" in obj.docstring.value:
            obj.docstring.value = griffe.dynamic_import(obj.path).__doc__
