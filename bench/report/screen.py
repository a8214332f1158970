"""The first screen of a report: what was found, in words that a reader can quote, and five doubts.

Every sentence follows from the verdict and its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.cells import (
    label_set_title,
    method_title,
    pairs_order,
    read_cells,
)
from bench.comparisons import (
    FEW_CLASSES,
    LEVEL,
    PRIMARY_CONTROLS,
)
from bench.corpus import FRESH_SPLITS
from bench.report.figures import capital
from bench.report.parts import Words, shown_text
from bench.report.verdict import (
    Verdict,
    standing,
    without_head,
)
from bench.results import unfinished
from bench.statistics import ENOUGH_DRAWS, DrawSums, proportion_interval
from bench.tables import BY_NAME, gain_text, p_text, pairs_text, value_text
from featstore.datasets import DATASETS
from featstore.store.store import FeatureStore

#: How the note of a dataset begins whose images were looked at when settings were chosen.
DEVELOPMENT = "Development set"


#: What a control is called in a list.
_SHORT = {
    "random": "random vectors",
    "random-cov": "random vectors of its covariance",
    "shuffled": "shuffled names",
    "rotated": "rotated rows",
}

#: Why controls do not decide, by the tone of the verdict.
_OPEN = {
    "undecided": "there are too few control draws",
    "unknown": "a control was drawn only once",
}


@dataclass(frozen=True)
class Doubt:
    """What a reader may doubt, and what the results say to it.

    Attributes
    ----------
    question, answer, detail : str
    settled : bool
        Whether the doubt is removed by a test that is corrected, and without a "but": drawn as a
        tick, and as an exclamation mark if not.
    """

    question: str
    answer: str
    detail: str = ""
    settled: bool = False


@dataclass(frozen=True)
class Screen:
    """The words of the first screen.

    Attributes
    ----------
    crumbs : tuple of str
        Dataset, encoders, suite and date.
    headline : str
        What was found.
    dek : str
        What was fitted on what, and how it was scored.
    doubts : tuple of Doubt
    """

    crumbs: tuple[str, ...]
    headline: str
    dek: str
    doubts: tuple[Doubt, ...]

    @property
    def title(self) -> str:
        """The title of the page."""
        return " · ".join(["Headstock", *self.crumbs])


def first_screen(
    root: Path,
    rows: pl.DataFrame,
    table: pl.DataFrame,
    found: Verdict | None,
    question: tuple[str, str],
    store: FeatureStore,
    words: Words,
) -> Screen:
    """Return the words of the first screen.

    Parameters
    ----------
    root : Path
        Results folder; sums are read from it.
    rows : DataFrame
        Result rows of one choice of sets.
    table : DataFrame
        Of `bench.tables.result_table`.
    found : Verdict or None
    question : tuple of direction and metric
        What is said where there is no verdict.
    store : FeatureStore
        Has the names of the encoders, and the note of the dataset.
    words : Words
        Knows which classes the head has.
    """
    sets = rows.sort(pl.col("head_set") == "", maintain_order=True).row(0, named=True)
    names = {
        role: _encoder(store, sets[f"{role}_set"])
        for role in ("image", "name", "caption")
        if sets[f"{role}_set"]
    }
    done = rows["finished_at"].max()
    date = [] if done is None else [f"{datetime.fromtimestamp(done, UTC):%-d %b %Y}"]  # type: ignore[arg-type]
    text = names.get("name") or names.get("caption")
    encoders = f"{names['image']} → {text}" if text else names["image"]
    suite = str(sets["suite"])
    crumbs = (str(sets["image_set"]).split("/")[0], encoders, f"suite {suite}", *date)
    note = shown_text(str(store.info(sets["image_set"]).attributes["facts"].get("note", "")))
    if found is None:
        return Screen(crumbs, without_head(root, rows, table, question), "", ())
    head = label_set_title(sets["head_set"].split("/")[0])
    scene = Scene(found, rows, table, head, is_unfinished=bool(unfinished(root, suite)))
    dek = scene.dek(names["image"], str(text), str(sets["image_set"]).split("/")[0])
    doubts = (
        scene.weights(), scene.fitting(), scene.known_names(root, words), scene.real_pairs(),
        scene.quotable(note),
    )  # fmt: skip
    return Screen(crumbs, found.headline, dek, doubts)


def _encoder(store: FeatureStore, key: str) -> str:
    info = store.info(key)
    return shown_text(str(info.attributes["space"].get("name") or info.encoder.split(":", 1)[-1]))


def _range(low: float, high: float) -> str:
    """Return an interval of a share, which lies between none and all."""
    ends = (value_text("top-1", min(max(end, 0.0), 1.0)) for end in (low, high))
    return f"[{', '.join(ends)}]"


def _gain(row: Mapping[str, Any]) -> str:
    return gain_text(row["difference"], row["low"], row["high"])


def _and(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


@dataclass(frozen=True)
class Scene:
    """What the sentences of a first screen follow from.

    Attributes
    ----------
    found : Verdict
    rows, table : DataFrame
    head : str
        What the head was trained on, as people write it.
    is_unfinished : bool
        Whether runs that were planned are missing.
    """

    found: Verdict
    rows: pl.DataFrame
    table: pl.DataFrame
    head: str
    is_unfinished: bool = False

    def _deciding(self) -> dict[str, Any]:
        """Return the control that the tone follows from: of several, the best.

        Where all are beaten it is the first.
        """
        found, controls = self.found, self.found.controls
        if found.tone == "better":
            return controls[0]
        own = [row for row in controls if row["stands"] == found.tone]
        return min(own, key=itemgetter("difference"))

    def dek(self, images: str, texts: str, dataset: str) -> str:
        """Return what was fitted, on what it was scored, and what the images are."""
        found = self.found
        # Results of an older version do not say how many.
        n_rows = self.rows.filter(source="head", method=found.method)["n_prototypes"].max()
        counted = "rows" if n_rows is None else f"{int(n_rows):,} rows"  # type: ignore[arg-type]
        row = found.of("over-chance") or found.controls[0]
        n_images = row["n_queries"] / row["n_seeds"]
        scored = f"{n_images:,.0f} images"
        if found.eval in FRESH_SPLITS and row["n_seeds"] > 1:
            scored = f"{row['n_seeds']} splits of about {n_images:,.0f} test images"
        elif found.eval in FRESH_SPLITS:
            scored = f"One split of {n_images:,.0f} test images"
        chance = "" if row["chance"] is None else f", chance {value_text('top-1', row['chance'])} %"
        known = {one["name"]: one["text"] for one in DATASETS.listed()}
        what = known.get(dataset, f"the set {dataset}.")
        return (
            f"{method_title(found.method)} is fitted on the {counted} of {images}'s "
            f"classifier and the {texts} embeddings of their class names; no image–text pair is "
            f"used. {scored}, each {found.pool}{chance}. Images: {what[:1].lower()}{what[1:]}"
        )

    def weights(self) -> Doubt:
        """Answer whether the head's weights are the reason."""
        question, found = "Is it the weights?", self.found
        controls = found.controls
        if not controls:
            return Doubt(question, "Not tested: no control was run.")
        nearest, yes = min(controls, key=itemgetter("difference")), found.tone == "better"
        telling = [] if yes else [nearest, self._deciding()]
        shown = [row for row in controls if row["source"] in PRIMARY_CONTROLS or row in telling]
        levels = [f"{found.value('head')} with the head"] + [
            f"{value_text(found.metric, row['b'])} % with {_SHORT[row['source']]}"
            for row in shown or controls
        ]
        says = {
            "better": "Yes",
            "worse": "No, a control does better",
            "same": "Not shown, a control may do as well",
        }
        return Doubt(
            question,
            f"{says.get(found.tone) or f'Undecided, {_OPEN[found.tone]}'}: {_and(levels)}.",
            f"{_gain(nearest)} over the nearest control, "
            f"{standing(nearest)}"
            + (f"; each of {len(controls)} controls is beaten at 5 %." if yes else "."),
            settled=yes,
        )

    def fitting(self) -> Doubt:
        """Answer whether the fitted map does more than reading the head."""
        question, found = "Does fitting beat just reading the head?", self.found
        row = found.of("over-conse")
        if not row:
            return Doubt(question, "Not tested: ConSE, which only reads the head, was not run.")
        above = row["low"] is not None and row["low"] > 0
        lost = row["high"] is not None and row["high"] < 0
        answer = "Perhaps" if above else "Perhaps not" if lost else "Not shown"
        a, b = (value_text(found.metric, row[side]) for side in ("a", "b"))
        return Doubt(
            question,
            f"{answer}: {method_title(found.method)} {a} %, ConSE {b} %.",
            f"{_gain(row)}, p {p_text(row['p'])}: exploratory, so not corrected.",
        )

    def known_names(self, root: Path, words: Words) -> Doubt:
        """Answer whether the head names only classes that it was trained on."""
        question, found = "Only classes that the head knew?", self.found
        cell = found.cells["head"]
        share = cell.get("seen_share")
        if "caption" in found.direction:
            return Doubt(question, "Not measured: a caption is not the name of a class.")
        if share is None:
            return Doubt(question, "Not known: no names of the head's classes were read.")
        if any(cell.get(name) is None for name in BY_NAME):
            which = "has" if share else "lacks"
            return Doubt(
                question,
                f"{'Not tested' if share else 'No'}: every image has a name that the head {which}.",
                settled=not share,
            )  # fmt: skip
        ranges = self._by_name(root, words)
        chance = found.of("over-chance").get("chance") or 0.0
        seen, unseen = (f"{value_text(name, cell[name])} %" for name in BY_NAME)
        above = "unseen" in ranges and ranges["unseen"][0] > chance
        spans = [f"{name} {_range(*own)}" for name, own in ranges.items()]
        return Doubt(
            question,
            f"{'Partly' if above else 'Perhaps'}: {seen} where {self.head} has the name, "
            f"{unseen} where it does not, on average over names.",
            f"{capital(_and(spans))}. "
            * bool(spans)
            + f"{100 * share:.0f} % of the images have a name of the head; each is ranked "
            f"{found.pool}.",
        )

    def _by_name(self, root: Path, words: Words) -> dict[str, tuple[float, float]]:
        """Return the intervals of the accuracy over seen and unseen names."""
        found = self.found
        out: dict[str, tuple[float, float]] = {}
        cells = read_cells(root, found.cell(self.rows))
        if not words.seen or not cells or cells[0].clusters_of != "classes":
            return out
        sums = cells[0].by_seed(found.metric)
        known = np.isin(cells[0].clusters, list(words.seen))
        for name, kept in zip(BY_NAME, (known, ~known), strict=True):
            total, count = sums.total[:, kept], sums.count[:, kept]
            if count.any():
                # A name counts once, however many images it has.
                share = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
                out[name] = proportion_interval(DrawSums(share, (count > 0).astype(float)))
        return out

    def real_pairs(self) -> Doubt:
        """Answer whether the head still helps beside real pairs."""
        question, found = "Does it help with real pairs?", self.found
        rows = found.rows.filter(comparison="over-parts").rows(named=True)
        if not rows:
            return Doubt(question, "Not tested: no run fits the head together with real pairs.")
        # The largest number of pairs that a claim is possible about: there a head adds least.
        parts = max(rows, key=lambda row: (not row["limit"], pairs_order(row["n_pairs"])))
        limit, k = _LIMITS.get(parts["limit"]), parts["n_pairs"]
        real = found.of("over-real", n_pairs=k)
        fitted = self.table.filter(n_pairs=k)["n_images_fitted"].mean()
        p = parts["p"] if parts["p_holm"] is None else parts["p_holm"]
        above = parts["low"] is not None and parts["low"] > 0 and p is not None and p < LEVEL
        settled = bool(parts["bold"]) and parts["difference"] > 0
        without = f" and {value_text(found.metric, real['b'])} % without it" if real else ""
        answer = "Yes" if settled else "Not shown"
        if above and not settled:
            answer = limit or "Perhaps, but the comparison was not named beforehand"
        corrected = "" if parts["family"] is None else f" (Holm, {parts['family']} comparisons)"
        n_pairs = re.sub(r"\D*\((.*)\)", r"\1", pairs_text(k, fitted))
        return Doubt(
            question,
            f"{answer}: {n_pairs} pairs reach {value_text(found.metric, parts['a'])} % with the "
            f"head{without}; the head alone reaches {found.value('head')}.",
            f"{_gain(parts)} over the better of the two alone, p {p_text(p)}{corrected}.",
            settled=settled,
        )

    def quotable(self, note: str) -> Doubt:
        """Answer whether the number may be quoted."""
        question, found = "May I quote it?", self.found
        row = found.of("over-chance") or found.controls[0]
        n_splits = row["n_seeds"]
        splits = "one split was" if n_splits == 1 else f"{n_splits} splits were"
        method = method_title(found.method)
        reasons = {
            "these images are a development set": note.startswith(DEVELOPMENT),
            f"{method} was scored in {found.n_settings} settings": found.n_settings > 1,
            "runs that were planned are missing": self.is_unfinished,
            "no control was run": not found.controls,
            _OPEN.get(found.tone, ""): found.controls and found.tone in _OPEN,
            f"only {splits} drawn ({ENOUGH_DRAWS} are needed)": (
                found.eval in FRESH_SPLITS and n_splits < ENOUGH_DRAWS
            ),
            f"the images are of only {row['n_clusters']} classes": row["n_clusters"] < FEW_CLASSES,
        }
        against = [reason for reason, holds in reasons.items() if holds]
        chance = row["chance"]
        quote = found.value("head")
        if row.get("comparison") == "over-chance" and row["low"] is not None and chance is not None:
            quote += f" {_range(row['low'] + chance, row['high'] + chance)}"
        quote += f" {found.pool}"
        if against:
            shown = (
                capital(note.removeprefix(f"{DEVELOPMENT}: "))
                if note.startswith(DEVELOPMENT)
                else ""
            )
            return Doubt(question, f"No: {_and(against)}.", shown)
        outcome = {
            "same": ", and that a control may do as well",
            "worse": ", and that a control does better",
        }
        return Doubt(
            question,
            f"Yes: {quote}{outcome.get(found.tone, '')}.",
            "Name the data sets and revisions listed under Reproduce.",
            settled=found.tone == "better",
        )  # fmt: skip


#: Why no claim about new real pairs is possible; see `bench.comparisons.Claim.limit`.
_LIMITS = {"pool": "Only for this pool of pairs", "draws": "Undecided, there are too few draws"}
