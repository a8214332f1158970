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
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from bench.cells import (
    label_set_title,
    method_title,
    pairs_order,
    read_cells,
    source_name,
    spelled,
)
from bench.comparisons import (
    FEW_CLASSES,
    LEVEL,
    PRIMARY_CONTROLS,
    PRIMARY_METRICS,
)
from bench.metrics.summary import METRICS
from bench.protocol import FRESH_SPLITS
from bench.report.gallery import Words, shown_text
from bench.report.theme import capital
from bench.report.verdict import (
    Verdict,
    among,
    first_of_order,
    standing,
)
from bench.results import unfinished
from bench.statistics import ENOUGH_DRAWS, DrawSums, proportion_interval
from bench.suites.few_shot import Finding, few_shot_claim
from bench.tables import BY_NAME, gain_text, p_text, pairs_text, value_text
from featstore.datasets import DATASETS
from featstore.store.store import FeatureStore

#: How the note of a dataset begins whose images were looked at when settings were chosen.
DEVELOPMENT = "Development set"


class Subject(NamedTuple):
    """What a headline is about, whether that is one thing, and what it is called in a list."""

    name: str
    one: bool
    short: str = ""


#: What a headline calls a control.
_CONTROLS = {
    "random": Subject("random vectors", one=False, short="random vectors"),
    "random-cov": Subject(
        "random vectors of the head's covariance",
        one=False,
        short="random vectors of its covariance",
    ),
    "shuffled": Subject("the head with shuffled names", one=True, short="shuffled names"),
    "rotated": Subject("the head after a random rotation", one=True, short="rotated rows"),
}  # fmt: skip

#: Why controls do not decide, by the tone of the verdict.
_OPEN = {
    "undecided": "there are too few control draws",
    "unknown": "a control was drawn only once",
}

#: Parts of a headline, each with the role of its colour or none.
Parts: TypeAlias = tuple[tuple[str, str], ...]


class Wording(NamedTuple):
    """How a headline says a value: the verbs of several and of one, and what follows the number.

    `again` are the verbs of a second sentence, which does not repeat what was counted.
    """

    verbs: tuple[str, str]
    tail: str
    again: tuple[str, str]

    def first(self, subject: Subject, value: float, role: str, *, pool: str) -> Parts:
        """Return a sentence that says what was counted, and among how many."""
        before = f"{capital(subject.name)} {self.verbs[subject.one]} "
        return (before, ""), (_percent(value), role), (f"{self.tail} {pool}.", "")

    def second(
        self, subject: Subject, value: float, role: str, *, lead: str = "", end: str = "."
    ) -> Parts:
        """Return a sentence that does not repeat it, with words before and after its number."""
        before = f"{capital(subject.name)} {self.again[subject.one]} {lead}"
        return (before, ""), (_percent(value), role), (end, "")


_NAMES = Wording(("name", "names"), " of images correctly", ("name", "names"))
_WORDINGS = {
    ("image→name", "top-1"): _NAMES,
    ("image→class", "top-1"): _NAMES,
    ("image→caption", "R@1"): Wording(
        ("rank the right caption first for", "ranks the right caption first for"),
        " of images",
        ("do so for", "does so for"),
    ),
}


def _wording(direction: str, metric: str) -> Wording:
    reach = ("reach", "reaches")
    other = Wording(reach, f" in {metric} of {direction.replace('→', ' → ')}", reach)
    return _WORDINGS.get((direction, metric), other)


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
    headline : tuple of tuple of (text, role)
        One or two sentences in parts; numbers have the role of their colour, other parts none.
    dek : str
        What was fitted on what, and how it was scored.
    doubts : tuple of Doubt
    """

    crumbs: tuple[str, ...]
    headline: tuple[Parts, ...]
    dek: str
    doubts: tuple[Doubt, ...]

    @property
    def finding(self) -> str:
        """The headline as plain text."""
        return " ".join("".join(text for text, _ in parts) for parts in self.headline)

    @property
    def title(self) -> str:
        """The title of the page."""
        return " · ".join(["Headstock", *self.crumbs])


def first_screen(
    root: Path,
    rows: pl.DataFrame,
    table: pl.DataFrame,
    found: Verdict | None,
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
        return Screen(crumbs, _without_head(table, few_shot_claim(root, rows)), "", ())
    head = label_set_title(sets["head_set"].split("/")[0])
    left = bool(unfinished(root, suite))
    scene = Scene(found, rows, table, head, is_unfinished=left)
    dek = scene.dek(names["image"], str(text), str(sets["image_set"]).split("/")[0])
    doubts = (
        scene.weights(), scene.fitting(), scene.known_names(root, words), scene.real_pairs(),
        scene.quotable(note),
    )  # fmt: skip
    return Screen(crumbs, scene.headline(), dek, doubts)


def _encoder(store: FeatureStore, key: str) -> str:
    info = store.info(key)
    return spelled(
        shown_text(str(info.attributes["space"].get("name") or info.encoder.split(":", 1)[-1]))
    )


def _percent(value: float) -> str:
    """Return a share as people quote it: whole from ten percent on."""
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{value_text('top-1', value)} %"


def _range(low: float, high: float) -> str:
    """Return an interval of a share, which lies between none and all."""
    ends = (value_text("top-1", min(max(end, 0.0), 1.0)) for end in (low, high))
    return f"[{', '.join(ends)}]"


def _gain(row: Mapping[str, Any]) -> str:
    return gain_text(row["difference"], row["low"], row["high"])


def _and(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _has_head_alone(table: pl.DataFrame) -> bool:
    of_head = (pl.col("source") == "head") & (pl.col("n_pairs") == "0")
    return not table.filter(of_head & (pl.col("method") != "conse")).is_empty()


def _without_head(table: pl.DataFrame, claim: Finding | None = None) -> tuple[Parts, ...]:
    """Return the headline, by sentences, of results without a verdict."""
    if claim is not None:
        return _learner(claim)
    scored = table.filter(
        ~pl.col("method").is_in(["chance", "conse"]) & ~pl.col("source").is_in([*_CONTROLS])
    )
    present = [m for m, one in METRICS.items() if m in table.columns and one.higher_is_better]
    for metric in dict.fromkeys([*(metric for _, metric in PRIMARY_METRICS), *present]):
        own = scored.filter(pl.col(metric).is_not_null()) if metric in present else scored.clear()
        if own.is_empty():
            continue
        method = first_of_order(own["method"])
        own = own.filter(
            (pl.col("method") == method) & (pl.col("direction") == own["direction"][0])
        )
        row = max(own.iter_rows(named=True), key=lambda one: pairs_order(one["n_pairs"]))
        given = source_name(row["source"], row["n_pairs"])
        k = pairs_text(row["n_pairs"], row["n_images_fitted"])
        subject = f"{method_title(method)} on {given.replace('real', f'{k} real', 1)}"
        then = "No head was scored alone, so nothing here says what its weights add."
        if _has_head_alone(table):
            then = "The tables have every run on head weights; none of them gives a verdict."
        pool = among(row["direction"], row["gallery"])
        wording, one = _wording(row["direction"], metric), Subject(subject, one=True)
        return wording.first(one, row[metric], "real", pool=pool), ((then, ""),)
    return ((("No run on head weights answers the question yet.", ""),),)


def _learner(claim: Finding) -> tuple[Parts, ...]:
    """Return the headline of few-shot learners: the one named beforehand, and what is shown."""
    value, wording = claim.value, _wording("image→class", "top-1")
    if value is None:
        return (((f"{claim.sentence} The table of learners has all.", ""),),)
    subject = Subject(f"{claim.learner} with {claim.shots} labelled images a class", one=True)
    first = wording.first(subject, value, "real", pool=among("image→class", claim.gallery))
    return first, ((claim.sentence, ""),)


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

    def headline(self) -> tuple[Parts, ...]:
        """Return the finding, whichever it is."""
        found, wording = self.found, _wording(self.found.direction, self.found.metric)
        value = found.cells["head"][found.metric]
        head = Subject(f"a discarded {self.head} head", one=True), value, "head"
        first, controls = wording.first(*head, pool=found.pool), found.controls
        if not controls:
            return first, (("No control was run, so the weights may not be the reason.", ""),)
        shown = self._deciding()
        subject = _CONTROLS[shown["source"]]
        control = subject, shown["b"], shown["source"]
        if found.tone == "worse":
            lost = wording.second(*head, lead="only ")
            return wording.first(*control, pool=found.pool), lost
        if found.tone == "same":
            end = ", so the weights may not be the reason."
            return first, wording.second(*control, end=end)
        ends = {
            "better": ".",
            "undecided": ", but there are too few control draws to decide.",
            "unknown": ", but one draw decides nothing.",
        }
        return first, wording.second(*control, end=ends[found.tone])

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
        own = self.rows.filter((pl.col("source") == "head") & (pl.col("method") == found.method))
        # Results of an older version do not say how many.
        n_rows = own["n_prototypes"].max()
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
            f"{value_text(found.metric, row['b'])} % with {_CONTROLS[row['source']].short}"
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
        rows = found.rows.filter(pl.col("comparison") == "over-parts").rows(named=True)
        if not rows:
            return Doubt(question, "Not tested: no run fits the head together with real pairs.")
        # The largest number of pairs that a claim is possible about: there a head adds least.
        parts = max(rows, key=lambda row: (not row["limit"], pairs_order(row["n_pairs"])))
        limit, k = _LIMITS.get(parts["limit"]), parts["n_pairs"]
        real = found.of("over-real", n_pairs=k)
        fitted = self.table.filter(pl.col("n_pairs") == k)["n_images_fitted"].mean()
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
