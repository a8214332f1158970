from collections import Counter

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from data_manifests.registry import BUILDERS
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm import TimmEncoder
from featstore.errors import EncoderError
from featstore.extraction import heads
from featstore.extraction.heads import LABEL_SETS, head_of, read_head
from featstore.identity import space_id


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_a_head_lives_in_the_space_of_its_encoder(name, tmp_path):
    model = timm.create_model(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    weights = tmp_path / "model.safetensors"
    head = read_head(f"timm:{name}", weights=weights, label_set="imagenet1k")
    encoder = open_encoder(f"timm:{name}", weights=tmp_path / "model.safetensors")
    assert space_id(head.space) == space_id(encoder.space)
    assert head.weight.shape == (1000, encoder.dim)
    layer = model.get_classifier()
    np.testing.assert_array_equal(head.weight, layer.weight.detach().numpy())
    np.testing.assert_array_equal(head.bias, layer.bias.detach().numpy())
    assert (head.label_set, head.facts["label_set_basis"]) == ("imagenet1k", "asked for")
    assert head.facts["weights"] == {"source": "file", "file": "model.safetensors"}


def encoder_of(name, **kwargs):
    return TimmEncoder(f"timm:{name}", timm.create_model(name, **kwargs))


def test_weights_that_do_not_say_their_classes_are_refused():
    encoder = encoder_of("test_resnet", num_classes=19)
    with pytest.raises(EncoderError, match=r"Nothing says which 19 classes.*label_file="):
        head_of(encoder)
    assert head_of(encoder, label_set="mine").label_set == "mine"


def test_a_file_of_another_number_of_classes_makes_a_model_of_them(tmp_path):
    """Fine-tuned on classes of one's own; nothing else may differ."""
    for name in ("test_vit", "test_resnet"):
        path = tmp_path / f"{name}.safetensors"
        model = timm.create_model(name, num_classes=7)
        save_file(model.state_dict(), path)
        head = read_head(f"timm:{name}", weights=path, label_set="seven")
        assert head.weight.shape[0] == 7
        np.testing.assert_array_equal(head.bias, model.get_classifier().bias.detach().numpy())
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    for change in ({"fc.weight": state["fc.weight"][:, :-1].contiguous()},
                   {"bn1.weight": state["bn1.weight"][:-1].contiguous()}):  # fmt: skip
        save_file({**state, **change}, tmp_path / "other.safetensors")
        with pytest.raises(EncoderError, match="size mismatch"):
            read_head("timm:test_resnet", weights=tmp_path / "other.safetensors")


def test_a_tag_that_was_asked_for_names_the_label_set():
    head = head_of(encoder_of("vit_tiny_patch16_224.augreg_in21k", depth=1))
    assert head.weight.shape == (21843, 192)
    assert head.label_set == "imagenet21k_goog"
    assert head.facts["label_set_basis"] == "tag of the checkpoint"
    # Another number of classes than the tag's: it says nothing of these rows.
    other = encoder_of("vit_tiny_patch16_224.augreg_in21k", depth=1, num_classes=1000)
    with pytest.raises(EncoderError, match="Nothing says which 1,000 classes"):
        head_of(other)


PROJECTIONS = {384, 512, 640, 768, 1024, 1152, 1280}


def test_every_head_that_timm_lists_has_a_label_set_or_is_known_to_have_none():
    seen = Counter()
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if config.num_classes == 0:
            continue
        known = heads.label_set_of_tag(config.tag, config.num_classes)
        seen[known] += 1
        if known is None and config.num_classes not in PROJECTIONS:
            assert config.tag in heads.NO_LABEL_SET, name
        if config.num_classes in PROJECTIONS:
            # Image-text models: a projection, no classes, and no count of a label set.
            assert known is None
            assert config.num_classes not in LABEL_SETS.values()
    assert seen["imagenet1k"] > 1000
    for name in ("imagenet12k", "imagenet21k_goog", "imagenet22k"):
        assert seen[name] >= 20
    for name in ("imagenet21k_miil", "imagenet22k_ms"):
        assert seen[name] >= 5


def test_the_table_agrees_with_timms_own_lists():
    from timm.data import ImageNetInfo

    for subset in ("1k", "12k", "22k", "22k-ms", "21k-goog", "21k-miil"):
        count = ImageNetInfo(f"imagenet-{subset}").num_classes()
        assert LABEL_SETS[f"imagenet{subset}".replace("-", "_")] == count
    assert len(set(LABEL_SETS.values())) == len(LABEL_SETS) == 8
    for name, builder in BUILDERS.items():
        if name.startswith("imagenet"):
            assert builder.facts["expected"]["classes"] == LABEL_SETS[name]


def test_a_head_whose_rows_do_not_make_the_logits_is_not_read(tmp_path, monkeypatch):
    """Golden pictures are enough to see it; no data set is needed."""
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors")
    wrong = type(timm.create_model("test_resnet")).forward
    monkeypatch.setattr("timm.models.resnet.ResNet.forward", lambda self, x: wrong(self, x) * 2)
    with pytest.raises(EncoderError, match=r"differs from the model's logits by 0\.5 of"):
        read_head("timm:test_resnet", weights=tmp_path / "model.safetensors", label_set="x")
