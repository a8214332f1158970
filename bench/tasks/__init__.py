"""Tasks: what is asked of an alignment. Arrays in, ranks and pooled numbers out."""

from bench.tasks.generalised import Generalised, score_generalised
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.retrieval import score_retrieval
from bench.tasks.zero_shot import score_zero_shot

__all__ = [
    "Generalised",
    "Outcome",
    "Projector",
    "score_generalised",
    "score_retrieval",
    "score_zero_shot",
]
