"""The paper suite: the experiments of the head-recycling paper, as far as a store can answer them.

Mendez, Confalonieri and Díaz-Rodríguez, *Supervised Classification Heads as Semantic Prototypes*,
ICML 2026 (arXiv 2605.22484). ``plan`` returns the runs whose sets are in the store, ``lacking``
what the store lacks with the commands that make it, ``published`` the paper's numbers.
"""

from bench.suites.paper.lacking import Lacking, lacking
from bench.suites.paper.plan import paper_runs
from bench.suites.paper.published import published_numbers, published_table

__all__ = ["Lacking", "lacking", "paper_runs", "published_numbers", "published_table"]
