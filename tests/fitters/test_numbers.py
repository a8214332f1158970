"""Every setting: its words, its row in the document; a number is refused by name, or of use."""

from __future__ import annotations

import math
import pkgutil
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy.sparse import issparse

import fitters
from fitters import METHODS, fit, moments, prototypes, scorers, settings
from fitters.alignment import select
from fitters.errors import FittersError, SettingError
from fitters.moments import accumulate_part
from fitters.select import noise
from fitters.settings import FitConfig, FitRequest, TrainingOptions
from tests.fitters.toy_store import X

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.has is not None])
def test_the_settings_that_are_stated_are_those_that_the_class_takes(name):
    of_the_class = replace(METHODS[name], has=None).settings
    assert sorted(METHODS[name].has) == sorted(option.name for option in of_the_class.values())
    assert [*METHODS[name].settings] == [*of_the_class]


@pytest.mark.parametrize("cls", [FitConfig, FitRequest, TrainingOptions])
def test_a_wrong_number_by_keyword_is_refused(cls):
    needed = {} if cls is TrainingOptions else {"method": "ridge"}
    needed |= {"x": X} if cls is FitRequest else {}
    bounded = {
        field.name: field.metadata["option"]
        for field in fields(cls)
        if field.metadata.get("option", {}).get("below") is not None
    }
    wrong: list[Any] = [math.nan, math.inf, -math.inf, -1, 1e300, 10**300, [], list(range(10**6)),
                        True, "one"]  # fmt: skip
    for name, about in bounded.items():
        for value in [*wrong, about["below"]]:
            with pytest.raises(SettingError, match=rf"'{name}' of a \w+ must be .*; got ") as said:
                cls(**needed, **{name: value})
            assert len(str(said.value)) < 200
    assert bounded


def finite(rows: Any) -> bool:
    return bool(np.isfinite(rows.data if issparse(rows) else rows).all())


EXTREME = {
    "penalty": [0.0, 1e-300, 9e11], "mix": [1e-300, 9e11], "gamma": [1e-300, 999.0],
    "n_components": [1, 10**11], "rank": [1, 10**11], "top_k": [1, 10**11],
    "power": [1e-300, 999.0],
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREME)
def test_a_number_that_is_allowed_gives_finite_rows_or_is_named(name, make_world):
    head, real = make_world(n_classes=20, n_images=16, p=7, q=5)
    fitted, said = 0, []
    for method, spec in METHODS.items():
        if name not in spec.options or spec.fitted_on == "training":
            continue
        given = {"prototypes": head, "real": None if method == "conse" else real}
        for value in EXTREME[name]:
            try:
                made = fit(method, **given, rng=np.random.default_rng(0), **{name: value})
                rows = made.project_x(real.x), made.project_y(real.y)
            except FittersError as err:
                said.append(str(err))
                continue
            assert all(map(finite, rows)), (method, value)
            fitted += 1
    assert fitted
    assert all(name in message or "penalty" in message for message in said), said


def test_a_kernel_that_is_too_narrow_is_blamed_itself(make_world):
    head, real = make_world()
    made = fit("kernel-ridge", prototypes=head, gamma=999.0, rng=np.random.default_rng(0))
    with pytest.raises(FittersError, match=r"gamma 999 is 0 between \d+ rows .* smaller gamma"):
        made.project_y(real.y)


def test_no_public_name_is_that_of_a_module():
    """Importing the module would put it in the place of the name."""
    modules = {module.name for module in pkgutil.iter_modules(fitters.__path__)}
    assert modules.isdisjoint(fitters.__all__)


def test_each_word_of_a_setting_is_in_its_table_and_does_what_no_other_does(make_world):
    head, _ = make_world(n_classes=30, n_images=4, p=6, q=4)
    how = {"n_folds": 1, "shifts": (np.zeros(6), np.zeros(4))}

    def choice(word, _):
        rng = np.random.default_rng(7)
        return np.array(select("kernel-ridge", real=head, validation=word, rng=rng).facts["scores"])

    def control(_, draw, **options):
        return draw(head, np.random.default_rng(7), **options).x

    def scores(_, scorer):
        images, texts = scorer(head.x[:, :4], head.y)
        return images @ texts.T

    def sums(word, _):
        batches = [(head.x, head.y, head.row_weight)]
        (part,) = accumulate_part(batches, np.zeros(head.n, int), **how, precision=word)
        return part.sxx

    uses = [
        (settings.Validation, noise.VALIDATIONS, choice),
        (settings.Control, prototypes.CONTROLS, control),
        (settings.PairControl, prototypes.PAIR_CONTROLS, partial(control, n=40)),
        (settings.Scorer, scorers.SCORERS, scores),
        (settings.MomentsPrecision, moments.PRECISIONS, sums),
    ]
    for words, table, use in uses:
        assert tuple(table) == get_args(words)
        assert len({use(*item).tobytes() for item in table.items()}) == len(table), words


def test_every_method_has_its_row_with_what_is_chosen():
    text = (ROOT / "docs/ref/methods.md").read_text("utf-8").partition("## Trained by")[0]
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    # The trained ones have a document of their own, and tests/fitters/trained/test_presets.py.
    closed = {name: spec for name, spec in METHODS.items() if spec.fitted_on != "training"}
    assert set(rows) == set(closed)
    spelled = {"n_components": "components"}
    for name, method in closed.items():
        cell = rows[name].rsplit("|", 2)[1]
        for option in method.options:
            assert spelled.get(option, option) in cell, (name, option)
        chosen = {"penalty", "mix", "gamma", "n_components"} & set(method.options)
        found = set(re.findall(r"\*\*(\w+)\*\*", cell))
        assert found == {spelled.get(option, option) for option in chosen}, name


def test_documents_say_what_a_method_reads():
    """Its rows, or a head; all others need moments, or are trained."""
    text = (ROOT / "docs/ref/methods.md").read_text("utf-8").partition("All methods except")[2]
    read = {"rows": set(), "head": set()}
    for name, method in METHODS.items():
        if method.fitted_on in read:
            read[method.fitted_on].add(name)
    said = re.findall("`(.+?)`", text.partition("need only")[0])
    assert set(said) == read["rows"] | read["head"]
    flow = (ROOT / "docs/architecture.md").read_text("utf-8").lower()
    for sort, road in (("rows", "rows: (.+)"), ("head", "a head and .+: (.+)")):
        titles = re.search(f"─► {road}", flow)[1].split(", ")
        assert {title.replace(" ", "-") for title in titles} == read[sort]
