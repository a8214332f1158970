import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel

from fitters import Pairs, SideTransform, fit
from fitters.aligners.ridge import KernelRidgeAligner, RidgeAligner
from fitters.select import Axis, Choice, folds_by_group
from fitters.select.left_out import choose_on_prototypes, leave_one_group_out
from fitters.select.noise import (
    NOISE,
    VALIDATIONS,
    cross_validate_kernel,
    explained_by,
    pairs_to_weigh,
    weigh_noise,
)
from fitters.sources import Sources
from tests.oracles import cosine, mean_of, reciprocal_rank_of_text, unit


def rng_of(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def sources(make_world, rng):
    head, images = make_world(n_classes=30, n_images=24, p=9, q=4, noise=0.8)
    images.y[1] = images.y[0]
    ids = images.groups.copy()
    ids[:2] = "twins"
    return (
        Pairs(head.x, head.y / 3, head.groups, rng.uniform(0.5, 2, 30)),
        Pairs(images.x - images.x.mean(axis=0), images.y / 3, ids, rng.uniform(0.5, 2, 24)),
    )


def by_refitting(real, prototypes, folds, gamma, alpha, mass, criterion):
    """The criterion of each row by scikit-learn's kernel ridge, refitted for every fold."""
    scores = np.empty(real.n)
    for fold in np.unique(folds):
        out = folds == fold
        x, y, weight = real.x[~out], real.y[~out], real.row_weight[~out]
        if prototypes is not None:
            x, y = np.concatenate([x, prototypes.x]), np.concatenate([y, prototypes.y])
            weight = np.concatenate([weight, mass * prototypes.row_weight])
        fit = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma)
        fit.fit(y.astype(float), x.astype(float), weight)
        predicted = fit.predict(real.y[out].astype(float))
        for row, to, own in zip(np.flatnonzero(out), predicted, real.x[out], strict=True):
            rank = reciprocal_rank_of_text(own, predicted, real.groups[out], real.groups[row])
            scores[row] = {
                "mrr": rank,
                "top-1": rank == 1,
                "top-5": rank >= 1 / 5,
                "top-10": rank >= 1 / 10,
                "cosine": own @ to / np.linalg.norm(own) / np.linalg.norm(to),
                "squared": -np.sum((own - to) ** 2),
            }[criterion]
    return scores


def weighed(prototypes, real, folds, criterion):
    """The shares of the noises beside prototypes of width 0.7 and penalty 0.2."""
    texts = real.y.astype(float)
    kernel = rbf_kernel(texts, gamma=0.7)
    covered, explained = explained_by(prototypes, texts, 0.7, 0.2, np.random.default_rng(0))
    prior = {"kernel": kernel, "covered": covered, "explained": explained}
    return weigh_noise(Choice(), real, folds, **prior, criterion=criterion)


@pytest.mark.parametrize("criterion", VALIDATIONS)
def test_the_surface_is_that_of_refitting_every_fold(criterion, sources, rng):
    _, real = sources
    folds = folds_by_group(real.groups, 3, rng)
    surface = cross_validate_kernel(
        real=real, folds=folds, gammas=Axis((0.3, 1.2), 0.3, 1.2),
        penalties=Axis((0.05, 0.5), 0.05, 0.5), criterion=criterion,
    )  # fmt: skip
    assert surface.scores.shape == (2, 2)
    for i, alpha in enumerate(surface.axes["penalty"].values):
        for j, gamma in enumerate(surface.axes["gamma"].values):
            of_rows = by_refitting(real, None, folds, gamma, alpha, 1.0, criterion)
            assert surface.scores[i, j] == pytest.approx(of_rows.mean(), abs=2e-5)


def test_landmarks_stand_for_many_prototypes(sources, rng, monkeypatch):
    prototypes, real = sources
    folds = folds_by_group(real.groups, 3, rng)

    def scores():
        return np.array(weighed(prototypes, real, folds, "squared").facts["scores"])

    exact = scores()
    monkeypatch.setattr("fitters.select.noise.EXACT_ROWS", 10)
    # As many landmarks as prototypes: another route to the same numbers.
    assert scores() == pytest.approx(exact, abs=1e-6)
    monkeypatch.setattr("fitters.select.noise.CHOICE_LANDMARKS", 20)
    fewer = scores()
    assert 0 < np.abs(fewer - exact).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("criterion", ["mrr", "squared"])
def test_each_noise_scores_as_refitting_at_the_prototypes_penalty(criterion, sources, rng):
    prototypes, real = sources
    folds = folds_by_group(real.groups, 3, rng)
    found = weighed(prototypes, real, folds, criterion)
    of_rows = []
    for noise in NOISE:
        # alpha / mass stays the penalty of the prototypes, and alpha is the noise of a real pair.
        at = min(noise, 1e12)
        of_rows.append(by_refitting(real, prototypes, folds, 0.7, at, at / 0.2, criterion))
    of_rows += [by_refitting(real, None, folds, 0.7, at, 1.0, criterion) for at in NOISE[:-1]]
    means = np.mean(of_rows, axis=1)
    facts = found.facts
    scores = [*facts["scores"], *facts["scores_without_head"]]
    assert scores == pytest.approx(means, abs=2e-5)
    weights = np.exp(
        2 * (means - means.max()) / (np.std(of_rows[int(np.argmax(scores))]) / np.sqrt(real.n))
    )
    shares = [*facts["noise_weights"], *facts["noise_weights_without_head"]]
    assert shares == pytest.approx(weights / weights.sum(), abs=1e-3)
    assert found.params["first_share"] in (0.0, pytest.approx(sum(facts["noise_weights"])))


SHARES, WITHOUT = {0.1: 0.25, 1.0: 0.25, np.inf: 0.25}, {0.5: 0.25, 3.0: 0.0}


def averaged(prototypes, real, texts, of_head, of_noise, first_share, **kernel):
    """Kernel ridge by scikit-learn at every noise; the weighted mean of two directions.

    `of_head` is the penalty of the prototypes, and `of_noise` that of a real pair of noise 1.
    """

    def fit(noise, *parts):
        fitted = KernelRidge(alpha=1.0, **kernel)
        mass = {id(prototypes): 1 / of_head, id(real): 1 / (of_noise * min(noise, 1e12))}
        x, y = (np.concatenate([getattr(p, side) for p in parts]).astype(float) for side in "xy")
        weight = np.concatenate([mass[id(p)] * p.row_weight for p in parts])
        return fitted.fit(y, x, weight).predict(texts)

    mixed = sum(share * fit(noise, prototypes, real) for noise, share in SHARES.items())
    mixed += sum(share * fit(noise, real) for noise, share in WITHOUT.items())
    return (unit(mixed) + first_share * unit(fit(1.0, prototypes))) / (1 + first_share)


def fitted_texts(aligner, prototypes, real, texts):
    """Fit on both sources, as they are, at `SHARES` and `WITHOUT`; return the texts' rows."""
    plain = SideTransform.identity()
    aligner.fit_sources(Sources(prototypes, real, plain, plain), noises=SHARES, without=WITHOUT)
    return aligner.project_y(texts)


@pytest.mark.parametrize("in_double", [True, False])
@pytest.mark.parametrize("first_share", [0.6, 0.0])
def test_the_fit_is_the_average_over_noise_and_the_prototypes_alone(
    first_share, in_double, sources, rng, monkeypatch
):
    if not in_double:
        monkeypatch.setattr("fitters.kernels.DOUBLE_ROWS", 5)
    texts = rng.standard_normal((7, 4))
    given = {"relative": False, "center": False, "first_share": first_share}
    found = fitted_texts(KernelRidgeAligner(gamma=0.7, alpha=0.2, **given), *sources, texts)
    expected = averaged(*sources, texts, 0.2, 1.0, first_share, kernel="rbf", gamma=0.7)
    assert found == pytest.approx(expected, abs=1e-5 if in_double else 2e-4)


@pytest.mark.parametrize("n_real", [24, 3])
@pytest.mark.parametrize("first_share", [0.6, 0.0])
def test_ridge_averages_over_the_same_noises(first_share, n_real, sources, rng):
    """Where a prototype has noise 1, and the penalty is the one that it has alone."""
    prototypes, real = sources[0], sources[1].take(np.arange(n_real))
    texts = rng.standard_normal((7, 4))
    aligner = RidgeAligner(alpha=0.2, center=False, first_share=first_share)
    found = fitted_texts(aligner, prototypes, real, texts)
    alpha = 0.2 * prototypes.row_weight @ (prototypes.y.astype(float) ** 2).sum(axis=1) / 4
    expected = averaged(prototypes, real, texts, alpha, alpha, first_share, kernel="linear")
    assert found == pytest.approx(expected, abs=1e-6)


def test_of_many_pairs_some_whole_groups_say_how_noisy_they_are(make_world, monkeypatch):
    head, real = make_world(n_classes=30, n_images=60)
    real = Pairs(real.x, real.y, np.repeat(np.arange(20), 3))
    monkeypatch.setattr("fitters.select.noise.MOST_PAIRS", 20)
    drawn, folds = pairs_to_weigh(real, 4, rng_of())
    assert drawn.n == 18
    assert set(np.unique(drawn.groups, return_counts=True)[1]) == {3}
    assert set(folds) == set(range(4))
    for method in ("ridge", "kernel-ridge"):
        facts = fit(method, prototypes=head, real=real, rng=rng_of()).facts
        assert facts["choice"]["n_queries"] == 18
        assert facts["n_real"] == 60


def test_a_useless_head_takes_nothing_from_ridge(make_world, rng):
    head, images = make_world(n_classes=60, n_images=400, p=40, q=20, noise=0.6)
    useless = Pairs(rng.standard_normal(head.x.shape), head.y, head.groups)
    real, new = images.take(np.arange(300)), images.take(np.arange(300, 400))
    alone = fit("ridge", real=real, rng=rng_of()).score(new.x, new.y)
    beside = fit("ridge", prototypes=useless, real=real, rng=rng_of())
    assert beside.score(new.x, new.y) > alone - 0.02
    assert fit("ridge", prototypes=useless, rng=rng_of()).score(new.x, new.y) < alone / 2


@pytest.mark.parametrize(
    ("criterion", "exact"), [("cosine", True), ("cosine", False), ("rank", True)]
)
def test_left_out_classes_are_asked_for_by_other_rows(criterion, exact, make_world, monkeypatch):
    head, _ = make_world(n_classes=20, n_images=8, p=6, q=4)
    rng = np.random.default_rng(3)
    groups = np.array([*range(18), 3, 5])
    asked = head.y + 0.3 * rng.standard_normal(head.y.shape)
    x, y = head.x.astype(np.float64), head.y.astype(np.float64)
    pairs = Pairs(x, y, groups, rng.uniform(0.5, 2, 20), asked)
    if not exact:
        monkeypatch.setattr("fitters.select.left_out.EXACT_ROWS", 19)
        monkeypatch.setattr("fitters.select.left_out.CHOICE_LANDMARKS", 20)
    surface = choose_on_prototypes(
        pairs, gammas=Axis((0.3, 1.2), 0.3, 1.2), penalties=Axis((0.05, 0.5), 0.05, 0.5),
        criterion=criterion, rng=rng,
    )  # fmt: skip
    ridge = leave_one_group_out(pairs, penalties=Axis((0.05, 0.5), 0.05, 0.5), criterion=criterion)

    targets = pairs.x - mean_of(pairs.x, pairs.row_weight)

    def score(estimator):
        predicted = np.empty_like(pairs.x)
        for group in np.unique(groups):
            out, weight = groups == group, pairs.row_weight[groups != group]
            of_x, of_y = (mean_of(side[~out], weight) for side in (pairs.x, pairs.y))
            estimator.fit(pairs.y[~out] - of_y, pairs.x[~out] - of_x, weight)
            predicted[out] = estimator.predict(asked[out] - of_y)
        if criterion == "cosine":
            # Beyond `EXACT_ROWS` only rows that are spread evenly are asked.
            at = np.arange(20) if exact else np.linspace(0, 19, 19).round().astype(int)
            return np.mean([cosine(targets[row], predicted[row]) for row in at])
        rows = zip(targets, groups, strict=True)
        return np.mean([reciprocal_rank_of_text(x, predicted, groups, own) for x, own in rows])

    for i, alpha in enumerate((0.05, 0.5)):
        for j, gamma in enumerate((0.3, 1.2)):
            expected = score(KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma))
            assert surface.scores[i, j] == pytest.approx(expected, abs=1e-6)
        if exact:
            absolute = alpha * np.sum(pairs.row_weight[:, None] * pairs.y**2) / 4
            expected = score(Ridge(alpha=absolute, fit_intercept=False))
            assert ridge.scores[0, i] == pytest.approx(expected, abs=1e-9)


def test_a_width_that_predicts_nothing_but_rounding_scores_as_nothing(rng):
    """16 texts at right angles, as few pairs nearly are: at width 32 a kernel is 1e-28 off its
    diagonal, and the ranks of such predictions follow the order of sums."""
    images, texts = rng.standard_normal((16, 12)), np.eye(16)
    folds = np.arange(16) % 4
    gammas = Axis((1.0, 2.0, 8.0, 32.0)).closed
    found = cross_validate_kernel(
        real=Pairs(images, texts), folds=folds, gammas=gammas, penalties=Axis((0.1, 1.0)).closed
    )
    assert found.scores[:, -1].tolist() == [0.25, 0.25]
    assert (found.scores[:, :-1] != 0.25).all()
    assert found.chosen["gamma"] < 32
