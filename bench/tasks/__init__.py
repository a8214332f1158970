"""Tasks that score an alignment: arrays in, ranks and pooled numbers out."""

from bench.tasks.diagnostics import (
    score_cosine_head,
    score_modality_gap,
    score_neighbours,
)
from bench.tasks.outcome import KEPT, Outcome, Prepared, Projector, Queries
from bench.tasks.ranked import (
    prepare_retrieval,
    prepare_zero_shot,
    score_few_shot,
    score_generalised,
    score_zero_shot,
)

__all__ = [
    "KEPT",
    "Outcome",
    "Prepared",
    "Projector",
    "Queries",
    "prepare_retrieval",
    "prepare_zero_shot",
    "score_cosine_head",
    "score_few_shot",
    "score_generalised",
    "score_modality_gap",
    "score_neighbours",
    "score_zero_shot",
]
