"""Few-shot learners: a few labelled rows of every class in, a score for every class out."""

from fitters.few_shot.clap import CLAP, ZSLP
from fitters.few_shot.class_moments import ClassMoments
from fitters.few_shot.cross_modal import CrossModal
from fitters.few_shot.gda import GDA
from fitters.few_shot.learner import Classifier, ClassMeans, Learner, Shots
from fitters.few_shot.logistic_probe import LogisticProbe
from fitters.few_shot.lp_plus_plus import LPPlusPlus
from fitters.few_shot.paper_few_shot import PaperFewShot
from fitters.few_shot.proker import ProKeR, ReHARK
from fitters.few_shot.registry import LEARNERS, learner_named
from fitters.few_shot.ridge_probe import RanPAC, RidgeProbe
from fitters.few_shot.tip_adapter import APE, TipAdapter, TipAdapterF

__all__ = [
    "APE",
    "CLAP",
    "GDA",
    "LEARNERS",
    "ZSLP",
    "ClassMeans",
    "ClassMoments",
    "Classifier",
    "CrossModal",
    "LPPlusPlus",
    "Learner",
    "LogisticProbe",
    "PaperFewShot",
    "ProKeR",
    "RanPAC",
    "ReHARK",
    "RidgeProbe",
    "Shots",
    "TipAdapter",
    "TipAdapterF",
    "learner_named",
]
