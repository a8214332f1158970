"""Every preset beside its source, written down anew in plain torch: shapes, losses, settings.

What is on the other side of a comparison follows the source's own code (of DeViSE, for which there
is none, its paper), with the weights of the preset's heads put in. Only differences that
`Preset.differs` lists are left out.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as fn

from fitters import PRESETS, preset
from fitters.trained.modules import initialise
from fitters.trained.training import Batch, _is_flat
from tests.assertions import assert_close

P, Q, B = 9, 5, 8


def objective_of(name, p=P, q=Q, **changes):
    """Return what a preset trains, its parameters set, in float64 and without dropout."""
    aligner = preset(name, **changes)
    objective = aligner._objective(aligner._parts(p, q))
    initialise(objective, torch.Generator().manual_seed(0))
    objective.after_step()
    return objective.double().eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(B, k, generator=generator, dtype=torch.float64) for k in (P, Q))
    return Batch(fn.normalize(x), fn.normalize(y), torch.arange(B))


def loss_of(objective, batch, step=0):
    return objective.loss(batch, objective.outputs(batch), step).detach()


def shapes_of(objective):
    return {name: tuple(tensor.shape) for name, tensor in objective.heads.state_dict().items()}


def linear(weights, name):
    """Return a layer with the weights of one of ours."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None).double()
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def norm(weights, name, x):
    return fn.layer_norm(x, x.shape[1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def test_paper_mlp(batch):
    objective = objective_of("paper-mlp")
    assert shapes_of(objective) == {
        "y.up.weight": (4 * P, Q),
        "y.up.bias": (4 * P,),
        "y.down.weight": (P, 4 * P),
        "y.down.bias": (P,),
        "y.norm.weight": (P,),
        "y.norm.bias": (P,),
    }
    w = objective.heads.state_dict()
    out = norm(w, "y.norm", linear(w, "y.down")(nn.GELU()(linear(w, "y.up")(batch.y))))
    expected = nn.CosineEmbeddingLoss()(out, batch.x, torch.ones(B, dtype=torch.float64))
    assert_close(loss_of(objective, batch), expected.detach())


def test_paper_text2concepts(batch):
    objective = objective_of("paper-text2concepts")
    assert shapes_of(objective) == {"y.project.weight": (P, Q)}
    out = linear(objective.heads.state_dict(), "y.project")(batch.y)
    assert_close(loss_of(objective, batch), nn.MSELoss()(out, batch.x).detach())


@pytest.mark.parametrize("times", [1, 1e5])
def test_sail(batch, times):
    """At times 1e5 both factors of the star are beyond the clamp."""
    objective = objective_of("sail", logit_bias=-10.0)
    w = objective.heads.state_dict()
    with torch.no_grad():
        for side, k in (("x", P), ("y", Q)):
            for name in ("gate", "value"):
                layer = w[f"{side}.{name}.weight"]
                assert tuple(layer.shape) == (8 * k, k)
                assert float(layer.abs().max()) <= math.sqrt(6 / (9 * k))  # Xavier
                assert not w[f"{side}.{name}.bias"].any()
                layer *= times
            assert tuple(w[f"{side}.project.weight"].shape) == (1024, 8 * k)

    def star(side, rows):
        z = norm(w, f"{side}.norm", rows)
        one = torch.clamp(linear(w, f"{side}.gate")(z), -1e3, 1e3)
        two = torch.clamp(linear(w, f"{side}.value")(z), -1e3, 1e3)
        assert (two.abs().max() == 1e3) == (times > 1)
        return linear(w, f"{side}.project")(nn.ReLU6()(one) * two)

    x, y = fn.normalize(star("x", batch.x)), fn.normalize(star("y", batch.y))
    logits = 20 * x @ y.T - 10
    labels = 2 * torch.eye(B, dtype=torch.float64) - torch.ones(B, B, dtype=torch.float64)
    # Its code takes the mean over all pairs, and here it is the sum over those of a row.
    expected = -B * torch.mean(fn.logsigmoid(labels * logits)).detach()
    # The scale is e to a float32 logarithm.
    assert_close(loss_of(objective, batch), expected, "float32")


def test_freeze_align(batch):
    objective = objective_of("freeze-align")
    w, d = objective.heads.state_dict(), 1024
    assert {n: s for n, s in shapes_of(objective).items() if n.endswith("weight")} == {
        "x.project.weight": (d, P),
        "x.up.weight": (d, P),
        "x.down.weight": (d, d),
        "y.project.weight": (d, Q),
        "y.mix.weight": (d, d),
        "y.norm.weight": (d,),
    }
    image = linear(w, "x.project")(batch.x)
    image = image + linear(w, "x.down")(nn.GELU()(linear(w, "x.up")(batch.x)))
    projected = linear(w, "y.project")(batch.y)
    text = norm(w, "y.norm", linear(w, "y.mix")(nn.GELU()(projected)) + projected)
    sims = fn.normalize(image) @ fn.normalize(text).T / 0.07
    targets = torch.eye(B, dtype=torch.float64)
    each = [-(fn.log_softmax(s, dim=1) * targets).sum(dim=1).mean() for s in (sims, sims.T)]
    assert_close(loss_of(objective, batch), (sum(each) / 2).detach(), "float32")


@pytest.mark.parametrize("step", [0, 1, 500, 3000])
def test_structure(batch, step):
    objective = objective_of("structure")
    w = objective.heads.state_dict()
    for side, k in (("x", P), ("y", Q)):
        assert shapes_of(objective)[f"{side}.project.weight"] == (512, k)
        assert shapes_of(objective)[f"{side}.down.weight"] == (64, k)
        assert shapes_of(objective)[f"{side}.up.weight"] == (512, 64)
        for name in ("project", "down"):
            weight = w[f"{side}.{name}.weight"]
            assert_close(weight.T @ weight, torch.eye(k), "float32", times=10)
        assert not w[f"{side}.up.weight"].any()
    assert not [name for name in w if name.endswith("bias")]
    before = (batch.x, batch.y)
    # The residual begins at 0.
    after = [linear(w, f"{side}.project")(rows) for side, rows in zip("xy", before, strict=True)]

    def structure(original, aligned):
        walks = []
        for rows in (original, aligned):
            unit = fn.normalize(rows, p=2, dim=-1)
            unit = unit - unit.mean(0, keepdim=True)
            walks.append(torch.matrix_power(fn.softmax(unit @ unit.T / 0.05, dim=-1), 1))
        m = (walks[0] + walks[1]) / 2
        # Its code swaps the arguments.
        return sum(fn.kl_div(m.log(), walk, reduction="batchmean") for walk in walks) / 2

    logits = fn.normalize(after[0]) @ fn.normalize(after[1]).T / 0.05
    own = torch.arange(B)
    clip = (fn.cross_entropy(logits, own) + fn.cross_entropy(logits.T, own)) / 2
    weight = 10 * min(1.0, step / 1000)
    both = sum(structure(b, a) for b, a in zip(before, after, strict=True)) / 2
    assert_close(loss_of(objective, batch, step), (clip + weight * both).detach(), "float32")


def test_devise(batch):
    objective = objective_of("devise")
    assert shapes_of(objective) == {"x.project.weight": (Q, P)}
    mapped = linear(objective.heads.state_dict(), "x.project")(batch.x).detach()
    losses = (0.1 - (mapped * batch.y).sum(dim=1)[:, None] + mapped @ batch.y.T).clamp(min=0)
    total = sum(losses[i, j] for i in range(B) for j in range(B) if i != j) / B
    assert_close(loss_of(objective, batch), total)


def test_icis(batch):
    objective = objective_of("icis")
    w = objective.heads.state_dict()
    assert shapes_of(objective) == {
        f"{side}.{name}": shape
        for side, k in (("x", P), ("y", Q))
        for name, shape in (
            ("encode.0.weight", (2048, k)), ("encode.0.bias", (2048,)),
            ("decode.0.weight", (k, 2048)), ("decode.0.bias", (k,)),
        )
    }  # fmt: skip
    assert 0.019 < float(w["x.encode.0.weight"].std()) < 0.021
    assert not any(w[name].any() for name in w if name.endswith("bias"))
    rows = batch.x

    def criterion(out, target):
        return (1 - nn.CosineSimilarity(dim=1, eps=1e-8)(out, target)).unsqueeze(-1)

    mask = torch.where(rows.abs().sum(dim=-1) > 0, 1.0, 0.0)[:, None]
    latent = {side: nn.ReLU()(linear(w, f"{side}.encode.0")(z))
              for side, z in (("x", rows), ("y", batch.y))}  # fmt: skip
    expected = criterion(linear(w, "y.decode.0")(latent["y"]), batch.y).mean()
    for into, out_of, target in (("y", "x", batch.y), ("x", "x", rows), ("x", "y", rows)):
        loss = criterion(linear(w, f"{into}.decode.0")(latent[out_of]), target)
        expected = expected + (loss * mask).sum(0).mean() / mask.sum().clamp(min=1)
    assert_close(loss_of(objective, batch), expected.detach())
    parts = preset("icis")._parts(1281, 384)
    size = sum(tensor.numel() for part in parts.values() for tensor in part.state_dict().values())
    assert size == 2 * (1281 + 384) * 2048 + 2 * 2048 + 1281 + 384 == 6_825_601


@given(
    st.lists(st.sampled_from([0.0, 0.00131415926, 0.0031271828, 0.0217161803]), max_size=9),
    st.integers(1, 12),
)
def test_icis_stops_after_the_epoch_of_its_source(falls, each):
    """The loss falls for `each` epochs by each of `falls`, none the threshold, and then stays."""
    losses = [4.0]
    for fall in falls:
        losses += [losses[-1] - fall * (n + 1) for n in range(each)]
    losses += [losses[-1]] * 60

    def stops():
        counter, seen = 0, []
        for epoch, loss in enumerate(losses):
            seen.append(loss)
            if epoch > 20:
                kept = torch.tensor(seen, dtype=torch.float64)
                slope = -(kept[-10:].mean() - kept[-20:-10].mean()) / 10.0
                counter = counter + 1 if slope < 2 * 10e-4 else 0
                if counter == 5:
                    return epoch + 1
        raise AssertionError

    ours = next(n for n in range(1, len(losses) + 1) if _is_flat(losses[:n], 2e-3))
    assert ours == stops() >= 26


# Optimiser, learning rate, betas, decay, schedule, warm-up, floor, batch, epochs on 1,000 classes.
SETTINGS = {
    "paper-mlp": ("adam", 5e-3, None, 0.0, "cosine-epochs", 0.0, 0.0, 512, 2500),
    "paper-text2concepts": ("adam", 5e-3, None, 0.0, "cosine-epochs", 0.0, 0.0, 512, 2500),
    "sail": ("lion", 1e-5, None, 1e-4, "cosine", 10.0, 0.0, 32768, 100),
    "freeze-align": ("adamw", 1e-3, None, 0.02, "cosine", 10.0, 0.01, 14400, 15),
    "structure": ("adamw", 1e-3, (0.9, 0.95), 1e-4, "cosine", 0.0, 0.0, 4096, 1000),
    "devise": ("adagrad", 0.01, None, 0.0, "constant", 0.0, 0.0, 128, 100),
    "icis": ("adam", 1e-5, None, 0.0, "constant", 0.0, 0.0, 16, 1000),
}


@pytest.mark.parametrize("name", PRESETS)
def test_settings(name):
    aligner = preset(name, n_prototypes=1000)
    betas = None if aligner.beta1 is None else (aligner.beta1, aligner.beta2)
    assert (
        aligner.optimizer, aligner.learning_rate, betas, aligner.weight_decay, aligner.schedule,
        aligner.warmup_epochs, aligner.floor, aligner.batch_size, aligner.epochs,
    ) == SETTINGS[name]  # fmt: skip
