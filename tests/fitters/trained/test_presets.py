"""The presets through the recipe, a store, files and the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from featstore.command_line import run_command
from fitters import METHODS, PRESETS, fit, load, preset
from fitters.errors import SettingError
from fitters.settings import TrainingOptions
from fitters.sources import normalize_rows
from headstock.__main__ import cli
from tests.assertions import assert_same
from tests.fitters.toy_store import HEAD, NAMES, X, Y
from tests.shorthand import save_alignment

FEW = TrainingOptions(epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Spaces of 512 and 1,024 columns, autoencoders of 2,048: too many for so few rows."""
    for name, chosen in PRESETS.items():
        own = {"width": 48} if name == "icis" else {}
        if "n_components" in chosen.settings:
            own["n_components"] = 48
        monkeypatch.setitem(PRESETS, name, replace(chosen, settings=chosen.settings | own))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_one_line_and_a_method(name, make_world, tmp_path):
    head, real = make_world(p=8, q=6, n_classes=30, n_images=20)
    assert METHODS[name].text == PRESETS[name].text
    assert PRESETS[name].differs
    alignment = fit(name, prototypes=head, real=real, training=FEW, rng=np.random.default_rng(0))
    facts = alignment.facts
    assert (facts["n_prototypes"], facts["n_real"]) == (30, 20)
    assert len(facts["training"]["loss"]) == facts["training"]["epochs"] == 2
    path = save_alignment(tmp_path / "a", alignment)
    again = load(path)
    assert_same(alignment.project_x(real.x), again.project_x(real.x))
    assert_same(alignment.project_y(real.y), again.project_y(real.y))
    assert again.facts == alignment.facts
    assert again.aligner.get_params() == alignment.aligner.get_params()


def test_the_papers_rows_are_unit_and_uncentred_unless_asked(make_world):
    head, real = make_world(p=8, q=6)
    both = {"prototypes": head, "real": real, "training": FEW}
    one = fit("paper-mlp", **both, rng=np.random.default_rng(0))
    assert (one.x.mean, one.y.mean) == (None, None)
    assert one.facts["image_centre"] == "none"
    by_hand = clone(one.aligner)
    x, y = (
        np.concatenate([normalize_rows(getattr(pairs, side)) for pairs in (head, real)])
        for side in "xy"
    )
    by_hand.fit(x, y)
    assert_same(by_hand.y_up_weight_, one.aligner.y_up_weight_)
    centred = fit("paper-mlp", **both, centre=True, rng=np.random.default_rng(0))
    assert centred.facts["image_centre"] == "real images"
    assert centred.y.mean is not None


def test_icis_reads_the_bias_of_the_head(make_world, rng):
    head, real = make_world(p=8, q=6)
    bias = rng.standard_normal(head.n)
    alignment = fit("icis", prototypes=head, bias=bias, training=FEW, rng=rng)
    assert alignment.x.homogeneous
    assert alignment.aligner.n_features_in_ == 9
    assert alignment.project_x(real.x).shape == alignment.project_y(real.y).shape == (real.n, 9)
    plain = fit("icis", prototypes=head, training=FEW, rng=rng)
    assert plain.aligner.n_features_in_ == 8


def test_epochs_of_the_paper_go_by_the_head():
    assert preset("paper-mlp", n_prototypes=1000).epochs == 2500
    assert preset("paper-mlp", n_prototypes=21_841).epochs == 500
    # The first of two stages is of 500 epochs for any head, as in the authors' code.
    assert preset("paper-mlp", n_prototypes=1000, sequential=True).first_epochs == 500
    assert preset("paper-mlp", epochs=2500).first_epochs == 500
    assert preset("paper-mlp", epochs=6).first_epochs == 6


def test_two_stages_need_two_sources_and_a_training_an_epoch(make_world):
    head, _ = make_world(p=8, q=6)
    options = TrainingOptions(sequential=True)
    with pytest.raises(SettingError, match="Give both"):
        fit("sail", prototypes=head, training=options, rng=np.random.default_rng(0))
    with pytest.raises(SettingError, match=r"'epochs' of a training must be at least 1 .*; got -1"):
        TrainingOptions(epochs=-1)


def _fit(store, out, *more, method="paper-mlp"):
    words = ["fit", method, "--store", store, "--images", X, "--head", HEAD, "--head-names", NAMES,
             "-o", out]  # fmt: skip
    return run_command(cli, "headstock", [str(word) for word in (*words, *more)])


def test_the_command_trains(store_path, tmp_path, capsys):
    few = ("-s", "epochs=3", "-s", "batch_size=8")
    assert _fit(store_path, tmp_path / "whole", *few) == 0
    assert "paper-mlp, fitted on 30 prototypes" in capsys.readouterr().out
    both = (*few, "--captions", Y, "-s", "sequential=yes", "-s", "patience=2", "-s", "centre=yes",
            "--json")  # fmt: skip
    assert _fit(store_path, tmp_path / "deep" / "both", *both) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["choice"]["sequential"] is True
    assert len(facts["training"]["metric"]) == facts["training"]["epochs"]

    for method, word, said in [
        ("paper-mlp", "sequential=yes", "-s sequential has no effect without --captions"),
        ("ridge", "epochs=3", "ridge has no setting 'epochs'. These have: paper-mlp, "),
    ]:
        assert _fit(store_path, tmp_path / "no", "-s", word, method=method) == 2
        assert said in capsys.readouterr().err
