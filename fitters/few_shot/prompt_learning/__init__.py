"""CoOp and CoCoOp: prompts learned through a frozen text tower, on cached image embeddings.

`tower` (what is needed of the tower), `prompts` (token embeddings with gaps), `coop` and `cocoop`
(the learners), `descent` (how they are trained), `registry` (their names). Importing this loads no
torch; `coop`, `cocoop`, `prompts` and `descent` do.
"""

from fitters.few_shot.prompt_learning.registry import PROMPT_LEARNERS, prompt_learner
from fitters.few_shot.prompt_learning.tower import TextTower

__all__ = ["PROMPT_LEARNERS", "TextTower", "prompt_learner"]
