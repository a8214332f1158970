"""Training: it learns, repeats itself to the byte, goes on where it was, and stops in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fitters import MLPAligner, Pairs, RidgeAligner
from fitters.errors import DivergedError, SelectionError, SettingError
from fitters.saved import fitted_arrays
from fitters.settings import EpochDone
from fitters.trained.training import Batch, Generators, Objective, train
from tests.assertions import assert_close, assert_same
from tests.shorthand import score_pairs


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def pairs(rng):
    y = rng.standard_normal((32, 6))
    return rng.standard_normal((32, 10)), y


def planted(rng, n=200, p=8, q=6, noise=0.0):
    y = rng.standard_normal((n, q))
    plant = rng.standard_normal((q, p))
    return y @ plant + noise * rng.standard_normal((n, p)), y, plant


def assert_same_arrays(one, two):
    assert fitted_arrays(one).keys() == fitted_arrays(two).keys()
    for name, array in fitted_arrays(one).items():
        assert_same(getattr(two, name), array)


@pytest.mark.parametrize("direction", ["y->x", "x->y"])
def test_the_linear_head_on_squared_errors_is_ridge(direction, rng):
    """Adam's L2 term wd is ridge's alpha = n d wd / 2: the loss is a mean over n and d."""
    x, y, _ = planted(rng, n=60, noise=0.5)
    n, d = len(x), x.shape[1] if direction == "y->x" else y.shape[1]
    decay = 0.02
    trained = MLPAligner(
        "linear", direction, bias=False, loss="mse", weight_decay=decay, learning_rate=0.05,
        epochs=1000, batch_size=60, precision="float32",
    ).fit(x, y)  # fmt: skip
    alpha = n * d * decay / 2
    ridge = RidgeAligner(direction, alpha=alpha, relative=False, center=False).fit(x, y)
    assert_close(
        getattr(trained, f"{('y' if direction == 'y->x' else 'x')}_project_weight_").T,
        ridge.coef_,
        "float32",
        times=10,
    )  # float32 steps near the minimum
    assert_close(trained.project_y(y), ridge.project_y(y), "float32", times=10)


SMALL = {"epochs": 4, "batch_size": 8, "width": 16, "feature_dropout": 0.3}


def test_same_seed_same_bytes_and_torchs_global_state_untouched(pairs, torch_threads):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = MLPAligner(**SMALL).fit(*pairs)
    torch.rand(5)  # what others draw in between plays no part
    torch.set_rng_state(torch_state)
    two = MLPAligner(**SMALL).fit(*pairs)
    other = MLPAligner(**SMALL, seed=1).fit(*pairs)
    assert_same_arrays(one, two)
    assert one.history_ == two.history_
    assert not np.array_equal(one.y_up_weight_, other.y_up_weight_)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.get_num_threads() == torch_threads


def test_early_stopping_keeps_the_best_epoch(rng):
    x, y, _ = planted(rng, n=120, noise=2.0)
    settings = {"architecture": "paper", "width": 64, "dropout": 0.0, "learning_rate": 0.02,
                "batch_size": 32, "validation_fraction": 0.25}  # fmt: skip
    told: list[EpochDone] = []
    stopped = MLPAligner(**settings, epochs=60, patience=4, schedule="constant")
    stopped.fit(x, y, on_epoch=told.append)
    best = int(np.argmax([done.metric for done in told]))
    assert len(told) == best + 5 < 60
    # Until then nothing depends on what comes after: the same training, ended there.
    ended = MLPAligner(**settings, epochs=best + 1, patience=4, schedule="constant").fit(x, y)
    assert_same_arrays(stopped, ended)


def test_held_out_groups_are_whole_and_not_trained_on(rng):
    x, y, _ = planted(rng, n=40)
    groups = np.arange(40) // 2
    x[::2], y[::2] = x[1::2], y[1::2]
    told = []
    MLPAligner(
        "linear", learning_rate=0.05, epochs=60, batch_size=8, patience=60, validation_fraction=0.3
    ).fit_rows(None, Pairs(x, y, groups), on_epoch=told.append)
    assert told[-1].metric == 1.0  # both rows of a group are right, wherever they rank
    with pytest.raises(SelectionError, match="cannot be held out"):
        MLPAligner(epochs=1, patience=1).fit(x[:3], y[:3])


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"direction": "both"}, SettingError, "everything to one point"),
        ({"loss": "infonce", "temperature": 2.0}, SettingError, "outside its range"),
        ({"epochs": -1}, ValueError, "The 'epochs' parameter of MLPAligner must be"),
        ({"loss": "mse", "learning_rate": 1e30, "epochs": 3}, DivergedError,
         r"smaller learning rate than 1e\+30"),
        # No loss follows the only step.
        ({"architecture": "linear", "loss": "mse", "learning_rate": 1e39, "epochs": 1},
         DivergedError, r"after epoch 1, of loss .*, a parameter is not"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_told(settings, error, match, pairs):
    with pytest.raises(error, match=match):
        MLPAligner(**settings).fit(*pairs)


def test_two_stages_end_on_the_real_pairs(rng):
    x, y, _ = planted(rng, n=80)
    first = np.arange(80) < 40
    wrong = np.where(first[:, None], -x, x)
    common = {"architecture": "linear", "loss": "cosine", "learning_rate": 0.05, "epochs": 60,
              "batch_size": 20}  # fmt: skip
    rows, told = Pairs(wrong, y), list[EpochDone]()
    both = [rows.take(np.flatnonzero(chosen)) for chosen in (first, ~first)]
    mixed = MLPAligner(**common).fit_rows(*both)
    staged = MLPAligner(**common, sequential=True, first_epochs=2)
    staged.fit_rows(*both, on_epoch=told.append)
    assert [done.stage for done in told] == [1] * 2 + [2] * 60
    best, worse = (score_pairs(fit, x[~first], y[~first]).mean() for fit in (staged, mixed))
    assert best > 0.7
    assert worse < best


def test_the_temperature_is_learned_within_its_range(pairs):
    common = {"direction": "both", "n_components": 8, "learning_rate": 0.05, "width": 16,
              "epochs": 30, "batch_size": 32}  # fmt: skip
    assert abs(MLPAligner(**common, loss="infonce").fit(*pairs).scale_ - 1 / 0.07) > 1
    narrow = {"temperature": 0.1, "temperature_low": 0.1, "temperature_high": 0.105}
    held = MLPAligner(**common, **narrow, loss="infonce").fit(*pairs)
    assert 1 / 0.105 - 1e-4 < held.scale_ < 10 + 1e-4
    fixed = MLPAligner(**common, loss="infonce", learn_temperature=False).fit(*pairs)
    assert fixed.scale_ == pytest.approx(1 / 0.07)
    sig = MLPAligner(**common | {"epochs": 1, "learning_rate": 1e-9}, loss="siglip").fit(*pairs)
    assert sig.shift_ == pytest.approx(np.log(1 / 31), abs=1e-4)
    plain = MLPAligner(epochs=1, width=8).fit(*pairs)
    assert (plain.scale_, plain.shift_) == (1.0, 0.0)


def test_bf16_reaches_the_same_metric(rng):
    x, y, _ = planted(rng, n=160, noise=1.0)
    settings = {"width": 32, "epochs": 12, "batch_size": 32, "learning_rate": 0.01, "dropout": 0.0,
                "patience": 99, "validation_fraction": 0.3}  # fmt: skip

    def best(**more):
        told = []
        MLPAligner(**settings, **more).fit(x, y, on_epoch=told.append)
        return max(done.metric for done in told)

    spread = [best(precision="float32", seed=seed) for seed in range(3)]
    found = [best(precision="bf16", seed=seed) for seed in range(3)]
    assert abs(np.mean(found) - np.mean(spread)) < max(spread) - min(spread)


class Seen(Objective):
    """Notes the batches that it is given."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = torch.nn.Parameter(torch.ones(1)), []

    def outputs(self, batch):
        self.batches.append(batch)
        return (self.weight * batch.x,)

    def loss(self, batch, outputs, step):
        return outputs[0].mean()

    def project(self, side, rows):
        raise NotImplementedError


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(0, 40), st.integers(2, 17))
def test_an_epoch_has_every_row_once(n, m, size):
    rows = np.arange(n + m, dtype=np.float32)[:, None]
    sources = [
        Pairs(rows[part], -rows[part]) for part in (slice(n), slice(n, None)) if len(rows[part])
    ]
    objective, schedule = Seen(), MLPAligner(batch_size=size)
    train(objective, [(Batch.of(*sources), 2)], schedule, Generators.of(0))
    found = objective.batches
    assert len(found) == 2 * -(-(n + m) // size)
    for epoch in (found[: len(found) // 2], found[len(found) // 2 :]):
        assert [len(batch) for batch in epoch[:-1]] == [size] * (len(epoch) - 1)
        x = torch.cat([batch.x for batch in epoch])
        assert sorted(x[:, 0].tolist()) == list(range(n + m))
        assert torch.equal(x, -torch.cat([batch.y for batch in epoch]))
        assert torch.equal(x[:, 0].long(), torch.cat([batch.groups for batch in epoch]))


def test_groups_say_what_is_no_negative():
    one = Pairs(np.ones((3, 2)), np.ones((3, 1)), np.array([4, 5, 4]))
    two = Pairs(np.ones((2, 2)), np.ones((2, 1)), np.array([4, 5]))
    batch = Batch.of(one, two)
    equal = batch.groups[:, None] == batch.groups[None, :]
    assert torch.equal(batch.same, equal & ~torch.eye(5, dtype=torch.bool))
    assert int(batch.same.sum()) == 2
    assert Batch.of(two).same is None
