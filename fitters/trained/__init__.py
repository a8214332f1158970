"""Aligners trained by gradient descent: baselines for the closed forms.

Importing this package, or reading a saved aligner, loads no torch; training and projecting do. From
the outside in: `presets` (the configurations of papers), `mlp` (the estimators), `base`
(what they share), and, with torch, `training` (the loop) and `modules` (heads, losses, objectives).
"""
