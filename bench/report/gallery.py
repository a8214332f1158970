"""Examples to look at: what images were named, by the head, by ConSE and by random vectors.

Which images are shown follows from their ids alone, so that nobody picks the pretty ones.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import method_title
from bench.corpus import seen_classes
from bench.report.theme import data_uri, evaluation_text
from bench.report.verdict import among
from bench.results import read_ranks
from featstore.identity import sha256_hex
from featstore.store.store import FeatureStore
from featstore.terminal import visible

#: A near miss: the right answer is among the first so many.
NEAR = 5

#: Cards of every group on the page; the template shows three before a reader asks for more.
CARDS = 8

#: The standard deviation of the grey levels of a thumbnail, of 255, below which it looks blank.
CONTRAST = 8.0

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
        item_id to the bytes of a thumbnail, WebP.
    seen : frozenset of str
        class_id of the classes whose name the head has.
    """

    texts: Mapping[str, str]
    classes: Mapping[str, str]
    pictures: Mapping[str, bytes]
    seen: frozenset[str] = frozenset()

    def describe(self, item: str) -> str:
        """Return the text of an item, else that of its class, else its id, as it is shown."""
        own = self.texts.get(item) or self.texts.get(self.classes.get(item, item), item)
        return shown_text(own)

    def picture(self, item: str) -> str:
        """Return the address of an item's thumbnail; empty where there is none."""
        found = self.pictures.get(item)
        return data_uri("image/webp", found) if found else ""

    def can_be_seen(self, item: str) -> bool:
        """Whether an item's thumbnail shows something: a white flash on white is blank.

        True of every item where there are no thumbnails.
        """
        from PIL import Image, ImageStat

        if not self.pictures or item not in self.pictures:
            return not self.pictures
        with Image.open(io.BytesIO(self.pictures[item])) as picture:
            return bool(ImageStat.Stat(picture.convert("L")).stddev[0] >= CONTRAST)

    def class_of(self, item: str) -> str:
        """Return the class of an item; a class is its own."""
        return self.classes.get(item, item)


def read_words(store: FeatureStore, row: Mapping[str, Any]) -> Words:
    """Read texts, classes and thumbnails of the sets that a result row names."""
    texts: dict[str, str] = {}
    classes: dict[str, str] = {}
    seen: frozenset[str] = frozenset()
    images = store.view(row["image_set"])
    classes.update(_pairs(images.items, "item_id", "class_id"))
    tables = [store.view(key).items for key in (row["head_name_set"], row["name_set"]) if key]
    for items in tables:
        names = items.filter(pl.col("text").is_not_null())
        plain = names.filter(pl.col("template_id") == "none")
        for table in (names, plain):
            first = table.unique("class_id", keep="first", maintain_order=True)
            texts.update(_pairs(first, "class_id", "text"))
    if len(tables) == 2:
        ids = tables[1]["class_id"].unique().drop_nulls().sort().to_numpy()
        seen = frozenset(ids[seen_classes(tables[1], tables[0], ids)])
    if row["caption_set"]:
        captions = store.view(row["caption_set"]).items
        texts.update(_pairs(captions, "item_id", "text"))
        classes.update(
            (caption, classes[parent])
            for caption, parent in _pairs(captions, "item_id", "parent_id").items()
            if parent in classes
        )
    dataset, kind = str(row["image_set"]).split("/")[:2]
    return Words(texts, classes, store.thumbnails(dataset, kind), seen)


def gallery(
    root: Path, results: pl.DataFrame, words: Words, method: str, direction: str, head: str
) -> dict[str, Any] | None:
    """Return examples of a method fitted on head weights alone, or None if none can be shown.

    They are what the template ``examples.html`` reads: which run it is (``setting``), how many of
    ``total`` images are ``hits``, among how many (``pool``), and ``groups`` of at most `CARDS`
    cards with their ``title`` and ``total``. A card has the right answer (``text``), an ``image``
    or "", and ``answers``, the method's first, each ``by`` someone in the colour of a ``role``,
    with its ``text`` and the ``rank`` of the right one.

    All names come before held-out ones, a lower seed before a higher. The same images are shown as
    ConSE and as random vectors name them, where these were run on the same images.

    Parameters
    ----------
    root : Path
        Results folder; ranks are read from it.
    results : DataFrame
        Of one choice of sets.
    words : Words
    method, direction : str
        Of the verdict.
    head : str
        What the head is called.
    """
    ranks = _read_answers(root, results, method, direction)
    if not ranks:
        return None
    first = next(iter(ranks.values()))

    def card(query: str) -> dict[str, Any]:
        answers = [
            {"by": by, "role": role, "text": words.describe(own[query]["top"][0]),
             "rank": own[query]["rank"]}
            for (by, role), own in ranks.items() if query in own
        ]  # fmt: skip
        return {"text": words.describe(query), "image": words.picture(query), "answers": answers}

    def cards(queries: Iterable[str], most: int) -> list[dict[str, Any]]:
        return list(map(card, islice(filter(words.can_be_seen, queries), most)))

    # A fixed shuffle: neither the alphabet nor the order of the items decides.
    order = sorted(first, key=lambda item: sha256_hex(item.encode("utf-8")))
    places = {query: first[query]["rank"] for query in order}
    kinds = _kinds(places, words, head)
    run = next(iter(first.values()))
    held = "none held out" if run["eval"] == "all-names" else evaluation_text(run["eval"])
    pool = f"{among(direction, run['gallery'])} ({held})"
    return {
        "hits": list(places.values()).count(1),
        "total": len(first),
        "pool": pool,
        "setting": (
            f"{method_title(method)} on head weights alone. "
            "Examples are drawn by a hash of their ids; blank thumbnails are passed over."
        ),
        "groups": [
            {"title": title, "total": len(kind), "cards": own}
            for title, kind in kinds.items()
            if (own := cards(kind, CARDS))
        ],
    }


def _kinds(places: Mapping[str, int], words: Words, head: str) -> dict[str, list[str]]:
    """Return the images of every kind, in order, by what a reader calls the kind."""
    hits = [query for query, rank in places.items() if rank == 1]
    kinds = {"Right": hits}
    if words.seen:
        known = {query for query in hits if words.class_of(query) in words.seen}
        kinds = {
            f"Right, and {head} has the name": [query for query in hits if query in known],
            f"Right, and {head} lacks the name": [query for query in hits if query not in known],
        }
    return kinds | {
        f"Nearly right, rank 2 to {NEAR}": [q for q, rank in places.items() if 1 < rank <= NEAR],
        f"Wrong, rank {NEAR + 1} or worse": [q for q, rank in places.items() if rank > NEAR],
    }


def _read_answers(
    root: Path, results: pl.DataFrame, method: str, direction: str
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return who answered, and in which role → image → its ranks; empty without the method.

    All are of one evaluation and seed: all names before held-out ones, a lower seed first.
    """
    runs = results.filter(
        (pl.col("direction") == direction)
        & (pl.col("n_pairs") == "0")
        & pl.col("source").is_in(["head", "random"])
    ).sort(pl.col("eval") != "all-names", "seed", "control_draw", maintain_order=True)
    of_method = runs.filter((pl.col("method") == method) & (pl.col("source") == "head")).head(1)
    if of_method.is_empty():
        return {}
    runs = runs.join(of_method.select("eval", "seed"), on=["eval", "seed"], maintain_order="left")
    answers = {}
    for by, name, source, role in (
        (method_title(method), method, "head", "head"),
        ("ConSE", "conse", "head", "conse"),
        ("Random vectors", method, "random", "random"),
    ):
        own = runs.filter((pl.col("method") == name) & (pl.col("source") == source)).head(1)
        found = read_ranks(root, own["run_id"]).filter(
            (pl.col("direction") == direction) & (pl.col("top").list.len() > 0)
        )
        found = found.join(own.select("run_id", "gallery", "eval"), on="run_id")
        if not found.is_empty():
            answers[by, role] = {row["query_id"]: row for row in found.iter_rows(named=True)}
    return answers if (method_title(method), "head") in answers else {}


def _pairs(table: pl.DataFrame, key: str, value: str) -> dict[str, str]:
    kept = table.select(key, value).drop_nulls()
    return dict(zip(kept[key].to_list(), kept[value].to_list(), strict=True))
