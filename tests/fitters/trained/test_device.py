"""Devices: which one trains, and prompts on another, the meta device, which computes shapes alone.

Every preset is trained on a fake card in tests/gpu/test_on_fake_cards.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.runs import LEAVES
from fitters.errors import SettingError
from fitters.few_shot.prompt_learning import PromptClassifier, make_prompts, meta_net, word_vectors
from fitters.methods import METHODS
from fitters.settings import FitRequest, TrainingOptions
from fitters.trained import base
from fitters.trained.base import gains_from_bf16, resolve, training_device
from tests.featstore.encoders.open_clip_models import known_to_open_clip
from tests.fitters.few_shot.tiny_tower import tiny_tower

META = torch.device("meta")


@pytest.mark.parametrize("per_image", [False, True])
def test_prompts_stay_on_their_device(per_image, tmp_path):
    with known_to_open_clip(tmp_path):
        tower = tiny_tower()
    made = make_prompts(tower, ["dog", "tabby cat"], 3, "end")
    words = word_vectors(tower, "a photo of")
    net = meta_net(tower.dim, tower.width, np.random.default_rng(0)) if per_image else None
    with torch.no_grad():
        tower.to(META)
        net = net and net.to(META)
        images = torch.ones(4, tower.dim, device=META)
        logits = PromptClassifier(tower, made.to(META), words.to(META), net).logits(images)
    assert (logits.device.type, tuple(logits.shape)) == ("meta", (4, 2))


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
