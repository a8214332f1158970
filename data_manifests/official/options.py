"""Options of a dataset: declared in its dataset.toml, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from data_manifests.plan import BuildError


def chosen_options(facts: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return every option of a dataset with its value.

    Raises
    ------
    BuildError
        If an option is unknown or has a value that it cannot have.
    """
    declared: Mapping[str, Mapping[str, Any]] = facts.get("options", {})
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            msg = f"The dataset {facts['name']!r} takes no option {name!r}. It takes: {known}."
            raise BuildError(msg + _did_you_mean(name, declared))
        values = declared[name].get("values")
        if values is not None and value not in values:
            msg = f"The option {name} is {value!r}; it must be one of {', '.join(values)}."
            raise BuildError(msg + _did_you_mean(value, values))
    return {
        name: str(given.get(name, option.get("default", ""))) for name, option in declared.items()
    }


def expectation(facts: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Return the expected counts with these options: classes, image, caption, per_class."""
    expected = dict(facts["expected"])
    for condition, override in facts.get("expected_with", {}).items():
        wanted = dict(part.split("=", 1) for part in condition.split(","))
        if all(options.get(name) == value for name, value in wanted.items()):
            expected |= override
    return expected


def chosen_splits(expected: Mapping[str, Any], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the splits that are wanted, in the order of dataset.toml.

    Raises
    ------
    BuildError
        If the dataset has no such split.
    """
    known = tuple(expected.get("image", {}))
    unknown = [split for split in given or () if split not in known]
    if unknown:
        msg = f"The dataset has no split {unknown[0]!r}. It has: {', '.join(known)}."
        raise BuildError(msg + _did_you_mean(unknown[0], known))
    return tuple(split for split in known if not given or split in given)


def _did_you_mean(word: str, known: Any) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
