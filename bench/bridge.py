"""Bridges: from the vectors of an old encoder to those of a new one, and what a search keeps.

The items that both have are drawn apart, again and again: on one half a map is chosen and fitted,
on the other it is asked what it keeps of the neighbours that the new encoder gives, in both
directions, beside maps that know nothing. An interval is about other items and other pairs.
docs/bridge.md has the simulations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.errors import ProtocolError
from bench.metrics.geometry import unit_rows
from bench.metrics.ranks import first_places
from bench.options import FEWEST_PAIRS, BridgeConfig, BridgeSettings
from bench.spaces import ENOUGH, Relation, relate
from bench.statistics import DrawSums, Estimate, two_term
from featstore.errors import MisalignedItemsError, UnknownColumnError, listed, unknown_name
from featstore.interop.reading import view_of
from featstore.matrices import Rows, matrix
from featstore.options import take_options
from featstore.store.tables import join_ids
from featstore.store.view import Selection
from fitters.adapter import GOLDEN, Adapter
from fitters.space_maps import (
    Kind,
    LinearMap,
    Setting,
    SpaceMap,
    kinds_for,
    settings_of,
    space_maps,
)

Matrix = npt.NDArray[Any]

#: Neighbours that count, items of the gallery and queries among them, at most.
NEIGHBOURS, GALLERY, QUERIES = 10, 3000, 500

#: Held-out items by which a map is chosen, and queries among them, at most.
_HELD, _ASKED = 1000, 300

#: Steps of the curve, each of half as many pairs, and how far it is predicted.
_STEPS, _AHEAD = 6, 8

#: Queries that a group has at least to be named.
_OF_GROUP = 30

#: A new encoder whose rows are so close to length 1 normalises them.
_UNIT = 2e-3

#: Directions: whose rows are mapped, the queries' or the gallery's.
Direction = Literal["old queries", "old items"]
DIRECTIONS: tuple[Direction, ...] = ("old items", "old queries")

#: What a map is compared with.
CONTROLS = ("shuffled pairs", "random rotation", "identity")


@dataclass(frozen=True)
class Kept:
    """What a map keeps of the neighbours that the new encoder gives, as shares.

    Attributes
    ----------
    by : str
        ``the map``, or one of `CONTROLS`.
    mapped : str
        ``old items``: new queries search mapped old items; ``old queries``: mapped old queries
        search new items.
    nearest, ten : Estimate
        Of the nearest item, and of the ten nearest.
    """

    by: str
    mapped: Direction
    nearest: Estimate
    ten: Estimate


@dataclass(frozen=True, eq=False)
class Bridge:
    """What was measured, and the adapter of all pairs.

    Attributes
    ----------
    relation : Relation
    n_items, n_pairs, gallery : int
        Items of both sides, pairs of a draw, items among which a query's neighbours are looked for.
    kinds : mapping
        Kind of map -> number of draws that chose it.
    kept : tuple of Kept
        The map and the controls, in both directions.
    curve : mapping
        Pairs -> share of the ten nearest that is kept, ``old items`` mapped.
    predicted : mapping
        Pairs beyond -> the least and the largest prediction of the draws.
    worst : (str, Estimate), optional
        The group of which least is kept.
    gate : float, optional
    adapter : Adapter
    """

    relation: Relation
    n_items: int
    n_pairs: int
    gallery: int
    kinds: Mapping[str, int]
    kept: tuple[Kept, ...]
    curve: Mapping[int, Estimate]
    predicted: Mapping[int, tuple[float, float]]
    worst: tuple[str, Estimate] | None
    gate: float | None
    adapter: Adapter

    @property
    def own(self) -> Estimate:
        """What the map keeps of the ten nearest where new queries search mapped old items."""
        return self.kept[0].ten

    @property
    def passes(self) -> bool:
        """Whether the lower end of the interval reaches the gate; True without one."""
        return self.gate is None or self.own.interval()[0] >= self.gate

    @property
    def shuffled(self) -> Estimate:
        """The same by a map of shuffled pairs."""
        return next(
            one.ten for one in self.kept[1:] if (one.by, one.mapped) == (CONTROLS[0], DIRECTIONS[0])
        )

    @property
    def sentence(self) -> str:
        """The verdict: spaces, share with its interval, a control, and the gate."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the verdict; the last answers, by the gate where there is one."""
        kind = max(self.kinds, key=lambda name: self.kinds[name])
        keeps = (
            f"{kind.capitalize()} on {self.n_pairs:,} pairs keeps "
            f"{percent(self.own)} of the ten nearest among {self.gallery:,} items; "
            f"{CONTROLS[0]} keep {100 * self.shuffled.mean:.1f} %."
        )
        if self.gate is None:
            return self.relation.sentence, keeps
        ahead = [n for n, (_, most) in self.predicted.items() if most >= self.gate]
        more = f" {min(ahead):,} pairs may reach it." if ahead else ""
        holds = "holds." if self.passes else f"is missed: encode the old items again.{more}"
        return self.relation.sentence, keeps, f"The gate of {100 * self.gate:g} % {holds}"

    def save(self, path: Path | str) -> Path:
        """Write the adapter; see `fitters.adapter.Adapter.save`."""
        return self.adapter.save(Path(path))

    def frame(self) -> pl.DataFrame:
        """Return what was kept as a table, a row a map, direction and number of neighbours."""
        rows = []
        for one in self.kept:
            for k, found in ((1, one.nearest), (NEIGHBOURS, one.ten)):
                low, high = shares(found)
                own = {"by": one.by, "mapped": one.mapped, "k": k, "kept": found.mean}
                rows.append({**own, "low": low, "high": high})
        return pl.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Bridge: {self.sentence}"


def shares(found: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of a share, within 0 and 1."""
    low, high = found.interval()
    return max(0.0, low), min(1.0, high)


def percent(found: Estimate) -> str:
    """Return a share and its interval: ``55.2 % [52.0, 57.4]``."""
    low, high = (100 * end for end in shares(found))
    return f"{100 * found.mean:.1f} % [{low:.1f}, {high:.1f}]"


def bridge(old: Rows | Path, new: Rows | Path, **settings: Unpack[BridgeSettings]) -> Bridge:
    """Map the rows of an old encoder to those of a new one, and measure what a search keeps.

    Parameters
    ----------
    old, new : view, Path or Rows of shape (n, p), (n, q)
        Views and files (`featstore.interop.reading.view_of`) are joined by the ids of their items;
        of arrays, row i of both is one item.
    **settings
        Fields of `bench.options.BridgeConfig`.

    Raises
    ------
    MisalignedItemsError
        If the two share no ids, have an id twice, or arrays are of different lengths.
    ProtocolError
        If they share fewer than `bench.spaces.ENOUGH` items, or a row is not finite or zero.
    UnknownColumnError
        If the items have no column of the groups.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> old = rng.standard_normal((200, 8))
    >>> found = bridge(old, old @ rng.standard_normal((8, 12)), seeds=range(5))
    >>> found.relation.verdict, round(found.own.mean, 2)
    ('related', 1.0)
    """
    (own,) = take_options(settings, BridgeConfig, of="bridge")
    config = BridgeConfig(**own)
    x, y, items, spaces = _joined(*(_read(rows) for rows in (old, new)))
    groups = _groups(items, config.group)
    rng = np.random.default_rng([len(x), min(config.seeds)])
    relation = relate(x, y, rng)
    if len(relation.strangers):  # no pairs: one side is of another encoder
        follows = np.setdiff1d(np.arange(len(x)), relation.strangers)
        x, y, groups = x[follows], y[follows], None if groups is None else groups[follows]
    kinds = _kinds(config, len(x), x.shape[1], y.shape[1])
    draws = [
        _Draw.of(x, y, kinds, config, np.random.default_rng([seed, 7])) for seed in config.seeds
    ]
    n_pairs = max(draws[0].curve)
    overlap = n_pairs / len(x)
    kept = tuple(
        Kept(by, mapped, *(_estimate(draws, (by, mapped), k, overlap) for k in (0, 1)))
        for by, mapped in draws[0].kept
    )
    curve = {
        n: _estimated([draw.items for draw in draws], [draw.curve[n] for draw in draws], n / len(x))
        for n in sorted(draws[0].curve)
    }
    chosen = Counter(draw.setting.kind for draw in draws)
    setting = _chosen(x, y, kinds, rng)
    made = space_maps(x, y, setting.kind, rng)(setting).astype(np.float32)
    result = Bridge(
        relation, len(x), n_pairs, draws[0].gallery, dict(chosen.most_common()), kept, curve,
        _predicted(draws), _worst(draws, groups, overlap), config.gate,
        Adapter(made, _is_unit(y), x[:GOLDEN].astype(np.float32)),
    )  # fmt: skip
    return replace(result, adapter=replace(result.adapter, facts=_facts(result, setting, spaces)))


def _read(rows: Rows | Path) -> Rows:
    return view_of(Path(rows)) if isinstance(rows, str | Path) else rows


def _joined(old: Rows, new: Rows) -> tuple[Matrix, Matrix, pl.DataFrame, list[str]]:
    """Return the rows of the items that both have, their items, and the ids of the spaces."""
    if isinstance(old, Selection) and isinstance(new, Selection):
        ids = [view.items["item_id"] for view in (old, new)]
        for view, own in zip((old, new), ids, strict=True):
            twice = own.filter(own.is_duplicated())
            if len(twice):
                raise MisalignedItemsError(
                    f"{view.key} has {len(twice):,} rows with an id that another row has: "
                    f"{listed(twice.unique(maintain_order=True))}. Choose one row an item."
                )
        left, right = join_ids(*ids)
        if not len(left):
            raise MisalignedItemsError(
                f"{old.key} and {new.key} share no item: of {len(old):,} and {len(new):,} ids, "
                f"such as {ids[0][0]!r} and {ids[1][0]!r}, none are equal."
            )
        x, y = old.take(left), new.take(right)
        items = x.items.hstack([own for own in y.items if own.name not in x.items.columns])
        rows, spaces = (x.numpy(), y.numpy()), [old.space_id, new.space_id]
    else:
        rows = matrix(old, "old"), matrix(new, "new")
        if len(rows[0]) != len(rows[1]):
            raise MisalignedItemsError(
                f"Without ids, row i of both must be one item: old has {len(rows[0]):,} rows, new "
                f"{len(rows[1]):,}."
            )
        items, spaces = pl.DataFrame(), ["", ""]
    if len(rows[0]) < ENOUGH:
        raise ProtocolError(f"{len(rows[0]):,} items are in both. A bridge needs {ENOUGH} or more.")
    for name, side in zip(("old", "new"), rows, strict=True):
        bad = ~np.isfinite(side).all(axis=1) | ~side.any(axis=1)
        if bad.any():
            raise ProtocolError(
                f"{int(bad.sum()):,} of the {name} rows are NaN, Inf or all zeros, first number "
                f"{int(bad.argmax()):,} of those in both. Leave their items out."
            )
        if (side == side[0]).all():
            raise ProtocolError(f"All {len(side):,} {name} rows are the same: nothing can be near.")
    return *rows, items, spaces


def _groups(items: pl.DataFrame, column: str | None) -> npt.NDArray[Any] | None:
    if column is None:
        return None
    if column not in items.columns:
        where = "in the items of either side"
        raise UnknownColumnError(unknown_name("column", column, items.columns, where=where))
    return items[column].cast(pl.String).fill_null("none").to_numpy()


def _kinds(config: BridgeConfig, n: int, p: int, q: int) -> list[Kind]:
    fitting = list(kinds_for(n // 2, p, q))
    chosen = [kind for kind in fitting if kind in (config.methods or fitting)]
    wrong = [kind for kind in config.methods if kind not in fitting]
    if wrong:
        raise ProtocolError(
            f"{listed(wrong)} does not fit {n // 2:,} pairs of {p:,} and {q:,} columns. These do: "
            f"{', '.join(fitting)}."
        )
    return chosen


@dataclass(frozen=True, eq=False)
class _Draw:
    """One draw: half of the items are pairs, of the others some are a gallery.

    Attributes
    ----------
    items : ndarray of int
        The queries.
    gallery : int
    setting : Setting
    kept : dict
        (map or control, direction) -> shares of the nearest and of the ten nearest, a query each.
    curve : dict
        Pairs -> shares of the ten nearest, ``old items`` mapped.
    """

    items: npt.NDArray[np.intp]
    gallery: int
    setting: Setting
    kept: Mapping[tuple[str, Direction], tuple[Matrix, Matrix]]
    curve: Mapping[int, Matrix]

    @classmethod
    def of(
        cls, x: Matrix, y: Matrix, kinds: Sequence[Kind], config: BridgeConfig,
        rng: np.random.Generator,
    ) -> _Draw:  # fmt: skip
        """Draw pairs and items, choose a map on the pairs, and ask what it keeps."""
        order, half = rng.permutation(len(x)), len(x) // 2
        pairs = order[: min(half, config.n_pairs or half)]
        held = order[half:][:GALLERY]
        search = _Search(x[held], y[held], min(QUERIES, len(held)))
        setting = _chosen(x[pairs], y[pairs], kinds, rng)
        curve = {}
        for step in range(_STEPS):
            n = len(pairs) >> step
            if n < FEWEST_PAIRS and step:
                break
            made = space_maps(x[pairs[:n]], y[pairs[:n]], setting.kind, rng)(setting)
            curve[n] = search.kept(made, "old items")[1]
            if not step:
                own = made
        shuffled = space_maps(x[pairs], y[rng.permutation(pairs)], setting.kind, rng)(setting)
        maps = {"the map": own, "shuffled pairs": shuffled, **_ignorant(x, y, rng)}
        kept = {
            (by, mapped): search.kept(one, mapped)
            for by, one in maps.items()
            for mapped in DIRECTIONS
        }
        return cls(held[: search.n_queries], len(held), setting, kept, curve)


def _ignorant(x: Matrix, y: Matrix, rng: np.random.Generator) -> dict[str, SpaceMap]:
    """Return the maps that have seen no pair."""
    p, q = x.shape[1], y.shape[1]
    turned = np.linalg.qr(rng.standard_normal((max(p, q), max(p, q))))[0][:p, :q]
    nothing = np.zeros(q)
    found: dict[str, SpaceMap] = {"random rotation": LinearMap(nothing, turned)}
    return found | ({"identity": LinearMap(nothing, np.eye(p))} if p == q else {})


class _Search:
    """Queries among the items of a gallery, by both encoders: query i is item i."""

    def __init__(self, old: Matrix, new: Matrix, n_queries: int) -> None:
        self.n_queries, self._old, self._new = n_queries, old, new
        self._k = min(NEIGHBOURS, len(new) - 1)
        self._truth = nearest_items(new[:n_queries], new, self._k)

    def kept(self, made: SpaceMap, mapped: Direction) -> tuple[Matrix, Matrix]:
        """Return the shares of the nearest and of the ten nearest that are found, (queries,)."""
        if mapped == "old items":
            found = nearest_items(self._new[: self.n_queries], made.apply(self._old), self._k)
        else:
            found = nearest_items(made.apply(self._old[: self.n_queries]), self._new, self._k)
        first = (found[:, 0] == self._truth[:, 0]).astype(np.float64)
        both = (found[:, :, None] == self._truth[:, None, :]).any(axis=2)
        return first, both.mean(axis=1)


def nearest_items(queries: Matrix, gallery: Matrix, k: int) -> npt.NDArray[np.intp]:
    """Return the k nearest items by cosine, the best first; query i is item i and is left out."""
    scores = unit_rows(queries) @ unit_rows(gallery).T
    np.fill_diagonal(scores, -np.inf)
    groups = np.full(len(scores), -1), np.zeros(len(gallery), np.int64)
    return first_places(scores, *groups, k)


def _is_unit(rows: Matrix) -> bool:
    norms = np.linalg.norm(rows, axis=1)
    return bool((np.abs(norms - 1) < _UNIT).all())


def _chosen(x: Matrix, y: Matrix, kinds: Sequence[Kind], rng: np.random.Generator) -> Setting:
    """Choose a map on pairs alone, by what it keeps of held-out ones.

    Another kind is taken than the first only where its paired gain is above its standard error: of
    few pairs, noise would choose the map with most freedom.
    """
    order = rng.permutation(len(x))
    n_held = min(_HELD, max(len(x) // 5, min(NEIGHBOURS + 2, len(x) // 2)))
    held, fitted = order[:n_held], order[n_held:]
    search = _Search(x[held], y[held], min(_ASKED, n_held))
    best: tuple[Setting, Matrix] | None = None
    gain = 0.0
    for kind in kinds:
        make = space_maps(x[fitted], y[fitted], kind, rng)
        tried = [(one, search.kept(make(one), "old items")[1]) for one in settings_of(kind)]
        own, values = max(tried, key=lambda pair: float(pair[1].mean()))
        if best is None:
            best = first = own, values
            continue
        more = values - first[1]
        if more.mean() > max(gain, float(more.std(ddof=1)) / np.sqrt(len(more))):
            best, gain = (own, values), float(more.mean())
    assert best is not None
    return best[0]


def _estimate(
    draws: Sequence[_Draw], of: tuple[str, Direction], k: int, overlap: float
) -> Estimate:
    return _estimated([draw.items for draw in draws], [draw.kept[of][k] for draw in draws], overlap)


def _estimated(
    items: Sequence[npt.NDArray[np.intp]], values: Sequence[Matrix], overlap: float
) -> Estimate:
    """Return the mean over draws and items, with an interval for both."""
    numbers = np.repeat(np.arange(len(items)), [len(own) for own in items])
    sums = DrawSums.of(np.concatenate(values), numbers, np.concatenate(items))
    return two_term(sums, overlap=overlap)


def _worst(
    draws: Sequence[_Draw], groups: npt.NDArray[Any] | None, overlap: float
) -> tuple[str, Estimate] | None:
    """Return the group of which least is kept, among those with enough queries."""
    if groups is None:
        return None
    values = [draw.kept["the map", "old items"][1] for draw in draws]
    found = {}
    for group in np.unique(groups):
        own = [groups[draw.items] == group for draw in draws]
        if sum(int(one.sum()) for one in own) >= _OF_GROUP:
            items = [draw.items[one] for draw, one in zip(draws, own, strict=True)]
            parts = [one[mask] for one, mask in zip(values, own, strict=True)]
            found[str(group)] = _estimated(items, parts, overlap)
    return min(found.items(), key=lambda pair: pair[1].mean) if found else None


def _predicted(draws: Sequence[_Draw]) -> dict[int, tuple[float, float]]:
    """Return what more pairs would keep, by the power law of every draw: the least and the most."""
    most = max(draws[0].curve)
    steps = [most * 2**step for step in range(1, 4) if 2**step <= _AHEAD]
    if len(draws[0].curve) < 4:
        return {}
    laws = [
        power_law({n: float(values.mean()) for n, values in draw.curve.items()}) for draw in draws
    ]
    found = {n: [law(n) for law in laws] for n in steps}
    return {n: (min(values), max(values)) for n, values in found.items()}


def power_law(curve: Mapping[int, float]) -> Callable[[float], float]:
    """Return r(n) = a − b n⁻ᶜ through shares by numbers of pairs, by least squares.

    Parameters
    ----------
    curve : mapping
        Pairs -> share, four numbers or more.

    Returns
    -------
    callable
        Pairs -> share, within 0 and 1, and never less than with fewer pairs.

    Examples
    --------
    >>> law = power_law({n: 0.6 - 2 * n**-0.5 for n in (100, 200, 400, 800)})
    >>> round(law(6400), 3)
    0.575
    """
    n, share = np.array([*curve], float), np.array([*curve.values()])
    best = (np.inf, 0.0, 0.0, 1.0)
    for power in np.linspace(0.05, 2.0, 40):
        design = np.stack([np.ones_like(n), -(n**-power)], axis=1)
        (a, b), *_ = np.linalg.lstsq(design, share, rcond=None)
        if b < 0:
            a, b = float(share.mean()), 0.0
        a = min(float(a), 1.0)
        off = float(((a - b * n**-power - share) ** 2).sum())
        if off < best[0]:
            best = off, a, float(b), float(power)
    _, a, b, power = best
    return lambda pairs: float(np.clip(a - b * pairs**-power, 0.0, 1.0))


def _facts(result: Bridge, setting: Setting, spaces: Sequence[str]) -> dict[str, Any]:
    """Return the evidence that an adapter carries."""
    old, new = result.adapter.widths
    kept = [
        {**row, "low": round(row["low"], 6), "high": round(row["high"], 6),
         "kept": round(row["kept"], 6)}
        for row in result.frame().to_dicts()
    ]  # fmt: skip
    worst = result.worst
    return {
        "old": {"space_id": spaces[0], "columns": old},
        "new": {"space_id": spaces[1], "columns": new},
        "spaces": result.relation.verdict,
        "pairs": result.n_items,
        "map": {"kind": setting.kind, "penalty": setting.penalty, "matched": setting.matched},
        "measured": {"pairs": result.n_pairs, "gallery": result.gallery, "kept": kept},
        "worst_group": None if worst is None else {"group": worst[0], "kept": percent(worst[1])},
        "gate": None if result.gate is None else {"at": result.gate, "holds": result.passes},
    }
