"""CoOp and CoCoOp through a small random open_clip tower: zero steps, gradients, a plain loop."""

import numpy as np
import pytest
import torch
from torch import nn

from fitters.errors import DivergedError, PairsError, SettingError, UnknownMethodError
from fitters.few_shot import prompt_learner, prompt_learning
from fitters.few_shot.learner import Shots
from fitters.few_shot.prompt_learning import (
    CoCoOp,
    CoOp,
    Descent,
    PromptClassifier,
    make_prompts,
    meta_net,
    word_vectors,
)
from tests.assertions import assert_close, assert_same
from tests.featstore.encoders.open_clip_models import build, known_to_open_clip
from tests.fitters.few_shot.tiny_tower import TOKENIZER, tiny_tower, tower_of

NAMES = ("dog", "tabby_cat", "St.", "hot dog")
SHORT = Descent(epochs=3, batch_size=5, learning_rate=0.05)


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    with known_to_open_clip(tmp_path_factory.mktemp("configs")):
        yield


@pytest.fixture(scope="module")
def tower():
    return tiny_tower()


@pytest.fixture(scope="module")
def exact():
    """The same tower in float64: steps through it magnify the rounding of float32."""
    return tower_of(build("tiny-clip").double())


@pytest.fixture
def shots():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(12, 24))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Shots(rows.astype(np.float32), np.arange(12, dtype=np.int64) % 4, 4)


def encoded(name, texts):
    tokens = TOKENIZER(list(texts))
    with torch.inference_mode():
        return build(name).encode_text(tokens, normalize=True).numpy()


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-clip-quickgelu"])
@pytest.mark.parametrize(
    ("position", "template"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_no_step_is_zero_shot_with_the_words_as_template(name, position, template, shots):
    own = tiny_tower(name)
    names = [name for name in NAMES if position == "end" or name != "St."]
    rows = Shots(shots.x[:0], shots.labels[:0], len(names), prototypes=shots.x[: len(names)])
    learner = CoOp(own, names, words="a photo of a", position=position)
    expected = encoded(name, [template.format(n.replace("_", " ")) for n in names])
    assert_close(learner.fit(rows).weight / own.logit_scale, expected, "float32")


def hooked_logits(model, names, x, context):
    """Logits by the model's own `encode_text`, its token embeddings replaced by a hook."""
    m = context.shape[-2]
    tokens = TOKENIZER([f"{'X ' * m}{n.replace('_', ' ')}." for n in names])

    def fill(_module, _inputs, output):
        own = context.expand(len(names), -1, -1)
        return torch.cat([output[:, :1], own, output[:, 1 + m :]], dim=1)

    handle = model.token_embedding.register_forward_hook(fill)
    try:
        texts = model.encode_text(tokens, normalize=True)
    finally:
        handle.remove()
    return model.logit_scale.exp() * x @ texts.T


def plain_steps(parameters, loss_of, n, rng, *, epochs=3, size=5, rate=0.05):
    """SGD with momentum 0.9 and decay 5e-4 written out; the first epoch at 1e-5, then a cosine."""
    speed = [torch.zeros_like(p) for p in parameters]
    for epoch in range(epochs):
        lr = 1e-5 if epoch == 0 else rate * (1 + np.cos(np.pi * (epoch - 1) / epochs)) / 2
        order = rng.permutation(n)
        for start in range(0, n // size * size, size):
            gradients = torch.autograd.grad(loss_of(order[start : start + size]), parameters)
            with torch.no_grad():
                for p, v, g in zip(parameters, speed, gradients, strict=True):
                    v.mul_(0.9).add_(g + 5e-4 * p)
                    p.sub_(lr * v)


@pytest.mark.parametrize("specific", [False, True])
def test_coop_is_a_plain_loop_with_the_same_updates(specific, exact, shots):
    learner = CoOp(exact, NAMES, n_context=3, class_specific=specific, descent=SHORT, seed=8)
    classifier = learner.fit(shots)
    model = build("tiny-clip").double()
    rng = np.random.default_rng(8)
    context = torch.from_numpy(rng.normal(scale=0.02, size=(3, 32)).astype(np.float32)).double()
    context = (context.repeat(4, 1, 1) if specific else context).requires_grad_()
    first = context.detach().clone()
    x, labels = torch.from_numpy(shots.x).double(), torch.from_numpy(shots.labels)

    def loss_of(batch):
        logits = hooked_logits(model, NAMES, x[batch], context)
        return nn.functional.nll_loss(torch.log_softmax(logits, dim=1), labels[batch])

    plain_steps([context], loss_of, 12, rng)
    moved = (context.detach() - first).numpy()
    assert np.abs(moved).max() > 0.01
    assert_close(learner.context_ - first.numpy(), moved)
    with torch.inference_mode():
        expected = hooked_logits(model, NAMES, x, context).numpy()
    assert_close(classifier.scores(shots.x), expected, "float32")


def test_cocoop_is_a_plain_loop_with_the_same_updates(exact, shots):
    learner = CoCoOp(exact, NAMES, words="a photo", descent=SHORT, seed=2)
    classifier = learner.fit(shots)
    model = build("tiny-clip").double()
    rng = np.random.default_rng(2)
    context = model.token_embedding(TOKENIZER(["a photo"]))[0, 1:3].detach().clone()
    net = nn.Sequential(nn.Linear(24, 1), nn.ReLU(), nn.Linear(1, 32)).double()
    for layer in (net[0], net[2]):
        bound = 1 / np.sqrt(layer.in_features)
        for tensor in (layer.weight, layer.bias):
            drawn = rng.uniform(-bound, bound, tuple(tensor.shape)).astype(np.float32)
            tensor.data = torch.from_numpy(drawn).double()
    x, labels = torch.from_numpy(shots.x).double(), torch.from_numpy(shots.labels)

    def logits_of(image):
        return hooked_logits(model, NAMES, image[None], context + net(image))[0]

    def loss_of(batch):
        logits = torch.stack([logits_of(x[i]) for i in batch])
        return nn.functional.cross_entropy(logits, labels[batch])

    plain_steps([context.requires_grad_(), *net.parameters()], loss_of, 12, rng)
    assert_close(learner.context_, context.detach().numpy())
    for ours, theirs in zip(learner.net_.parameters(), net.parameters(), strict=True):
        assert_close(ours.numpy(), theirs.detach().numpy())
    with torch.inference_mode():
        expected = torch.stack([logits_of(row) for row in x]).numpy()
    assert_close(classifier.scores(shots.x), expected, "float32")


@pytest.mark.parametrize("learner", [CoOp, CoCoOp])
def test_views_of_a_shot_take_its_place(learner, exact, shots):
    def fitted(views):
        given = Shots(shots.x, shots.labels, 4, views=views)
        return learner(exact, NAMES, words="a photo", descent=SHORT, seed=3).fit(given)

    plain = fitted(None).scores(shots.x)
    # One view is the row that is shown, whatever its length: made a unit row once more, in
    # float32, and ten steps magnify that.
    assert_close(fitted(3 * shots.x[:, None]).scores(shots.x), plain, "float32", times=100)
    spread = np.random.default_rng(0).normal(size=(12, 3, 24)).astype(np.float32)
    first, again = (fitted(spread).scores(shots.x) for _ in range(2))
    assert_same(first, again)
    assert np.abs(first - plain).max() > 1e-3


def test_many_classes_in_groups_are_the_same_as_at_once(exact, shots, monkeypatch):
    made = {}
    for held in (128, 3):
        monkeypatch.setattr(prompt_learning, "HELD_PROMPTS", held)
        monkeypatch.setattr(prompt_learning, "BLOCK", 4 * held)
        for specific in (False, True):
            learner = CoOp(exact, NAMES, n_context=2, class_specific=specific, descent=SHORT)
            made[held, specific] = learner.fit(shots).scores(shots.x)
        learner = CoCoOp(exact, NAMES, descent=SHORT)
        made[held, "conditional"] = learner.fit(shots).scores(shots.x)
    for kind in (False, True, "conditional"):
        assert_close(made[3, kind], made[128, kind], "float32")


def test_what_cannot_be_learned_is_refused(tower, shots):
    for names, match in (
        (NAMES[:3], "3 names for 4"),
        (("a", "b", " ", "c"), "blank name"),
        (("a", "b", "c", "dog " * 9), "has 10 tokens with its full stop; oc:tiny-clip takes 16"),
    ):
        with pytest.raises((PairsError, SettingError), match=match):
            CoOp(tower, names, n_context=6).fit(shots)
    wide = Shots(np.eye(4, 30, dtype=np.float32), np.arange(4), 4)
    with pytest.raises(PairsError, match="Images have 30 columns, texts of oc:tiny-clip 24"):
        CoCoOp(tower, NAMES).fit(wide)
    with pytest.raises(UnknownMethodError, match="Did you mean 'cocoop'"):
        prompt_learner("coccop", tower, NAMES)
    descent = Descent(epochs=9, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"smaller learning rate than 1e\+30"):
        CoOp(tower, NAMES, n_context=2, descent=descent).fit(shots)


@pytest.mark.parametrize("per_image", [False, True])
def test_prompts_stay_on_their_device(per_image):
    """On the meta device, which computes shapes alone."""
    tower, meta = tiny_tower(), torch.device("meta")
    made = make_prompts(tower, ["dog", "tabby cat"], 3, "end")
    words = word_vectors(tower, "a photo of")
    net = meta_net(tower.dim, tower.width, np.random.default_rng(0)) if per_image else None
    with torch.no_grad():
        tower.to(meta)
        net = net and net.to(meta)
        images = torch.ones(4, tower.dim, device=meta)
        logits = PromptClassifier(tower, made.to(meta), words.to(meta), net).logits(images)
    assert (logits.device.type, tuple(logits.shape)) == ("meta", (4, 2))
