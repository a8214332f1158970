"""The estimator of the whole protocol."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.utils.estimator_checks import parametrize_with_checks

from fitters import METHODS, Alignment, FitConfig, Pairs, fit, load, scoring
from fitters.errors import PairsError, SettingError
from fitters.settings import OPTIONS, TrainingOptions
from tests.assertions import assert_close, assert_same
from tests.shorthand import save_alignment

EPOCHS = TrainingOptions(epochs=2, batch_size=8)
#: Of every road to a fit: chosen, sparse, by a config; test_aligners.py has those that are trained.
ESTIMATORS = [
    Alignment(),
    Alignment("asif"),
    Alignment(FitConfig("cca", n_components=2), penalty=0.1),
]

EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"


def failing(estimator):
    """Return the checks that must fail, with the reason: one that passes fails the test."""
    made = {
        "check_estimators_dtypes": "cut to whole numbers, one of its rows is 0: it has no direction"
    }
    if estimator.method == "asif":
        made[EQUIVALENCE] = "ASIF has no masses: a row of mass 0 is an anchor too"
    return made


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=failing)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_its_settings_are_those_of_a_config():
    assert Alignment().config == FitConfig("ridge")
    given = {"penalty": 0.2, "n_components": None, "centre": False, "validation": "top-5"}
    assert Alignment("cca", **given).config == FitConfig("cca", **given)
    assert Alignment("sail", training=EPOCHS).config == FitConfig("sail", training=EPOCHS)
    both = Alignment(FitConfig("cca", penalty=0.2, n_components=3), n_components=None)
    assert both.config == FitConfig("cca", penalty=0.2, n_components=None)
    with pytest.raises(SettingError, match="'penalty' of a fit must be at least 0"):
        Alignment(penalty=-1.0).fit(np.eye(3), np.eye(3))
    # A setting that a method lacks plays no part, but for one that is asked for by a config.
    for name, method in METHODS.items():
        odd = {one: 1 for one in OPTIONS if one not in method.options}
        trained = {} if method.fitted_on == "training" else {"training": EPOCHS}
        assert Alignment(name, **odd, **trained).config == FitConfig(name)
    with pytest.raises(SettingError, match="top_k has no effect in ridge"):
        Alignment(FitConfig("ridge", top_k=3)).fit(np.eye(3), np.eye(3))


def in_folds(real, **settings):
    """What `cross_val_score` gives, by hand."""
    found = []
    for train, test in KFold(3).split(real.x):
        made = fit(real=real.take(train), rng=np.random.default_rng(0), **settings)
        scores = made.project_x(real.x[test]) @ made.project_y(real.y[test]).T
        ranks = (scores >= scores.diagonal()[:, None]).sum(axis=1)
        back = (scores >= scores.diagonal()[None]).sum(axis=0)
        found.append([np.mean(1 / ranks), (np.mean(ranks <= 1) + np.mean(back <= 1)) / 2])
    return np.array(found).T


def test_scikit_learn_validates_it_as_fits_by_hand_do(make_world):
    real = make_world(noise=2.0)[1]
    real = Pairs(real.x, real.y)
    by_hand = {p: in_folds(real, method="ridge", penalty=p) for p in (1e-4, 0.3, 30.0)}
    mrr = {p: found[0].mean() for p, found in by_hand.items()}
    search = GridSearchCV(Alignment(), {"penalty": list(by_hand)}, cv=3).fit(real.x, real.y)
    assert_close(search.cv_results_["mean_test_score"], list(mrr.values()))
    assert search.best_params_ == {"penalty": max(mrr, key=mrr.get)}
    both = scoring("R@1", direction="both")
    found = cross_validate(
        Alignment(penalty=0.3), real.x, real.y, cv=3, scoring={"mrr": scoring(), "both": both}
    )
    assert_close(found["test_mrr"], by_hand[0.3][0])
    assert_close(found["test_both"], by_hand[0.3][1])
    assert_same(search.transform(real.x), search.best_estimator_.project_x(real.x))
    assert both(search, real.x, real.y) == both(search.best_estimator_, real.x, real.y)


def test_groups_reach_the_inner_choice(make_world):
    _, real = make_world(noise=8.0)
    groups = np.arange(48) // 4
    folds = list(GroupKFold(3).split(real.x, groups=groups))
    found = cross_validate(
        Alignment(), real.x, real.y, cv=folds, params={"groups": groups}, return_estimator=True
    )
    for (train, test), made, score in zip(
        folds, found["estimator"], found["test_score"], strict=True
    ):
        pairs = Pairs(real.x[train], real.y[train], groups[train])
        by_hand = fit("ridge", real=pairs, rng=np.random.default_rng(0))
        assert made.facts == by_hand.facts
        alone = fit("ridge", real=Pairs(pairs.x, pairs.y), rng=np.random.default_rng(0))
        assert made.facts["choice"]["scores"] != alone.facts["choice"]["scores"]
        assert score == by_hand.score(real.x[test], real.y[test])


def test_a_fit_on_prototypes_alone_names_its_columns(make_world):
    pandas = pytest.importorskip("pandas", reason="needs the extra `test`")
    head, _ = make_world(noise=2.0)
    named = pandas.DataFrame(head.x, columns=[f"x{i}" for i in range(head.x.shape[1])])
    made = Alignment(penalty=0.3).fit(prototypes=(named, head.y))
    assert made.feature_names_in_.tolist() == named.columns.tolist()
    assert made.n_features_in_ == len(named.columns)
    with pytest.warns(UserWarning, match="feature names"):
        found = made.transform(head.x)
    assert made.get_feature_names_out().tolist() == [f"alignment{i}" for i in range(found.shape[1])]
    assert_same(found, Alignment(penalty=0.3).fit(prototypes=head).transform(head.x))


def ranks_by_hand(scores, relevant):
    """1 + the number of wrong answers that score at least as high as the best right one."""
    return np.array([
        1 + sum(s >= row[right].max() for s, r in zip(row, right, strict=True) if not r)
        for row, right in zip(scores, relevant, strict=True)
    ])  # fmt: skip


def test_several_captions_and_shared_ones_are_right(make_world, rng):
    head, real = make_world(noise=2.0)
    made = Alignment(penalty=0.3).fit(prototypes=head)
    image_of, text_of = rng.integers(0, 12, 40), rng.integers(0, 15, 40)
    x, y = real.x[image_of], real.y[text_of]
    scores = made.project_x(real.x[:12]) @ made.project_y(real.y[:15]).T
    relevant = np.zeros((12, 15), dtype=bool)
    relevant[image_of, text_of] = True
    images, texts = np.unique(image_of), np.unique(text_of)
    scores, relevant = scores[:, texts][images], relevant[:, texts][images]
    ranks = ranks_by_hand(scores, relevant)[np.searchsorted(images, image_of)]
    back = ranks_by_hand(scores.T, relevant.T)[np.searchsorted(texts, text_of)]
    for name, of in {
        "mrr": lambda r: 1 / r,
        "r@5": lambda r: r <= 5,
        "top-1": lambda r: r <= 1,
    }.items():
        expected = {"x->y": np.mean(of(ranks)), "y->x": np.mean(of(back))}
        expected["both"] = np.mean(list(expected.values()))
        for direction, value in expected.items():
            assert scoring(name, direction=direction)(made, x, y) == pytest.approx(value)
    assert made.score(x, y, groups=image_of) == pytest.approx(np.mean(1 / ranks))


def test_zero_shot_ranks_all_class_texts(make_world):
    head, real = make_world(noise=2.0)
    texts, labels = head.y[:20], np.arange(48) % 20
    made = Alignment(penalty=0.3).fit(prototypes=head)
    scores = made.project_x(real.x) @ made.project_y(texts).T
    top = (scores >= scores[np.arange(48), labels][:, None]).sum(axis=1) <= 5
    for name in ("top-5", "R@5"):
        scorer = scoring(name, texts=texts)
        assert scorer(made, real.x, labels) == scorer(made, real.x, texts[labels]) == top.mean()
    assert pickle.loads(pickle.dumps(scorer))(made, real.x, labels) == top.mean()
    with pytest.raises(PairsError, match=r"1 of 48 rows of y .* \(first: row 3"):
        scorer(made, real.x, np.where(np.arange(48) == 3, 20, labels))
    with pytest.raises(SettingError, match="ranked for images"):
        scoring("top-1", direction="both", texts=texts)


def test_labels_are_texts_at_right_angles(make_world, tmp_path):
    _, real = make_world()
    labels = np.array(["dog", "cat", "owl"])[np.arange(48) % 3]
    one_hot = (labels[:, None] == np.array(["cat", "dog", "owl"])).astype(float)
    made, same = Alignment().fit(real.x, labels), Alignment().fit(real.x, one_hot)
    again = load(save_alignment(tmp_path / "a", made))
    assert_same(made.project_x(real.x), same.project_x(real.x))
    for one in (made, again):
        assert_same(one.project_y(labels), same.project_y(one_hot))
    assert made.score(real.x, labels) == same.score(real.x, one_hot)
    with pytest.raises(PairsError, match=r"1 of 2 labels .* \(first: .*emu.*, row 1"):
        again.project_y(["cat", "emu"])
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        Alignment().fit(real.x, np.linspace(0, 1, 48))


def test_every_seed_of_scikit_learn(make_world):
    _, real = make_world(noise=3.0)

    def curve(state):
        return np.array(Alignment(seed=state).fit(real.x, real.y).facts["choice"]["scores"])

    assert curve(None).size  # of another seed each time, which may score as one of the others
    assert_same(curve(3), curve(np.random.default_rng(3)))
    assert_same(curve(np.random.RandomState(3)), curve(np.random.RandomState(3)))
    going_on = np.random.RandomState(3)
    assert len({curve(state).tobytes() for state in (3, 4, going_on, going_on)}) == 4
