"""Few-shot learners: a few labelled rows of every class in, a score for every class out."""

from fitters.few_shot.clap import CLAP, ZSLP
from fitters.few_shot.class_means import ClassMeans
from fitters.few_shot.cross_modal import CrossModal
from fitters.few_shot.learner import Classifier, Learner, Shots
from fitters.few_shot.logistic_probe import LogisticProbe
from fitters.few_shot.lp_plus_plus import LPPlusPlus
from fitters.few_shot.paper_few_shot import PaperFewShot
from fitters.few_shot.registry import LEARNERS, learner_named, register_learner
from fitters.few_shot.ridge_probe import RidgeProbe
from fitters.few_shot.tip_adapter import TipAdapter, TipAdapterF

__all__ = [
    "CLAP",
    "LEARNERS",
    "ZSLP",
    "ClassMeans",
    "Classifier",
    "CrossModal",
    "LPPlusPlus",
    "Learner",
    "LogisticProbe",
    "PaperFewShot",
    "RidgeProbe",
    "Shots",
    "TipAdapter",
    "TipAdapterF",
    "learner_named",
    "register_learner",
]
