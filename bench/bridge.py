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
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import least_squares

from bench.errors import ProtocolError
from bench.metrics.geometry import nearest_rows, shared_rows
from bench.options import FEWEST_PAIRS, BridgeConfig, BridgeSettings
from bench.spaces import Relation, footprints, relate
from bench.statistics import DrawSums, Estimate, two_term
from featstore.errors import MisalignedItemsError, UnknownColumnError, listed, unknown_name
from featstore.interop import view_of
from featstore.matrices import Rows, matrix
from featstore.options import take_options
from featstore.store.pairs import pair_views
from featstore.store.view import Selection
from fitters.adapter import (
    GOLDEN,
    Adapter,
    Kind,
    Setting,
    SpaceMap,
    kinds_for,
    settings_of,
    space_maps,
)
from fitters.sources import row_norms

Matrix = npt.NDArray[Any]

#: Neighbours that count, items of the gallery and queries among them, at most.
NEIGHBOURS, GALLERY, QUERIES = 10, 3000, 500

#: Held-out items by which a map is chosen, and queries among them, at most.
_HELD, _ASKED = 1000, 300

#: Steps of the curve, each of half as many pairs, and for how many times more it is predicted.
_STEPS, _AHEAD = 6, (2, 4, 8)

#: Queries that a group has at least to be named.
_OF_GROUP = 30

#: What a map is compared with.
CONTROLS = ("shuffled pairs", "random rotation", "identity")

#: Rows and groups that are named.
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Bridge:
    """What was measured, and the adapter of all pairs.

    Attributes
    ----------
    relation : Relation
    n_items, n_pairs, gallery : int
        Items of both sides, pairs of a draw, items among which a query's neighbours are looked for.
    kinds : mapping
        Kind of map -> number of draws that chose it, the most frequent first.
    kept : mapping
        (``the map`` or one of `CONTROLS`, direction, 1 or 10) -> share of the nearest item, and of
        the ten nearest, by the new encoder that is found again. Of ``old items``, new queries
        search mapped old items; of ``old queries``, mapped old queries search new items.
    curve : mapping
        Pairs -> share of the ten nearest that is kept, ``old items`` mapped.
    predicted : mapping
        Pairs beyond -> the least and the largest prediction of the draws.
    groups : mapping
        Group -> what the map keeps of its ten nearest, the group of which least is kept first.
    accuracy : mapping
        ``the map``, a control, ``new encoder`` or ``old encoder`` -> share of queries whose nearest
        item has their label, old items mapped; empty without labels.
    gate : float, optional
    adapter : Adapter
    """

    relation: Relation
    n_items: int
    n_pairs: int
    gallery: int
    kinds: Mapping[str, int]
    kept: Mapping[tuple[str, str, int], Estimate]
    curve: Mapping[int, Estimate]
    predicted: Mapping[int, tuple[float, float]]
    groups: Mapping[str, Estimate]
    accuracy: Mapping[str, Estimate]
    gate: float | None
    adapter: Adapter

    @property
    def own(self) -> Estimate:
        """What the map keeps of the ten nearest where new queries search mapped old items."""
        return self.kept["the map", "old items", NEIGHBOURS]

    @property
    def passes(self) -> bool:
        """Whether the lower end of the interval reaches the gate; True without one."""
        return self.gate is None or self.own.interval()[0] >= self.gate

    @property
    def sentence(self) -> str:
        """The verdict: spaces, share with its interval, a control, and the gate."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the verdict; the last answers, by the gate where there is one."""
        kind, knowing_nothing = (
            next(iter(self.kinds)),
            self.kept[CONTROLS[0], "old items", NEIGHBOURS],
        )
        keeps = (
            f"{kind.capitalize()} on {self.n_pairs:,} pairs keeps "
            f"{percent(self.own)} of the ten nearest among {self.gallery:,} items; "
            f"{CONTROLS[0]} keep {100 * knowing_nothing.mean:.1f} %."
        )
        if self.gate is None:
            return self.relation.sentence, keeps
        ahead = [n for n, (_, most) in self.predicted.items() if most >= self.gate]
        more = f" {min(ahead):,} pairs may reach it." if ahead else ""
        holds = "holds." if self.passes else f"is missed: encode the old items again.{more}"
        return self.relation.sentence, keeps, f"The gate of {100 * self.gate:g} % {holds}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was measured beside the table, by name, as it is shown."""
        relation = self.relation
        strangers = listed(relation.strangers.tolist(), shown=_SHOWN)
        ahead = [f"{n:,}: {100 * a:.1f} to {100 * b:.1f}" for n, (a, b) in self.predicted.items()]
        found = {
            "spaces": " ".join([relation.sentence, *relation.undecided]),
            "left out": f"numbers {strangers} of items in both" if len(relation.strangers) else "",
            "items": f"{self.n_items:,} in both, {self.gallery:,} searched",
            "maps, by draws": ", ".join(f"{kind} {n}" for kind, n in self.kinds.items()),
            "% kept, by pairs": "  ".join(
                f"{n:,}: {100 * one.mean:.1f}" for n, one in self.curve.items()
            ),
            "by a power law": "  ".join(ahead),
            "nearest has the label": _listed(self.accuracy),
            "least is kept of": _listed(self.groups),
        }
        return [(name, value) for name, value in found.items() if value]

    @property
    def table(self) -> list[tuple[str, str, str, str]]:
        """A row a map and direction: shares of the nearest and of the ten nearest, in words."""
        return [
            (by, f"{mapped} mapped", percent(self.kept[by, mapped, 1]), percent(found))
            for (by, mapped, k), found in self.kept.items() if k == NEIGHBOURS
        ]  # fmt: skip

    def frame(self) -> pl.DataFrame:
        """Return what was kept as a table, a row a map, direction and number of neighbours."""
        rows = [(*key, found.mean, *shares(found)) for key, found in self.kept.items()]
        return pl.DataFrame(rows, ["by", "mapped", "k", "kept", "low", "high"], orient="row")

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


def _listed(found: Mapping[str, Estimate]) -> str:
    return "  ".join(f"{name}: {percent(one)}" for name, one in [*found.items()][:_SHOWN])


def bridge(old: Rows | Path, new: Rows | Path, **settings: Unpack[BridgeSettings]) -> Bridge:
    """Map the rows of an old encoder to those of a new one, and measure what a search keeps.

    Parameters
    ----------
    old, new : view, Path or Rows of shape (n, p), (n, q)
        Views and files (`featstore.interop.view_of`) are joined by the ids of their items;
        of arrays, row i of both is one item.
    **settings
        Fields of `bench.options.BridgeConfig`.

    Raises
    ------
    MisalignedItemsError
        If the two share no ids, have an id twice, or arrays are of different lengths.
    ProtocolError
        If they share fewer than `bench.spaces.ENOUGH` items.
    ZeroRowError
        If a row is not finite, or zero.
    UnknownColumnError
        If the items have no column of the groups or labels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> old = rng.standard_normal((200, 8))
    >>> found = bridge(old, old @ rng.standard_normal((8, 12)), seeds=range(5))
    >>> found.relation.verdict, round(found.own.mean, 2)
    ('same up to', 1.0)
    """
    (own,) = take_options(settings, BridgeConfig, of="bridge")
    config = BridgeConfig(**own)
    x, y, items, views = _joined(old, new, config)
    rng = np.random.default_rng([len(x), min(config.seeds)])
    relation = relate(x, y, rng)
    follows = np.setdiff1d(np.arange(len(x)), relation.strangers)  # strangers are no pairs
    x, y, items = x[follows], y[follows], items[follows]
    kinds = _kinds(config, len(x), x.shape[1], y.shape[1])
    drawn = [_drawn(x, y, items["label"], kinds, config, seed) for seed in config.seeds]
    asked = pl.concat([one.with_columns(draw=draw) for draw, (_, one) in enumerate(drawn)])
    n_pairs, n = int(asked["pairs"].max()), len(x)  # type: ignore[arg-type]
    curve = asked.filter(by="the map", mapped="old items")
    whole = asked.filter(pairs=n_pairs)
    maps = whole.filter(pl.col("mapped") != "")
    own_rows = curve.filter(pairs=n_pairs)
    groups = own_rows.with_columns(items["group"].gather(own_rows["item"]))
    enough = groups.drop_nulls("group").filter(pl.len().over("group") >= _OF_GROUP)
    labelled = whole.filter(pl.col("mapped") != "old queries").drop_nulls("right")
    setting = _chosen(x, y, kinds, rng)
    made = space_maps(x, y, setting.kind, rng)(setting).astype(np.float32)
    unit = bool(footprints(y)["unit"].all())  # then the new encoder normalises its rows
    result = Bridge(
        relation, n, n_pairs, min(n - n // 2, GALLERY),
        dict(Counter(kind for kind, _ in drawn).most_common()),
        {
            (by, mapped, k): found
            for k, what in ((1, "nearest"), (NEIGHBOURS, "ten"))
            for (by, mapped), found in _by(maps, what, n, "by", "mapped")
        },
        {pairs: found for (pairs,), found in reversed(_by(curve, "ten", n, "pairs"))},
        _predicted(curve),
        dict(sorted(((group, found) for (group,), found in _by(enough, "ten", n, "group")),
                    key=lambda pair: pair[1].mean)),
        {by: found for (by,), found in _by(labelled, "right", n, "by")}, config.gate,
        Adapter(made, unit, x[:GOLDEN].astype(np.float32)),
    )  # fmt: skip
    return replace(result, adapter=replace(result.adapter, facts=_facts(result, setting, views)))


def _joined(
    old: Rows | Path, new: Rows | Path, config: BridgeConfig
) -> tuple[Matrix, Matrix, pl.DataFrame, list[Any]]:
    """Return the rows of the items that both have, their groups and labels, and the views."""
    old, new = (view_of(Path(own)) if isinstance(own, str | Path) else own for own in (old, new))
    asked = {"group": config.group or config.label, "label": config.label}
    tables = [pl.DataFrame()]
    if isinstance(old, Selection) and isinstance(new, Selection):
        pairs = pair_views(old, new, by="item_id")
        ids = pairs.x.items["item_id"]
        if (twice := ids.filter(ids.is_duplicated())).len():
            raise MisalignedItemsError(
                f"{old.key} or {new.key} has rows with an id that another row has: "
                f"{listed(twice.unique(maintain_order=True))}. Choose one row an item."
            )
        rows, tables = pairs.numpy(), [pairs.x.items, pairs.y.items]
    else:
        rows = matrix(old, "old"), matrix(new, "new")
        if len(rows[0]) != len(rows[1]):
            raise MisalignedItemsError(
                f"Without ids, row i of both must be one item: old has {len(rows[0]):,} rows, new "
                f"{len(rows[1]):,}."
            )
    for name, side in zip(("old", "new"), rows, strict=True):
        row_norms(side, what=f"{name} rows of items in both")
        if (side == side[0]).all():
            raise ProtocolError(f"All {len(side):,} {name} rows are the same: nothing can be near.")
    known = {name: table[name] for table in reversed(tables) for name in table.columns}
    for column in asked.values():
        if column is not None and column not in known:
            where = "in the items of either side"
            raise UnknownColumnError(unknown_name("column", column, known, where=where))
    none = pl.Series([None] * len(rows[0]))
    found = {name: known.get(str(own), none).cast(pl.String) for name, own in asked.items()}
    return *rows, pl.DataFrame(found), [old, new]


def _kinds(config: BridgeConfig, n: int, p: int, q: int) -> list[Kind]:
    fitting = kinds_for(n // 2, p, q)
    wrong = [kind for kind in config.methods if kind not in fitting]
    if wrong:
        raise ProtocolError(
            f"{listed(wrong)} does not fit {n // 2:,} pairs of {p:,} and {q:,} columns. These do: "
            f"{', '.join(fitting)}."
        )
    return [kind for kind in fitting if kind in (config.methods or fitting)]


def _drawn(
    x: Matrix, y: Matrix, labels: pl.Series, kinds: Sequence[Kind], config: BridgeConfig, seed: int
) -> tuple[Kind, pl.DataFrame]:
    """Draw pairs and items, choose a map on the pairs, and ask what it and others keep.

    Returns
    -------
    kind : str
        Of the map.
    asked : DataFrame
        A row a query of a map: ``by``, ``mapped``, ``pairs``, ``item``; the shares ``nearest`` and
        ``ten`` of its neighbours that are found; and ``right``, whether the nearest has its label.
        Of both encoders alone, where there are labels, ``mapped`` is empty.
    """
    rng = np.random.default_rng([seed, 7])
    order, half = rng.permutation(len(x)), len(x) // 2
    pairs, held = order[: min(half, config.n_pairs or half)], order[half:][:GALLERY]
    old, new, own = x[held], y[held], labels[held]
    search = Search(new, QUERIES)
    setting = _chosen(x[pairs], y[pairs], kinds, rng)
    sizes = [len(pairs) >> step for step in range(_STEPS)]
    maps = [
        ("the map", n, space_maps(x[pairs[:n]], y[pairs[:n]], setting.kind, rng)(setting))
        for n in sizes if n >= FEWEST_PAIRS or n == len(pairs)
    ]  # fmt: skip
    shuffled = space_maps(x[pairs], y[rng.permutation(pairs)], setting.kind, rng)(setting)
    p, q = x.shape[1], y.shape[1]
    turned = np.linalg.qr(rng.standard_normal((max(p, q), max(p, q))))[0][:p, :q]
    ignorant = [shuffled, SpaceMap(np.zeros(q), turned)]
    ignorant += [SpaceMap(np.zeros(q), np.eye(p))] * (p == q)
    maps += [(by, len(pairs), made) for by, made in zip(CONTROLS, ignorant, strict=False)]
    lists = []
    for by, n, made in maps:
        mapped = made.apply(old)
        lists.append((by, "old items", n, new, mapped))
        if n == len(pairs):
            lists.append((by, "old queries", n, mapped, new))
    if own.null_count() < len(own):
        lists += [(f"{by} encoder", "", len(pairs), r, r) for by, r in (("new", new), ("old", old))]
    parts = []
    for by, direction, n, queries, gallery in lists:
        found, nearest, ten = search.kept(queries, gallery)
        asked = {"by": by, "mapped": direction, "pairs": n, "item": held[: len(found)]}
        right = (own.gather(found[:, 0]) == own.head(len(found))).cast(pl.Float64)
        parts.append(pl.DataFrame({**asked, "nearest": nearest, "ten": ten, "right": right}))
    return setting.kind, pl.concat(parts)


class Search:
    """Queries among the items of a gallery: query i is item i.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        By which the nearest are counted.
    most : int
        The first so many items are queries.
    """

    def __init__(self, rows: Matrix, most: int) -> None:
        self.n_queries, self._k = min(most, len(rows)), min(NEIGHBOURS, len(rows) - 1)
        self._truth = nearest_rows(rows, self._k, queries=rows[: self.n_queries])

    def kept(
        self, queries: Matrix, gallery: Matrix
    ) -> tuple[npt.NDArray[np.int64], Matrix, Matrix]:
        """Return the ten nearest, and the shares of the nearest and of the ten that are found."""
        found = nearest_rows(gallery, self._k, queries=queries[: self.n_queries])
        same = (found[:, 0] == self._truth[:, 0]).astype(np.float64)
        return found, same, shared_rows(found, self._truth) / self._k


def _chosen(x: Matrix, y: Matrix, kinds: Sequence[Kind], rng: np.random.Generator) -> Setting:
    """Choose a map on pairs alone, by what it keeps of held-out ones.

    Another kind is taken than the first only where its paired gain is above its standard error: of
    few pairs, noise would choose the map with most freedom.
    """
    order = rng.permutation(len(x))
    n_held = min(_HELD, max(len(x) // 5, min(NEIGHBOURS + 2, len(x) // 2)))
    held, fitted = order[:n_held], order[n_held:]
    search = Search(y[held], _ASKED)
    tried = {}
    for kind in kinds:
        make = space_maps(x[fitted], y[fitted], kind, rng)
        mapped = ((one, make(one).apply(x[held])) for one in settings_of(kind))
        kept = [(one, search.kept(y[held], own)[2]) for one, own in mapped]
        tried[kind] = max(kept, key=lambda pair: float(pair[1].mean()))

    def gain(kind: Kind) -> float:
        more = tried[kind][1] - tried[kinds[0]][1]
        surely = more.mean() > more.std(ddof=1) / np.sqrt(len(more))
        return float(more.mean()) if surely else 0.0

    return tried[max(kinds, key=gain)][0]


def _by(asked: pl.DataFrame, what: str, n: int, *names: str) -> list[tuple[Any, Estimate]]:
    """Return the mean over draws and items by the values of columns, in their order.

    The interval is for other draws and other items; draws are of one pool.
    """
    found = []
    for key, part in asked.group_by(*names, maintain_order=True):
        sums = DrawSums.of(*(part[name].to_numpy() for name in (what, "draw", "item")))
        found.append((key, two_term(sums, overlap=part["pairs"][0] / n)))
    return found


def _predicted(curve: pl.DataFrame) -> dict[int, tuple[float, float]]:
    """Return what more pairs would keep, by the power law of every draw: the least and the most."""
    means = curve.group_by("draw", "pairs", maintain_order=True).agg(pl.mean("ten"))
    if means["pairs"].n_unique() < 4:
        return {}
    draws = means.group_by("draw", maintain_order=True)
    laws = [power_law(dict(part.select("pairs", "ten").iter_rows())) for _, part in draws]
    steps = [int(means["pairs"].max()) * times for times in _AHEAD]  # type: ignore[arg-type]
    return {n: (min(law(n) for law in laws), max(law(n) for law in laws)) for n in steps}


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

    def law(at: Matrix, pairs: Any) -> Any:
        return at[0] - at[1] * (pairs / n.min()) ** -at[2]

    start = np.clip([share.max(), np.ptp(share), 0.5], 0.01, 0.99)
    bounds = ([0.0, 0.0, 0.05], [1.0, 1.0, 2.0])
    best = least_squares(
        lambda at: law(at, n) - share, start, bounds=bounds, ftol=1e-15, gtol=1e-15
    ).x
    return lambda pairs: float(np.clip(law(best, pairs), 0.0, 1.0))


def side(view: Any, columns: int) -> dict[str, Any]:
    """Return what an adapter says of one of the sets that it is of: whose licences are its own."""
    own = isinstance(view, Selection)
    return {
        "space_id": view.space_id if own else "", "encoder": view.encoder if own else "",
        "dataset": view.key.rpartition("/")[0].partition("/")[0] if own else "",  # of files none
        "columns": columns,
    }  # fmt: skip


def _facts(result: Bridge, setting: Setting, views: Sequence[Any]) -> dict[str, Any]:
    """Return the evidence that an adapter carries."""
    kept = result.frame().with_columns(pl.col(pl.Float64).round(6)).to_dicts()
    told = {name: percent(one) for name, one in result.accuracy.items()}
    return {
        **{name: side(view, n) for name, view, n in
           zip(("old", "new"), views, result.adapter.widths, strict=True)},
        "spaces": result.relation.verdict,
        "pairs": result.n_items,
        "map": {"kind": setting.kind, "penalty": setting.penalty, "matched": setting.matched},
        "measured": {"pairs": result.n_pairs, "gallery": result.gallery},
        "kept": kept,
        "accuracy": told,
        "worst_group": next(
            ({"group": group, "kept": percent(one)} for group, one in result.groups.items()), None
        ),
        "gate": None if result.gate is None else {"at": result.gate, "holds": result.passes},
    }  # fmt: skip
