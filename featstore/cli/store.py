"""Commands on a store: init, rm, verify, gc, compact, tag, diff; what ls, show, doctor print."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import featstore
from featstore.cli.manifests import verify_manifest
from featstore.cli.options import KEY, set_named
from featstore.command_line import (
    EXIT_VERIFY,
    Choice,
    StorePlace,
    StoreType,
    answer,
    check_signed_options,
    count,
    json_option,
    print_json,
    signed_options,
    usage_error,
)
from featstore.errors import CorruptStoreError, SignatureError
from featstore.identity import HASHES, hash_hex
from featstore.options import Option, typed
from featstore.terminal import (
    ProgressBar,
    TextTable,
    age,
    bad,
    best,
    good,
    human_bytes,
    in_words,
    print_facts,
    say,
    warning,
)

if TYPE_CHECKING:
    from featstore.share.doctor import SetDifference
    from featstore.store.layout import SetKey
    from featstore.store.store import FeatureStore, SetInfo


@click.command("init", epilog="Example: headstock store init /data/features --shared")
@click.argument("store", type=StoreType())
@click.option("--shared", is_flag=True, help="Let the group of the folder write to the store.")
@click.option(
    "--hash", "hash_name", type=Choice([*HASHES]), metavar="|".join(HASHES),
    help="Hash the blocks of rows with this function, which cannot be changed later [default: "
         "sha256].",
)  # fmt: skip
@json_option
def init_command(store: StorePlace, shared: bool, hash_name: str | None, as_json: bool) -> None:
    """Make an empty store in a folder or bucket.

    `headstock extract` and `headstock store push` make the store that they write to by themselves.
    With --shared its folders are group-writable and hand that down, its files readable by all and
    writable by nobody. Use `chgrp` to choose the group.
    """
    from featstore.address import Address, parse_address
    from featstore.remote import writable_objects
    from featstore.share import make_bucket_store
    from featstore.store.gc import make_store

    place = parse_address(store)
    if hash_name is not None:
        hash_hex(hash_name, b"")  # its package is missing now, not after hours of extraction
    if isinstance(place, Address):
        if shared:
            raise click.UsageError(
                "--shared is for folders: set the rights of a bucket with its own tools."
            )
        fresh = make_bucket_store(writable_objects(place), hash_name)
    else:
        fresh = make_store(place, shared=shared, hash_name=hash_name)
    done = f"Made an empty store in {store}" if fresh else f"{store} is a store already"
    done += ", shared with its group" if shared else ""
    answer({"store": str(store), "new": fresh, "shared": shared}, done, as_json=as_json)


#: Failed items that are listed.
_SHOWN = 20


def show_store(
    place: StorePlace, *, as_json: bool, key: str | None = None, quick: bool = False
) -> int:
    """Show a set: rows, splits, duplicates, failures, origin; without a key, the whole store."""
    if key is None:
        return list_sets(place, as_json=as_json, whole=True)
    with ProgressBar(f"show {key}", doing="reading rows"):
        opened = featstore.open_store(place)
        document = describe(opened, set_named(opened, key), quick=quick)
    if as_json:
        print_json(document)
        return 0
    say(best(document["key"]))
    click.echo()
    print_facts(_sections(document))
    return 0


def describe(store: FeatureStore, info: SetInfo, *, quick: bool = False) -> dict[str, Any]:
    """Return what ``headstock show --json`` prints."""
    from featstore.store.records import runs
    from featstore.store.store import row_facts

    key, revision = str(info.key), info.commit.revision_id
    directory = info.key.directory(store.root)
    view = store.view(key, revision=revision)
    split = view.items.get_column("split", default=None)
    splits = [] if split is None else split.value_counts(sort=True).rows()
    norms, equal = (None, None) if quick or not len(view) else row_facts(view)
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
        "duplicates": equal,
        "failures": dict(store.failures(key, revision=revision).iter_rows()),
    }


def _sections(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return the facts of `describe` by sections, in words, ids and hashes last."""
    shape = f"{document['n']:,} × {document['dim']:,} {document['dtype']}"
    failures = document["failures"]
    more = len(failures) - _SHOWN
    # The encoder's name has family and name.
    space = {name: v for name, v in document["space"].items() if name not in ("family", "name")}
    hashes = {name: space.pop(name) for name in [*space] if name.endswith("_sha256")}
    # Which classifier a model has is said by its tag; --json has the space of what it was derived
    # from.
    facts = {k: v for k, v in document["facts"].items() if k not in ("classifier", "of")}
    runs = [{name: run.get(name) for name in _RUN_FACTS} for run in document["runs"]]
    revisions = {
        one["revision_id"][:12]: {name: one[name] for name in _REVISION_FACTS if one[name]}
        for one in document["revisions"]
    }
    return {
        "Rows": [
            *_facts({
                "shape": f"{shape}, {human_bytes(document['bytes'])} on disk",
                "splits": {name: n for name, n in document["splits"].items() if name != "None"},
            }),
            *rows_in_words(document["norms"], document["duplicates"]),
            *_facts({
                "failed": len(failures),
                **dict([*failures.items()][:_SHOWN]),
                "more failed": max(0, more) or None,
            }),
        ],
        "Encoder": _facts({
            "name": document["encoder"], "computed in": document["precision"], **space,
        }),
        "Origin": _facts(facts),
        "Extraction": [("run", in_words(run)) for run in runs],
        "Revisions": _facts(revisions),
        "Identity": _facts({"set": document["set_id"], "space": document["space_id"], **hashes}),
    }  # fmt: skip


#: What is shown of a run, and of a revision.
_RUN_FACTS = ("date", "device", "batch", "threads", "versions")
_REVISION_FACTS = ("n", "failed", "current")


def rows_in_words(norms: Any, equal: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what `featstore.store.store.row_facts` found, name and value in words."""
    found = equal if equal is None or equal["groups"] else "none"
    return _facts({"norms": norms, "equal rows": found})


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts that are stated, name and value in words."""
    return [
        (name.replace("_", " "), in_words(value))
        for name, value in facts.items()
        if value or value == 0
    ]


def list_sets(
    place: StorePlace, *, as_json: bool, key: str | None = None, whole: bool = False
) -> int:
    """List the sets of a store: rows, dimension, dtype, size, age; of one key, that line.

    Returns the exit code, 4 if something of it is damaged or may not be read. With `whole`, also
    tags and signature are printed.
    """
    from featstore.store.records import REVISIONS

    with ProgressBar(f"ls {place}"):
        opened = featstore.open_store(place)
        wanted = None if key is None else set_named(opened, key).key
        listing = [one for one in opened.listing() if wanted in (None, one[0])]
    rows: list[dict[str, Any]] = []
    table: list[Sequence[str]] = []
    for name, info in listing:
        if isinstance(info, CorruptStoreError):
            rows.append({"key": str(name), "state": "damaged", "reason": str(info)})
            table.append([str(name), *[""] * 5, bad(f"damaged: {info}")])
            continue
        commit, size = info.commit, opened.stored_bytes(info)
        more = {"bytes": size, "revisions": len(commit.published), "state": "finished"}
        rows.append(info.as_dict() | more)
        record = opened.root / f"{name}/{REVISIONS}/{commit.digest}.json"
        shape = f"{commit.n:,}", f"{commit.dim:,}", commit.dtype
        cells = *shape, human_bytes(size), age(record.stat().st_mtime)
        precision, revisions = info.attributes["precision"], len(commit.published)
        told = {
            f"computed in {precision}": precision != "float32",
            f"{revisions:,} revisions": revisions > 1,
            f"{info.n_failed:,} failed": info.n_failed,
        }
        notes = ", ".join(note for note, holds in told.items() if holds)
        table.append([str(name), *cells, warning(notes)])
    for begun in opened.unfinished() if wanted is None else ():
        state = _begun(opened.root, begun)
        rows.append({"key": str(begun), "state": state})
        advice = "not finished: run its command again" if state == "unfinished" else state
        table.append([str(begun), *[""] * 5, warning(advice)])
    n_rows, size = (sum(row.get(what, 0) for row in rows) for what in ("n", "bytes"))
    parts: list[Any] = [f"{opened.address} holds no sets. `headstock extract` makes one."]
    if table:
        total = f"{count(len(table), 'set')}, {count(n_rows, 'row')}, {human_bytes(size)}"
        parts = [TextTable(("NAME", "ROWS", "DIM", "DTYPE", "SIZE", "AGE", ""), table), total]
    if whole:
        signature = opened.log.signature
        signed = signature and f"number {signature.counter:,}, by {signature.public_key}"
        parts += [f"Tags: {', '.join(opened.tags()) or 'none'}", f"Signed: {signed or 'no'}"]
    answer(rows, *parts, as_json=as_json)
    return EXIT_VERIFY if any(row["state"] == "damaged" for row in rows) else 0


def _begun(root: Path, key: SetKey) -> str:
    """Return how it stands with a set that is not finished: whether somebody writes it now."""
    from featstore.store.lock import LOCK, is_claimed

    folder = key.directory(root)
    if not is_claimed(folder):
        return "unfinished"
    locks = list((folder / ".staging").rglob(LOCK))
    if not locks:  # its writer has just ended, or lets nobody look
        return "being written, or unfinished"
    since = min(lock.stat().st_mtime for lock in locks)
    return f"being written since {time.strftime('%Y-%m-%d %H:%M', time.localtime(since))}"


@click.command(
    "rm",
    epilog="Example: headstock store rm build/demo/store stamps/class_name/all-MiniLM-L6-v2 --yes",
)
@click.argument("store", type=StoreType(writes=True))
@click.argument("key", metavar="KEY", type=KEY)
@click.option(
    "--items",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Withdraw only the pictures whose ids are in this file, one a line.",
)
@click.option(
    "-y", "--yes", is_flag=True,
    help="Remove it; without this the command says what would go. --json implies it.",
)  # fmt: skip
@json_option
def rm_command(store: Path, key: str, items: Path | None, yes: bool, as_json: bool) -> None:
    """Remove a set, finished or not, or rows of some pictures.

    KEY may be a short name. Item tables that other sets use stay. A set that a tag names is kept
    until `headstock store tag STORE NAME --delete` has dropped the tag. A withdrawn picture keeps
    its number; its row is blank in every revision, and its thumbnail is deleted.
    """
    from featstore.sources import decode_text
    from featstore.store.gc import remove_set, withdraw_items
    from featstore.store.layout import SetKey
    from featstore.store.log import resolve_set

    featstore.open_store(store)
    target = resolve_set(store, key)
    text = "" if items is None else decode_text(items.read_bytes(), where=str(items))
    ids = sorted({line.strip() for line in text.splitlines()} - {""})
    if items is not None and not ids:
        raise click.UsageError(f"{items} names no item. Write one item_id a line.")
    what = f"{count(len(ids), 'picture')} of {target}" if ids else target
    if not (yes or as_json):
        raise click.UsageError(f"{what} would be lost to {store}: add --yes to remove it.")
    if ids:
        others = withdraw_items(store, SetKey(*target.split("/")), ids)
        facts: dict[str, Any] = {"withdrawn": target, "items": ids, "still": others}
        said = [f"Withdrew {what}. Copies of the store keep them: withdraw them there, too."]
        said += [f"{other} has them, or texts of them, too." for other in others]
    else:
        freed = remove_set(store, target)
        facts = {"removed": target, "bytes": freed}
        said = [f"Removed {target} and freed {human_bytes(freed)}"]
    answer(facts, *said, as_json=as_json)


@click.command("verify", epilog="Example: headstock store verify build/demo/store stamps/image")
@click.argument("store", metavar="PATH", type=StoreType(writes=True))
@click.argument("keys", metavar="[KEY]...", nargs=-1, type=KEY)
@click.option("--quick", is_flag=True, help="Read sizes and metadata, not every row.")
@signed_options
@json_option
def verify_command(
    store: Path, keys: tuple[str, ...], quick: bool, key: str | None, at_least: int, as_json: bool
) -> int:
    """Compare the files of a store or manifest with their checksums.

    Names every file that was flipped, truncated, deleted, swapped, linked or added, one a
    line, and exits 4 if there is one. KEY is a dataset (`stamps`), a dataset and kind
    (`stamps/image`), or a set as `headstock ls` prints it, with or without the digits at its end;
    every set that it fits is checked. With --trusted-key, also whether all was signed by that key.
    Of a manifest, every file is read and its sha256 compared.
    """
    if (store / "dataset.toml").is_file():
        return verify_manifest(store, as_json=as_json)
    from featstore.store.log import NAME, resolve_sets
    from featstore.store.verify import Problem, verify_store

    check_signed_options(key, at_least)
    chosen = {name for key in keys for name in resolve_sets(store, key)}
    with ProgressBar(f"verify {store}", "sets") as bar:
        report = verify_store(
            store, chosen, full=not quick,
            on_set=lambda done, total, key: bar.update(done, total, note=key),
        )  # fmt: skip
        bar.update(report.n_sets)
    if key is not None:
        try:
            featstore.open_store(store, key=key, at_least=at_least)
        except (SignatureError, CorruptStoreError) as err:
            report.problems.append(Problem(NAME, f"is not what the key signs: {err}"))
    for note in () if as_json else report.notes:
        say(warning("note:"), f" {note.path!r} {note.what}", err=True)
    what = "have the right names, sizes and metadata" if quick else "match their checksums"
    checked = f"{count(report.n_sets, 'set')}, {count(report.n_files, 'file')}"
    found = [(bad(problem.path), f" {problem.what}") for problem in report.problems]
    answer(report.as_dict(), *(found or [(good("OK:"), f" {checked} {what}")]), as_json=as_json)
    if found and not as_json:
        say(
            bad("Damaged:"),
            f" {count(len(found), 'problem')} in {checked}; `headstock store repair` mends a set",
            err=True,
        )
    return 0 if report.ok else EXIT_VERIFY


@click.command("gc", epilog="Example: headstock store gc build/demo/store --dry-run")
@click.argument("store", type=StoreType(writes=True))
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@click.option(
    "--grace",
    default="24",
    show_default=True,
    metavar="HOURS",
    callback=typed(Option("grace", 24.0, type=float, at_least=0, checked=True), several=False),
    help="Keep files that are younger than this.",
)
@json_option
def gc_command(store: Path, dry_run: bool, grace: float, as_json: bool) -> None:
    """Delete leftovers of crashed writers and unreferenced files.

    An extraction that stopped can be resumed until the grace period is over.
    """
    from featstore.store.gc import collect_garbage

    with ProgressBar(f"gc {store}"):
        found = collect_garbage(store, grace=3600 * grace, dry_run=dry_run)
    done = (
        f"{'Would remove' if dry_run else 'Removed'} {count(len(found), 'leftover')}, "
        f"{human_bytes(sum(litter.bytes for litter in found))}"
    )
    answer(
        {"removed": not dry_run, "litter": [vars(litter) for litter in found]},
        *(f"{one.path} ({human_bytes(one.bytes)}): {one.what}" for one in found),
        done if found else "Nothing to clean", as_json=as_json,
    )  # fmt: skip


@click.command("compact", epilog="Example: headstock store compact build/demo/store stamps/image")
@click.argument("store", type=StoreType(writes=True))
@click.argument("keys", metavar="[KEY]...", nargs=-1, type=KEY)
@click.option("--dry-run", is_flag=True, help="List what would be written, and write nothing.")
@json_option
def compact_command(store: Path, keys: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Write the parts of grown sets as one.

    Rows, items, revisions and tags stay what they are. A set of one part is left alone. KEY is as
    for `headstock store verify`; without one it is all sets.
    """
    from featstore.store.gc import compact_set
    from featstore.store.layout import SetKey
    from featstore.store.log import resolve_sets

    opened = featstore.open_store(store)
    chosen = {one for key in keys for one in resolve_sets(store, key)} or {*opened}
    found = {key: len(opened.info(key).commit.parts) for key in sorted(chosen)}
    with ProgressBar(f"compact {store}", "sets") as bar:
        for done, key in enumerate(found):
            bar.update(done, len(found), note=key)
            if not dry_run:
                compact_set(store, SetKey(*key.split("/")))
    verb = "would become one" if dry_run else "are one now"
    said = {key: f"{parts:,} parts {verb}" for key, parts in found.items() if parts > 1}
    answer(
        {"compacted": not dry_run, "parts": found},
        *(f"{key}: {said.get(key, 'one part, left alone')}" for key in found), as_json=as_json,
    )  # fmt: skip


@click.command(
    "tag",
    epilog="\b\nExample:"
    "\n  headstock store tag build/demo/store v1"
    "\n  headstock store tag build/demo/store --sign-key me.pem --new-key",
)
@click.argument("store", type=StoreType())
@click.argument("name", required=False)
@click.option(
    "--select",
    multiple=True,
    metavar="PATTERN",
    help="Take only sets whose key matches this pattern, such as 'stamps/image/*'; repeatable.",
)
@click.option("--delete", is_flag=True, help="Delete the tag; the revisions that it named stay.")
@click.option(
    "--sign-key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Sign all revisions and tags with this private Ed25519 key, a PEM file.",
)  # fmt: skip
@click.option(
    "--new-key", is_flag=True,
    help="Make the file of --sign-key, readable to you alone, if it is missing.",
)  # fmt: skip
@json_option
def tag_command(
    store: StorePlace, name: str | None, select: tuple[str, ...], delete: bool,
    sign_key: Path | None, new_key: bool, as_json: bool,
) -> None:  # fmt: skip
    """Tag or sign the present state of a store.

    STORE@NAME reads every set as it is now. A tag never changes. `headstock store push` copies the
    tags of a folder, too. Readers who know the public key, which is printed, are told of everything
    that was changed, put back or hidden since: `headstock store verify --trusted-key`. Sign again
    whenever the store has changed.
    """
    from featstore.share import drop_tag, make_tag, sign_store
    from featstore.store.log import make_key

    if name is None and (sign_key is None or delete or select):
        raise usage_error("Give the NAME of a tag, or --sign-key alone.")
    if delete and (select or sign_key):
        raise usage_error("--delete drops the whole tag: give nothing beside it.")
    if new_key and sign_key is None:
        raise usage_error("--new-key makes the file of --sign-key: name it.")
    document: dict[str, Any] = {} if name is None else {"tag": name}
    said = ""
    if name is not None and delete:
        there = document["dropped"] = drop_tag(store, name)
        said = f"Dropped the tag {name} of {store}" if there else f"{store} has no tag {name}"
    elif name is not None:
        document["sets"] = make_tag(store, name, select=select)
        said = f"Tagged {count(len(document['sets']), 'set')} of {store} as {name}"
    if sign_key is not None:
        if new_key and not make_key(sign_key):
            click.echo(f"{sign_key} exists: the store is signed by this key", err=True)
        with ProgressBar(f"sign {store}"):
            signature = sign_store(store, sign_key)
        document |= {"store": str(store), **vars(signature)}
        said += f"\nSigned {store}: signature number {signature.counter:,}"
        said += f"\nPublic key: {signature.public_key}"
    answer(document, said.strip(), as_json=as_json)


@click.command("diff", epilog="Example: headstock store diff build/demo/store s3://team/features")
@click.argument("a", type=StoreType())
@click.argument("b", type=StoreType())
@json_option
def diff_command(a: StorePlace, b: StorePlace, as_json: bool) -> None:
    """List the sets in which two stores differ.

    Compared are revisions, ids of items, and rows, by the hashes of their blocks, without reading
    them. Exits 0 either way. STORE@TAG is a store as it was then.
    """
    from featstore.share.doctor import compare_stores

    with ProgressBar("diff", doing="comparing"):
        found = compare_stores(featstore.open_store(a), featstore.open_store(b))
    table = [(difference.key, _differences(difference)) for difference in found]
    total = f"{count(len(found), 'set')} differ{'s' if len(found) == 1 else ''}"
    parts = [TextTable(("NAME", "DIFFERENCE"), table), total] if found else ["No differences"]
    answer([asdict(difference) for difference in found], *parts, as_json=as_json)


def _differences(difference: SetDifference) -> str:
    if difference.state != "differs":
        return difference.state
    blocks = difference.changed_blocks
    told = {
        " → ".join(one[:12] for one in dict.fromkeys(difference.revisions)): True,
        f"{difference.withdrawn[0]:,} items withdrawn in A": difference.withdrawn[0],
        f"{difference.withdrawn[1]:,} items withdrawn in B": difference.withdrawn[1],
        f"{difference.added:,} items added": difference.added,
        f"{difference.removed:,} items removed": difference.removed,
        "rows of another shape": blocks is None,
        f"{blocks or 0:,} blocks of rows differ": blocks,
    }
    return "; ".join(text for text, holds in told.items() if holds)


_SIGNS = {"fine": good("OK"), "note": warning("note"), "wrong": bad("WRONG")}


@click.command("doctor", epilog="Example: headstock doctor s3://team/features")
@click.argument("store", type=StoreType(), required=False)
@json_option
def doctor_command(store: StorePlace | None, as_json: bool) -> int:
    """Check the environment, the cache, and a store.

    Says what to do about what it finds. Writes nothing to a store, and prints no credentials. Exits
    4 if something is wrong.
    """
    from featstore.share.doctor import examine

    with ProgressBar("doctor", doing="checking"):
        findings = list(examine(store))
    table = []
    for finding in findings:
        advice = "" if finding.state == "fine" else f" {finding.advice}"
        text = f"{finding.text.removesuffix('.')}.{advice}" if advice.strip() else finding.text
        table.append((_SIGNS[finding.state], finding.what, text))
    answer([asdict(finding) for finding in findings], TextTable((), table), as_json=as_json)
    return EXIT_VERIFY if any(finding.state == "wrong" for finding in findings) else 0
