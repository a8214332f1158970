"""Every number that a command, a file or a keyword takes: refused by name, or of use."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import issparse

from fitters import METHODS, fit
from fitters.errors import FittersError, SettingError
from fitters.settings import FitConfig, FitRequest, TrainingOptions
from tests.fitters.toy_store import X


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.has is not None])
def test_the_settings_that_are_stated_are_those_that_the_class_takes(name):
    assert {*replace(METHODS[name], has=None).settings} == {*METHODS[name].settings}


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
