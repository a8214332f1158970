"""Aligners trained by gradient descent: what the closed forms are compared with.

Importing this package, or a saved aligner, loads no torch; training and projecting do. From the
outside in: `presets` (each method of a paper, one line), `aligner` (the estimators' common part),
`mlp` and `icis` (the estimators), `training` (the loop), and what it is made of: `batches`,
`architectures`, `losses`, `regularisers`, `optimisers`, `schedule`, `validation`, `checkpoint`.
"""

from fitters.trained.icis import ICISAligner
from fitters.trained.mlp import MLPAligner

__all__ = ["ICISAligner", "MLPAligner"]
