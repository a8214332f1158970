"""Names of classes: plain ones from the labels, and the ones that the paper prompts with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from data_manifests.official.listing import Listing


def class_table(dataset: str, facts: Mapping[str, Any], listing: Listing) -> pl.DataFrame | None:
    """Return the label set of a listing, or None if it has no classes.

    ``name`` is the plain name: what the dataset itself gives, else the label with spaces for
    ``_``, in the case that ``[names]`` of dataset.toml says (``changed`` holds the exceptions).
    ``paper_name`` is the name as the paper prompts with it: ``paper`` of ``[names]`` around the
    plain name, or around ``paper_changed``.
    """
    if listing.classes is not None:
        return listing.classes
    if not listing.labels:
        return None
    rules = facts.get("names", {})
    plain = [plain_name(label, rules, listing.names) for label in listing.labels]
    table = pl.DataFrame(
        {
            "class_id": [f"{dataset}/{label}" for label in listing.labels],
            "index": range(len(listing.labels)),
            "name": plain,
            "name_group": [name.lower() for name in plain],
        },
        schema_overrides={"index": pl.Int64},
    ).with_columns(shared_name=pl.col("name_group").is_duplicated())
    if "paper" not in rules:
        return table
    paper = [
        paper_name(label, name, rules) for label, name in zip(listing.labels, plain, strict=True)
    ]
    return table.with_columns(paper_name=pl.Series(paper))


def plain_name(label: str, rules: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """Return the plain name of a class."""
    changed = rules.get("changed", {})
    if label in changed:
        return str(changed[label])
    words = given.get(label, label).replace("_", " ").strip()
    case = rules.get("case", "as it is")
    if case == "camel":
        return " ".join(re.findall(r"[A-Z]+[^A-Z]*|[^A-Z]+", words)).lower()
    if case == "title":
        return " ".join(word.title() for word in words.split(" "))
    return words.lower() if case == "lower" else words


def paper_name(label: str, plain: str, rules: Mapping[str, Any]) -> str:
    """Return the name of a class as the paper prompts with it."""
    text = str(rules.get("paper_changed", {}).get(label, plain))
    if rules.get("paper_case") == "capital":
        text = text[:1].upper() + text[1:]
    return str(rules["paper"]).replace("{}", text)
