"""docs/ref/methods.md on a toy store: its commands run, and its table is complete."""

from __future__ import annotations

import re
from pathlib import Path

from fitters.methods import METHODS

REF = Path(__file__).parents[2] / "docs" / "ref"
# What is below is trained: tests/fitters/trained has its commands, in a document of more minutes.
TEXT = (REF / "methods.md").read_text(encoding="utf-8").partition("## Trained by")[0]


def test_every_method_has_its_row_with_what_is_chosen():
    rows = {row.split("`")[1]: row for row in TEXT.splitlines() if row.startswith("| `")}
    # The trained ones have a document of their own, and tests/fitters/trained/test_presets.py.
    closed = {name: spec for name, spec in METHODS.items() if spec.fitted_on != "training"}
    assert set(rows) == set(closed)
    spelled = {"n_components": "components"}
    for name, method in closed.items():
        settings = rows[name].rsplit("|", 2)[1]
        for option in method.options:
            assert spelled.get(option, option) in settings, (name, option)
        chosen = {"penalty", "mix", "gamma", "n_components"} & set(method.options)
        found = set(re.findall(r"\*\*(\w+)\*\*", settings))
        assert found == {spelled.get(option, option) for option in chosen}, name
