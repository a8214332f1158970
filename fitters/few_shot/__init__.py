"""Few-shot learners: a few labelled rows of every class in, a score for every class out."""

from fitters.few_shot.class_means import ClassMeans
from fitters.few_shot.learner import Classifier, Learner, Shots
from fitters.few_shot.registry import LEARNERS, learner_named
from fitters.few_shot.ridge_probe import RidgeProbe

__all__ = [
    "LEARNERS",
    "ClassMeans",
    "Classifier",
    "Learner",
    "RidgeProbe",
    "Shots",
    "learner_named",
]
