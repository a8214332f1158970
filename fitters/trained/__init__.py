"""Aligners trained by gradient descent: baselines for the closed forms.

Importing this package, or reading a saved aligner, loads no torch; training and projecting do. From
the outside in: `presets` (the configurations of papers), `mlp` and `icis` (the estimators), `base`
(what they share), and, with torch, `training` (the loop), `modules` (heads, losses, objectives) and
`checkpoint`.
"""
