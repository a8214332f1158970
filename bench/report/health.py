"""Data health: what was skipped, cut or doubled in the sets, and which names are ambiguous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.errors import BenchError
from featstore.errors import FeatstoreError
from featstore.store.store import FeatureStore
from featstore.store.summary import content_duplicates, row_facts, runs

#: Names that are shown in each part of the list.
SHOWN = 15

ROLES = {
    "image": "images",
    "name": "class names",
    "caption": "captions",
    "head": "head weights",
    "head_name": "names of the head's classes",
}


@dataclass(frozen=True)
class Health:
    """One set.

    Attributes
    ----------
    role, key : str
    rows, failed, zero, equal, same, truncated : str
        Items, items that failed, rows of norm 0, rows equal to another, items of the same content
        as another, texts cut at the encoder's limit; "?" where it is not recorded.
    norms : str
        Smallest, median and largest.
    examples : tuple of str
        Items that failed, with the reason, and groups of equal rows.
    """

    role: str
    key: str
    rows: str
    failed: str
    truncated: str
    zero: str
    equal: str
    same: str
    norms: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Ambiguous:
    """The names of one set of classes.

    Attributes
    ----------
    role : str
    n_classes, n_sharing : int
        Classes, and those whose name another class has too: contradictory targets.
    shared : tuple of (name, class_ids)
        The largest groups first.
    """

    role: str
    n_classes: int
    n_sharing: int
    shared: tuple[tuple[str, str], ...]


def set_health(store: FeatureStore, row: Mapping[str, Any]) -> list[Health]:
    """Return the health of every set that a result row names and the store still has."""
    out = []
    for role, label in ROLES.items():
        key, revision = row[f"{role}_set"], row[f"{role}_revision"]
        if not key:
            continue
        try:
            view = store.view(key, revision=revision)
        except FeatstoreError:
            continue
        norms, equal = row_facts(view)
        same = content_duplicates(view)
        failures = dict(store.failures(key, revision=revision).iter_rows())
        wrote = runs(store.info(key, revision=revision).key.directory(store.root))
        cut = [run["truncated"] for run in wrote if "truncated" in run]
        examples = [f"{item}: {reason}" for item, reason in list(failures.items())[:5]]
        examples += [" = ".join(group) for group in equal.examples]
        out.append(
            Health(
                role=label,
                key=str(key),
                rows=f"{len(view):,}",
                failed=f"{len(failures):,}",
                truncated=f"{sum(cut):,}" if cut else "?",
                zero=f"{norms.zero:,}",
                equal=f"{equal.extra:,}",
                same="?" if same is None else f"{same.extra:,}",
                norms=f"{norms.min:.3g} / {norms.median:.3g} / {norms.max:.3g}",
                examples=tuple(examples),
            )
        )
    return out


def ambiguous_names(store: FeatureStore, row: Mapping[str, Any]) -> list[Ambiguous]:
    """Return which classes share their whole name, ignoring case, per set of class names."""
    out = []
    for role in ("head_name", "name"):
        if not row[f"{role}_set"]:
            continue
        try:
            items = store.view(row[f"{role}_set"], revision=row[f"{role}_revision"]).items
        except (FeatstoreError, BenchError):
            continue
        plain = items.filter(pl.col("text").is_not_null())
        if "none" in set(plain["template_id"].drop_nulls()):
            plain = plain.filter(pl.col("template_id") == "none")
        if "name" in set(plain["variant"].drop_nulls()):
            plain = plain.filter(pl.col("variant") == "name")
        classes = plain.unique("class_id", keep="first", maintain_order=True)
        groups = (
            classes.group_by(pl.col("text").str.to_lowercase().alias("name"))
            .agg(pl.col("class_id").sort(), pl.len().alias("n"))
            .filter(pl.col("n") > 1)
            .sort("n", "name", descending=[True, False])
        )
        out.append(
            Ambiguous(
                role=ROLES[role],
                n_classes=classes.height,
                n_sharing=int(groups["n"].sum()),
                shared=tuple(
                    (str(name), ", ".join(ids))
                    for name, ids in groups.select("name", "class_id").head(SHOWN).iter_rows()
                ),
            )
        )
    return out
