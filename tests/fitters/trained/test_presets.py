"""The presets through the recipe, a store, files and the command line; and on which device.

Every preset is trained on a fake card in tests/gpu/test_on_fake_cards.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from bench.runs import LEAVES
from fitters import METHODS, PRESETS, fit, load, preset
from fitters.errors import SettingError
from fitters.settings import FitRequest, TrainingOptions
from fitters.sources import normalize_rows
from fitters.trained import base
from fitters.trained.base import gains_from_bf16, resolve, training_device
from tests.assertions import assert_same
from tests.fitters.toy_store import HEAD, NAMES, X, Y
from tests.shorthand import save_alignment
from tests.typed import headstock

ROOT = Path(__file__).parents[3]
FEW = TrainingOptions(epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Spaces of 512 and 1,024 columns, autoencoders of 2,048: too many for so few rows."""
    for name, chosen in PRESETS.items():
        own = {"width": 48} if name == "icis" else {}
        if "n_components" in chosen.settings:
            own["n_components"] = 48
        monkeypatch.setitem(PRESETS, name, replace(chosen, settings=chosen.settings | own))


def test_every_preset_has_its_row_with_its_optimiser_epochs_and_batch():
    text = (ROOT / "docs/ref/methods.md").read_text("utf-8").partition("| preset |")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == [*PRESETS]
    for above, row in zip([rows[0], *rows], rows, strict=False):
        cells = [old if new == "the same" else new for old, new in zip(above, row, strict=True)]
        name, (_, _, _, optimiser, steps, source) = row[0].strip("`"), cells
        made = preset(name, n_prototypes=1000)
        assert optimiser.split()[0].lower() == made.optimizer
        assert float(optimiser.split()[1].strip(",")) == made.learning_rate
        assert (f"{made.epochs:,}" in steps, f"; {made.batch_size:,}" in steps) == (True, True)
        assert PRESETS[name].source.split(",")[0] in source.replace("the same", rows[0][-1])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_method(name, make_world, tmp_path):
    head, real = make_world(p=8, q=6, n_classes=30, n_images=20)
    alignment = fit(name, prototypes=head, real=real, training=FEW, rng=np.random.default_rng(0))
    facts = alignment.facts
    assert (facts["n_prototypes"], facts["n_real"]) == (30, 20)
    assert len(facts["training"]["loss"]) == facts["training"]["epochs"] == 2
    again = load(save_alignment(tmp_path / "a", alignment))
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


def test_the_command_trains(store_path, tmp_path, capsys):
    out = tmp_path / "deep" / "made"
    given = ("--store", store_path, "--images", X, "--head", HEAD, "--head-names", NAMES, "-o", out)
    both = ("-s", "epochs=3", "-s", "batch_size=8", "--captions", Y, "-s", "sequential=yes",
            "-s", "patience=2", "-s", "centre=yes", "--json")  # fmt: skip
    assert headstock("fit", "paper-mlp", *given, *both) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["choice"]["sequential"] is True
    assert len(facts["training"]["metric"]) == facts["training"]["epochs"]
    for method, word, said in [
        ("paper-mlp", "sequential=yes", "-s sequential has no effect without --captions"),
        ("ridge", "epochs=3", "These have it: paper-mlp, "),
    ]:
        assert headstock("fit", method, *given, "-s", word) == 2
        assert said in capsys.readouterr().err


def test_which_device(monkeypatch):
    assert training_device("cpu").type == "cpu"
    for best in ("cpu", "mps"):  # whose float64 the sums of a training lack
        monkeypatch.setattr(base, "best_device", lambda best=best: best)
        assert training_device("auto").type == "cpu"
    for wrong in ("meta", "gpu", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(SettingError, match=f"on the device '{wrong}' here. Use cpu"):
            training_device(wrong)
    assert resolve("auto", "cuda") == "bf16"
    assert resolve("auto") == ("bf16" if gains_from_bf16() else "float32")
    assert resolve("float32", "cuda") == "float32"


def test_a_device_is_no_setting():
    """Neither an id of a run nor what an alignment records knows it."""
    there = TrainingOptions(device="cuda")
    assert there.changes == TrainingOptions().changes
    assert FitRequest("sail", x="x", training=there).facts == FitRequest("sail", x="x").facts
    assert "device" not in {leaf.name for leaf in LEAVES}
    assert METHODS["sail"].takes("device")
    assert not METHODS["ridge"].takes("device")
