"""What a store holds, for people: a card in Markdown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from featstore.datasets import DATASETS
from featstore.durable import make_folders, write_durably, write_error
from featstore.identity import sha256_hex
from featstore.remote import Objects
from featstore.store.log import ABOUT, Log, has_log, read_log, update_log
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import MAX_ITEM_BYTES

#: Said where nobody stated a licence.
UNKNOWN = "not stated"

_WHAT = (
    "A Zarr v3 store that `headstock.open_store` reads and verifies; any Zarr v3 reader opens its "
    "arrays."
)
_HOW = (
    "A revision is the sha256 of the set's commit record, which holds the sha256 of every block of "
    "rows and of every other file."
)

_REVEAL = (
    "Embeddings are not anonymous. Whoever has the encoder can tell whether an image or text that "
    "they hold is among these items, search the items by their content, and, for many encoders, "
    "reconstruct much of an input. Treat the embeddings of private data as private data."
)
_PINNED = (
    "This needs Headstock, installed by `pip install -e '.[remote]'` in a checkout. With `@` and a "
    "commit after the name of the dataset, the address names that state for ever."
)
_LICENCE = (
    "The licence of the items of each dataset, above, also governs what may be done with their "
    "embeddings; the licence of an encoder may restrict it further. A set of rows by others has "
    "the licences of all encoders and datasets that it names."
)
_CITE = (
    "Cite the datasets and the encoders that the tables name, and the address of this collection "
    "with the commit that you used; a revision_id identifies the exact rows of a set."
)

#: Licences that the hub knows by a name of its own, which is this one in small letters.
_HUB_LICENCES = frozenset(
    {
        "apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
        "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl",
    }
)  # fmt: skip


@dataclass(frozen=True)
class SetCard:
    """What the card says of a set; `splits` counts its items by split."""

    info: SetInfo
    licence: str
    splits: dict[str, int]


def set_cards(store: FeatureStore, licences: Mapping[str, str]) -> list[SetCard]:
    """Return what the card says of each set.

    Parameters
    ----------
    licences : mapping
        Dataset -> licence of its items. Of datasets that Headstock builds it is known.
    """
    cards = []
    for info in store.sets():
        table = store.item_table(info)
        known = DATASETS.get(info.key.dataset)
        stated = "" if known is None else str(known.facts.get("licence", ""))
        splits: dict[str, int] = {}
        if "split" in table.columns:
            counts = table.group_by("split").len().filter(pl.col("split").is_not_null())
            splits = dict(sorted(counts.iter_rows()))
        licence = licences.get(info.key.dataset) or stated or UNKNOWN
        cards.append(SetCard(info, licence, splits))
    return cards


def markdown(name: str, cards: list[SetCard]) -> str:
    """Return the card: what, from which data, licence, encoders, numbers of items, checksums."""
    n_rows = sum(card.info.commit.n for card in cards)
    lines = [
        f"# {name}",
        "",
        f"Frozen embeddings: {len(cards):,} sets, {n_rows:,} rows. {_WHAT}",
        "",
        "## Datasets",
        "",
        "| dataset | licence of its items | version |",
        "|---|---|---|",
    ]
    seen: dict[str, tuple[str, str]] = {}
    for card in cards:
        version = str(card.info.attributes["facts"].get("manifest_revision", ""))
        seen.setdefault(card.info.key.dataset, (card.licence, version))
    lines += [
        f"| {_cell(dataset)} | {_cell(licence)} | {_cell(version)} |"
        for dataset, (licence, version) in sorted(seen.items())
    ]
    lines += [
        "",
        "## Sets",
        "",
        "| set | encoder | computed in | rows | stored as | failed | splits | revision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        info, commit = card.info, card.info.commit
        splits = ", ".join(f"{split} {count:,}" for split, count in card.splits.items())
        facts, encoder = info.attributes["facts"], info.encoder
        if models := facts.get("models"):
            encoder += f", of rows by {' and '.join(models)} of {' and '.join(facts['datasets'])}"
        row = (
            info.key, encoder, info.attributes["precision"], f"{commit.n:,} × {commit.dim:,}",
            commit.dtype, f"{commit.n_failed:,}", splits or "none", f"`{commit.revision_id}`",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    lines += [
        "",
        _HOW,
        "",
    ]
    return "\n".join(lines)


def hub_card(name: str, cards: list[SetCard], *, address: str) -> str:
    """Return the card of a dataset of the hub: front matter, `markdown`, and how to use it.

    Parameters
    ----------
    address : str
        That `headstock.open_store` takes.
    """
    stated = {card.info.key.dataset: card.licence for card in cards if card.licence != UNKNOWN}
    licences = {card.licence.lower() for card in cards}
    licence = licences.pop() if len(licences) == 1 else ""
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {licence if licence in _HUB_LICENCES else 'other'}",
        "tags: [embeddings, headstock, zarr]",
        "viewer: false",
        f"item_licences: {json.dumps(stated, sort_keys=True)}",
        "---",
        "",
        markdown(name, cards),
        "## Use",
        "",
        "```python",
        "import headstock as hs",
        "",
        f"store = hs.open_store({json.dumps(address)})",
        *([f"rows = store.view({json.dumps(str(cards[0].info.key))})"] if cards else []),
        "```",
        "",
        _PINNED,
        "",
        "## Licence",
        "",
        _LICENCE,
        "",
        "## What embeddings reveal",
        "",
        _REVEAL,
        "",
        "## Citation",
        "",
        _CITE,
        "",
    ]
    return "\n".join(lines)


def write_about(folder: Path, card: str) -> None:
    """Write the card to a folder, and enter it in its log if it is a store.

    The same call again ends well wherever it was stopped.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    data = card.encode()
    entry = {ABOUT: sha256_hex(data)}
    make_folders(folder)
    lists = has_log(folder)
    if lists and read_log(folder).about != entry:
        # First, so that no stop leaves a file that the log denies.
        update_log(folder, lambda log: replace(log, about={}))
    try:
        write_durably(folder / ABOUT, [data])
    except OSError as err:
        raise write_error(folder / ABOUT, err) from err
    if lists:
        update_log(folder, lambda log: replace(log, about=entry))


def _cell(value: object) -> str:
    """Return a cell of a table: one line, without what would end it or make markup of it."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("[", "\\[")


def send_card(opened: FeatureStore, objects: Objects, licences: Mapping[str, str]) -> None:
    """Write the card of what the draft of a store holds, unless there is one that no push wrote.

    Parameters
    ----------
    licences : mapping
        Dataset -> licence of its items; those that the earlier card states are kept.
    """
    log, old = objects.log() or Log(), b""
    with contextlib.suppress(FileNotFoundError):
        old = objects.read(ABOUT, limit=MAX_ITEM_BYTES)
    if old:
        if log.about.get(ABOUT) != sha256_hex(old):
            return
        from huggingface_hub import DatasetCard

        licences = {**DatasetCard(old.decode()).data.to_dict().get("item_licences", {}), **licences}
    cards = {
        str(card.info.key): card
        for card in set_cards(opened, licences)
        if log.sets.get(str(card.info.key)) == card.info.commit.digest
    }
    if log.sets.keys() - cards.keys():
        # What other publishers put there is described as it was before.
        there = set_cards(open_store(objects.pinned()), licences)
        cards = {**{str(card.info.key): card for card in there}, **cards}
    chosen = [cards[key] for key in sorted(cards) if key in log.sets]
    new = hub_card(objects.address.rsplit("/", 1)[-1], chosen, address=objects.address).encode()
    if new != old:
        objects.put(ABOUT, new)
    objects.update_log(lambda log: replace(log, about={ABOUT: sha256_hex(new)}))
