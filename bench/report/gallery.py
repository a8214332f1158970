"""Nearest neighbours to look at: what an image was taken for, and what a caption found.

Failures come first, the worst at the top: a reader who only sees successes learns nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import method_title, source_name
from bench.geometry import METHOD
from bench.results import read_ranks
from featstore.identity import sha256_hex
from featstore.store.store import FeatureStore
from featstore.terminal import visible

#: How many cards of each kind: far off, near (rank 2 to `NEAR`), found.
COUNTS = {"far": 18, "near": 12, "found": 12}
NEAR = 5


@dataclass(frozen=True)
class Found:
    """One place of a ranking.

    Attributes
    ----------
    text : str
        The name, or the description of the image.
    image : str
        Data URI of a thumbnail, or empty.
    right : bool
    """

    text: str
    image: str
    right: bool


@dataclass(frozen=True)
class Card:
    """One query and the first places of its ranking.

    Attributes
    ----------
    kind : str
        ``"far"``, ``"near"`` or ``"found"``.
    text : str
        Description of the image, or the caption of the query.
    image : str
        Data URI of the query's thumbnail, or empty.
    rank : int
    places : tuple of Found
    """

    kind: str
    text: str
    image: str
    rank: int
    places: tuple[Found, ...]


@dataclass(frozen=True)
class Gallery:
    """Cards of one run and direction.

    Attributes
    ----------
    direction : str
    setting : str
        Which run it is.
    cards : tuple of Card
        Failures first.
    totals : dict
        Kind to number of queries in the whole run.
    """

    direction: str
    setting: str
    cards: tuple[Card, ...]
    totals: dict[str, int]


#: Characters of a text that are shown.
LONGEST = 300


def shown_text(text: str) -> str:
    """Return a text from a store as a page shows it: its beginning, and nothing hidden in it.

    A character that controls a display is shown as its escape, as on a terminal.
    """
    more = "\N{HORIZONTAL ELLIPSIS}" if len(text) > LONGEST else ""
    return visible(text[:LONGEST]) + more


@dataclass(frozen=True)
class Words:
    """Texts and pictures of items.

    Attributes
    ----------
    texts : mapping
        item_id or class_id to text.
    classes : mapping
        item_id to class_id.
    pictures : mapping
        item_id to data URI.
    """

    texts: Mapping[str, str]
    classes: Mapping[str, str]
    pictures: Mapping[str, str]

    def describe(self, item: str) -> str:
        """Return the text of an item, else that of its class, else its id, as it is shown."""
        own = self.texts.get(item) or self.texts.get(self.classes.get(item, item), item)
        return shown_text(own)

    def class_of(self, item: str) -> str:
        """Return the class of an item; a class is its own."""
        return self.classes.get(item, item)


def read_words(store: FeatureStore, row: Mapping[str, Any]) -> Words:
    """Read texts, classes and thumbnails of the sets that a result row names."""
    texts: dict[str, str] = {}
    classes: dict[str, str] = {}
    images = store.view(row["image_set"])
    classes.update(_pairs(images.items, "item_id", "class_id"))
    for key in (row["head_name_set"], row["name_set"]):
        if not key:
            continue
        names = store.view(key).items.filter(pl.col("text").is_not_null())
        plain = names.filter(pl.col("template_id") == "none")
        for table in (names, plain):
            first = table.unique("class_id", keep="first", maintain_order=True)
            texts.update(_pairs(first, "class_id", "text"))
    if row["caption_set"]:
        captions = store.view(row["caption_set"]).items
        texts.update(_pairs(captions, "item_id", "text"))
        classes.update(
            (caption, classes[parent])
            for caption, parent in _pairs(captions, "item_id", "parent_id").items()
            if parent in classes
        )
    dataset, kind = str(row["image_set"]).split("/")[:2]
    pictures = {
        item: f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
        for item, data in store.thumbnails(dataset, kind).items()
    }
    return Words(texts, classes, pictures)


def gallery(root: Path, results: pl.DataFrame, words: Words, direction: str) -> Gallery | None:
    """Return the cards of the run that shows `direction` best, or None if there is none.

    Of the runs on head weights by the method of the verdict: all names before held-out, no
    real pairs before some, the lowest seed. The cells of a sweep keep no places to show.
    """
    runs = results.filter(
        (pl.col("direction") == direction)
        & (pl.col("source") == "head")
        & (pl.col("method") == METHOD)
    ).sort(
        pl.col("eval") != "all-names", pl.col("n_pairs") != "0", "n_pairs", "seed",
        maintain_order=True,
    )  # fmt: skip
    if runs.is_empty():
        return None
    run = runs.row(0, named=True)
    ranks = read_ranks(root, [run["run_id"]]).filter(
        (pl.col("direction") == direction) & pl.col("top").is_not_null()
    )
    if ranks.is_empty():
        return None
    if direction.startswith("caption"):
        # Images that share a description ask the same question: one card answers it.
        ranks = ranks.unique("cluster_id", keep="first", maintain_order=True)
    kinds = ranks.with_columns(
        pl.when(pl.col("rank") == 1)
        .then(pl.lit("found"))
        .when(pl.col("rank") <= NEAR)
        .then(pl.lit("near"))
        .otherwise(pl.lit("far"))
        .alias("kind"),
        # A fixed shuffle: neither the alphabet nor the order of the items decides.
        pl.col("query_id").map_elements(_shuffled, return_dtype=pl.String).alias("shuffled"),
    )
    picked = [
        kinds.filter(pl.col("kind") == "far").sort("rank", "shuffled", descending=[True, False]),
        kinds.filter(pl.col("kind") == "near").sort("rank", "shuffled", descending=[True, False]),
        kinds.filter(pl.col("kind") == "found").sort("shuffled"),
    ]
    cards = [
        _card(row, words, direction)
        for part, count in zip(picked, COUNTS.values(), strict=True)
        for row in part.head(count).iter_rows(named=True)
    ]
    setting = (
        f"{method_title(METHOD)}, {source_name(run['source'], run['n_pairs'])}, "
        f"{run['gallery']:,} candidates, seed {run['seed']}"
    )
    totals = {kind: kinds.filter(pl.col("kind") == kind).height for kind in COUNTS}
    return Gallery(direction, setting, tuple(cards), totals)


def _card(row: dict[str, Any], words: Words, direction: str) -> Card:
    pictured = direction.endswith("→image")
    cluster = row["cluster_id"]
    return Card(
        kind=row["kind"],
        text=words.describe(row["query_id"]),
        image="" if pictured else words.pictures.get(row["query_id"], ""),
        rank=row["rank"],
        places=tuple(
            Found(
                text=words.describe(item),
                image=words.pictures.get(item, "") if pictured else "",
                right=cluster in (item, words.class_of(item)),
            )
            for item in row["top"]
        ),
    )


def _shuffled(item: str) -> str:
    return sha256_hex(item.encode("utf-8"))


def _pairs(table: pl.DataFrame, key: str, value: str) -> dict[str, str]:
    kept = table.select(key, value).drop_nulls()
    return dict(zip(kept[key].to_list(), kept[value].to_list(), strict=True))
