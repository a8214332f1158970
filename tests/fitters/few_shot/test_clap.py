import numpy as np
import pytest
import torch

from fitters.few_shot.descent import CLAP, held_by
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import made, noisy_prototypes, with_views


def by_autograd(given, x, labels, penalty, *, scale, epochs, size, seed, length=10.0):
    texts = length * torch.from_numpy(given.prototypes).double()
    rows = texts.clone().requires_grad_()
    x, labels = torch.from_numpy(x).double(), torch.from_numpy(labels)
    unit = texts / texts.norm(dim=1, keepdim=True)
    likely = torch.softmax(scale * x @ unit.T, dim=1)
    held = torch.stack([likely[labels == c, c].mean() for c in range(10)])
    optimiser = torch.optim.SGD([rows], lr=0.1, momentum=0.9)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        cosine = 0.5 * (1 + np.cos(np.pi * (epoch - 1) / epochs))
        optimiser.param_groups[0]["lr"] = 1e-5 if epoch == 0 else 0.1 * cosine
        order = rng.permutation(len(x))
        for step in range(max(1, len(given.labels) // size)):
            batch = order[step * size : (step + 1) * size]
            logits = scale * x[batch] @ (rows / rows.norm(dim=1, keepdim=True)).T
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            if penalty:
                loss = loss + (held * (rows - texts).pow(2).sum(dim=1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    rows = rows.detach()
    return (scale * rows / rows.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("v", [0, 3])
def test_the_prototypes_are_those_of_autograd(penalty, v):
    given, test = made(6, prototypes=noisy_prototypes(noise=0.4))
    given = with_views(given, v) if v else given
    settings = {"scale": 20.0, "epochs": 30, "seed": 4}
    ours = CLAP(penalty=penalty, batch_size=25, **settings).fit(given)
    theirs = by_autograd(given, *given.unit_views, penalty, size=25, **settings)
    assert_close(ours.weight, theirs, "float32", times=100)
    assert_close(ours.scores(test[0]), test[0] @ theirs.T, "float32", times=100)


def test_a_class_without_a_shot_is_held():
    given, _ = made(2, prototypes=noisy_prototypes())
    kept = given.labels != 4
    shots = type(given)(given.x[kept], given.labels[kept], 10, given.prototypes)
    assert held_by(shots, given.prototypes, 20.0)[4] == 1.0
