"""``featstore show``: what a set is, where it comes from, and what its rows are like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import click

from featstore.command_line import StorePlace, StoreType, print_json
from featstore.store.opening import open_store
from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore
from featstore.store.summary import Duplicates, content_duplicates, row_facts, runs

#: Failed items that are listed.
_SHOWN = 20


@click.command(
    "show",
    epilog="Example: featstore show build/demo/store stamps/image/tf_efficientnet_lite0",
)
@click.argument("store", type=StoreType())
@click.argument("key")
@click.option("--revision", help="A revision_id of the set, or its beginning; default: current.")
@click.option("--quick", is_flag=True, help="Leave out what reads rows: norms and equal rows.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def show_command(
    store: StorePlace, key: str, revision: str | None, quick: bool, as_json: bool
) -> None:
    """Show a set: identity, provenance, revisions, splits, norms, duplicates, failures."""
    opened = open_store(store)
    document = describe(opened, opened.info(key, revision=revision), quick=quick)
    if as_json:
        print_json(document)
        return
    for label, text in _lines(document):
        click.echo(f"{label:<14}{text}".rstrip())


def describe(store: FeatureStore, info: SetInfo, *, quick: bool = False) -> dict[str, Any]:
    """Return what ``featstore show --json`` prints."""
    key, revision = str(info.key), info.commit.revision_id
    directory = info.key.directory(store.root)
    view = store.view(key, revision=revision)
    split = view.items.get_column("split", default=None)
    splits = [] if split is None else split.value_counts(sort=True).rows()
    content = content_duplicates(view)
    equal: Duplicates | None = None
    norms: dict[str, Any] | None = None
    if not quick and len(view):
        found, equal = row_facts(view)
        norms = asdict(found)
    every = store.revisions(key)
    return {
        **info.as_dict(),
        "bytes": store.stored_bytes(info),
        "space": info.attributes["space"],
        "facts": info.attributes["facts"],
        "runs": runs(directory),
        "revisions": [
            {
                "revision_id": other.commit.revision_id,
                "n": other.commit.n,
                "failed": other.n_failed,
                "current": other is every[-1],
            }
            for other in every
        ],
        "splits": {str(name): count for name, count in splits},
        "norms": norms,
        "duplicates": {
            "embeddings": None if equal is None else asdict(equal),
            "content": None if content is None else asdict(content),
        },
        "failures": dict(store.failures(key, revision=revision).iter_rows()),
    }


def human_bytes(size: int) -> str:
    """Return a size in the unit that leaves one to three digits before the point."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def _lines(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "set", document["key"]
    yield "encoder", f"{document['encoder']}, computed in {document['precision']}"
    shape = f"{document['n']:,} × {document['dim']:,} {document['dtype']}"
    yield "rows", f"{shape}, {human_bytes(document['bytes'])} on disk"
    yield "space_id", document["space_id"]
    yield "set_id", document["set_id"]
    revisions = document["revisions"]
    for number, entry in enumerate(revisions):
        marks = [f"{entry['n']:,} items", f"{entry['failed']:,} failed" if entry["failed"] else ""]
        marks += ["current" if entry["current"] else ""]
        marks += ["shown" if entry["revision_id"] == document["revision_id"] else ""]
        said = ", ".join(filter(None, marks))
        yield ("" if number else "revisions"), f"{entry['revision_id'][:12]}  {said}"
    splits = document["splits"]
    if splits:
        yield "splits", ", ".join(f"{name} {count:,}" for name, count in splits.items())
    norms = document["norms"]
    if norms is not None:
        said = ", ".join(f"{name} {norms[name]:.4g}" for name in ("min", "median", "mean", "max"))
        yield "norms", said + (f"; {norms['zero']:,} rows are zero" if norms["zero"] else "")
    for label, what in (("embeddings", "equal rows"), ("content", "same content")):
        yield from _duplicates(what, document["duplicates"][label])
    yield from _provenance(document)
    failures = document["failures"]
    yield "failed", f"{len(failures):,} items" if failures else "none"
    for item, reason in list(failures.items())[:_SHOWN]:
        yield "", f"{item}: {reason}"
    if len(failures) > _SHOWN:
        yield "", f"and {len(failures) - _SHOWN:,} more: --json lists all"


def _duplicates(label: str, found: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if found is None:
        return
    if not found["groups"]:
        yield label, "none"
        return
    yield label, f"{found['groups']:,} groups, the largest of {found['largest']:,}"
    for names in found["examples"]:
        yield "", " = ".join(names)


def _provenance(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    facts = document["facts"]
    source = facts.get("source") or f"manifest revision {facts.get('manifest_revision') or '?'}"
    yield "from", str(source)
    for number, run in enumerate(document["runs"]):
        how = [f"{name} {run[name]}" for name in ("device", "batch", "threads") if run.get(name)]
        versions = run.get("versions")
        how += [f"{name} {what}" for name, what in sorted((versions or {}).items())]
        said = ", ".join([str(run.get("date", "undated")), *how])
        yield ("" if number else "runs"), said
    for name, value in facts.items():
        if name not in ("source", "manifest_revision") and value not in ("", None):
            yield "", f"{name}: {value}"
    yield "space", ", ".join(f"{name}={value}" for name, value in document["space"].items())
