"""Commands on a store: init, ls, show, rm, verify, gc, tag, diff, doctor."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from featstore.cli.progress import ProgressBar, human_bytes
from featstore.command_line import EXIT_ERROR, EXIT_VERIFY, StorePlace, StoreType, print_json
from featstore.errors import CorruptStoreError
from featstore.remote.objects import Address, parse_address
from featstore.share.copy import SetDifference, compare_stores, make_tag, writable_objects
from featstore.share.doctor import examine
from featstore.share.publish import make_bucket_store
from featstore.store.catalog import resolve_set, resolve_sets
from featstore.store.gc import collect_garbage, make_store, remove_set
from featstore.store.store import (
    Duplicates,
    FeatureStore,
    SetInfo,
    content_duplicates,
    open_store,
    row_facts,
    runs,
)
from featstore.store.verify import verify_store


@click.command("init", epilog="Example: featstore init /data/features --shared")
@click.argument("store", type=StoreType())
@click.option("--shared", is_flag=True, help="Let the folder's group write to it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def init_command(store: StorePlace, shared: bool, as_json: bool) -> None:
    """Make an empty store in the folder or bucket STORE; `extract` and `push` do that themselves.

    With --shared, also of a store that exists: its folders become group-writable and hand that
    down, its files readable by all and writable by nobody. Use `chgrp` before to choose the group.
    """
    place = parse_address(store)
    if isinstance(place, Address):
        if shared:
            raise click.UsageError(
                "--shared is for folders; a bucket's rights are the affair of its service.",
                click.get_current_context(),
            )
        fresh = make_bucket_store(writable_objects(place))
    else:
        fresh = make_store(place, shared=shared)
    if as_json:
        print_json({"store": str(store), "new": fresh, "shared": shared})
        return
    what = "is a new store" if fresh else "is a store"
    click.echo(f"{store} {what}{', shared with its group' if shared else ''}")


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


@click.command("ls", epilog="Example: featstore ls build/demo/store")
@click.argument("store", type=StoreType())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(store: StorePlace, as_json: bool) -> None:
    """List the sets of STORE, a folder or an address."""
    opened = open_store(store)
    listing = opened.listing()
    unfinished = [str(key) for key in opened.unfinished()]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"key": str(key), "state": "damaged", "reason": str(info)}
            if isinstance(info, CorruptStoreError)
            else {
                **info.as_dict(),
                "bytes": opened.stored_bytes(info),
                "revisions": n_revisions(info),
                "state": "finished",
            }
            for key, info in listing
        ]
        print_json([*rows, *({"key": key, "state": "unfinished"} for key in unfinished)])
        return
    width = max([len(str(key)) for key, _ in listing] + [len(key) for key in unfinished] + [0])
    for key, info in listing:
        if isinstance(info, CorruptStoreError):
            click.echo(f"{key!s:<{width}}  damaged: {info}")
            continue
        failed = f"  {info.n_failed:,} failed" if info.n_failed else ""
        shape = f"{info.commit.n:>9,} × {info.commit.dim:<5,} {info.commit.dtype:<8}"
        size = human_bytes(opened.stored_bytes(info))
        count = n_revisions(info)
        revisions = f"{count:,} revision{'s' if count > 1 else ''}"
        precision = info.attributes["precision"]
        click.echo(f"{key!s:<{width}}  {shape}  {precision:<8}  {size:>8}  {revisions}{failed}")
    for name in unfinished:
        click.echo(f"{name:<{width}}  not finished: run `featstore extract` again")


@click.command(
    "rm", epilog="Example: featstore rm build/demo/store stamps/class_name/all-MiniLM-L6-v2 --yes"
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; implies --yes.")
def rm_command(store: Path, key: str, yes: bool, as_json: bool) -> None:
    """Remove the set KEY, finished or not; a short name will do.

    Item tables that other sets use stay.
    """
    open_store(store)
    target = resolve_set(store, key)
    if not (yes or as_json):
        try:
            click.confirm(f"Remove {target} from {store}?", abort=True, err=True)
        except click.Abort as err:
            if sys.stdin is not None and sys.stdin.isatty():
                raise
            click.echo(err=True)  # ends the line of the question
            raise click.UsageError(
                f"Nobody can be asked whether to remove {target}: say --yes."
            ) from err
    freed = remove_set(store, target)
    if as_json:
        print_json({"removed": target, "bytes": freed})
    else:
        click.echo(f"removed {target} ({freed:,} bytes)")


def n_revisions(info: SetInfo) -> int:
    """Return the number of published revisions of a set."""
    return 1 + len(info.attributes.get("history", []))


@click.command("verify", epilog="Example: featstore verify build/demo/store stamps/image")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--quick/--full", "quick", default=False, help="Names, sizes and metadata only, or every byte."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify_command(store: Path, keys: tuple[str, ...], quick: bool, as_json: bool) -> int:
    """Check the files of STORE, or of the sets KEY, against their commits.

    Names every file that was flipped, truncated, deleted, swapped, linked or added, one a
    line, and exits 4 if there is one. KEY is a dataset (`stamps`), a dataset and kind
    (`stamps/image`), or a set as `featstore ls` prints it, with or without the digits at its
    end; every set that it fits is checked.
    """
    chosen = {name for key in keys for name in resolve_sets(store, key)}
    with ProgressBar(f"verify {store}"):
        report = verify_store(store, chosen, full=not quick)
    if as_json:
        print_json(report.as_dict())
    else:
        for note in report.notes:
            click.echo(f"note: {note.path!r} {note.what}", err=True)
        for problem in report.problems:
            click.echo(f"{problem.path} {problem.what}")
        if report.ok:
            what = "names, sizes and metadata" if quick else "every byte"
            click.echo(f"{store}: {report.n_sets:,} sets, {report.n_files:,} files: {what} right")
    return 0 if report.ok else EXIT_VERIFY


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``30m``, ``24h`` or ``7d``."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration such as 30m, 24h or 7d.")
    return float(int(match[1]) * _UNITS[match[2]])


@click.command("gc", epilog="Example: featstore gc build/demo/store --dry-run")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--grace", default="24h", show_default=True, help="Leave what is younger.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def gc_command(store: Path, dry_run: bool, grace: str, as_json: bool) -> None:
    """Remove from STORE the staging of dead writers and tables that no commit names.

    An extraction that stopped can be resumed until the grace period is over.
    """
    found = collect_garbage(store, grace=parse_duration(grace), dry_run=dry_run)
    if as_json:
        print_json({"removed": not dry_run, "litter": [vars(litter) for litter in found]})
        return
    for litter in found:
        click.echo(f"{litter.path} ({litter.bytes:,} bytes): {litter.what}")
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{len(found):,} things, {sum(litter.bytes for litter in found):,} bytes {verb}")


@click.command("tag", epilog="Example: featstore tag build/demo/store v1")
@click.argument("store", type=StoreType())
@click.argument("name")
@click.option(
    "--select",
    multiple=True,
    help="Only sets whose key fits this pattern, such as 'stamps/image/*'; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def tag_command(store: StorePlace, name: str, select: tuple[str, ...], as_json: bool) -> None:
    """Give the current revision of every set of STORE the NAME, for open_store(…, revision=NAME).

    A tag never changes. `featstore push` takes the tags of a folder along.
    """
    revisions = make_tag(store, name, select=select)
    if as_json:
        print_json({"tag": name, "sets": revisions})
    else:
        click.echo(f"{store} at {name}: {len(revisions):,} sets")


@click.command("diff", epilog="Example: featstore diff build/demo/store s3://team/features")
@click.argument("a", type=StoreType())
@click.argument("b", type=StoreType())
@click.option("--revision-a", help="A tag or revision_id of A.")
@click.option("--revision-b", help="A tag or revision_id of B.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def diff_command(
    a: StorePlace, b: StorePlace, revision_a: str | None, revision_b: str | None, as_json: bool
) -> int:
    """Say in which sets stores A and B differ: items, rows, failures, what they say of themselves.

    Rows are compared by the hashes of their blocks; none is read. Exits 0 either way. For two
    revisions of one store, give it twice.
    """
    found = compare_stores(open_store(a, revision=revision_a), open_store(b, revision=revision_b))
    if as_json:
        print_json([asdict(difference) for difference in found])
        return 0
    for difference in found:
        click.echo(f"{difference.key}  {'; '.join(_said(difference))}")
    click.echo(f"{len(found):,} sets differ")
    return 0


def _said(difference: SetDifference) -> Iterator[str]:
    if difference.state != "differs":
        yield difference.state
        return
    yield " → ".join(revision[:12] for revision in difference.revisions)
    for count, what in (
        (difference.added, "items added"),
        (difference.removed, "items removed"),
        (difference.changed_items, "items with other facts"),
    ):
        if count:
            yield f"{count:,} {what}"
    if difference.changed_blocks is None:
        yield "rows of another shape"
    elif difference.changed_blocks:
        yield f"{difference.changed_blocks:,} blocks of rows differ"
    if difference.failed[0] != difference.failed[1]:
        yield f"{difference.failed[0]:,} → {difference.failed[1]:,} failed"
    if difference.attributes:
        yield f"other {', '.join(difference.attributes)}"


_SIGNS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


@click.command("doctor", epilog="Example: featstore doctor s3://team/features")
@click.argument("store", type=StoreType(), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor_command(store: StorePlace | None, as_json: bool) -> int:
    """Check the environment, the cache, and STORE if one is given; say what to do.

    Writes nothing to a store, and prints no credentials. Exits 1 if something is wrong.
    """
    findings = list(examine(store))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{_SIGNS[finding.state]:<6} {finding.what}: {finding.said}")
            if finding.advice and finding.state != "fine":
                click.echo(f"       {finding.advice}")
    return EXIT_ERROR if any(finding.state == "wrong" for finding in findings) else 0
