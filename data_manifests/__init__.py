"""Datasets and label sets as item tables: one folder each, described in TOML.

The lowest layer: nothing here imports featstore, fitters or bench, nor torch or timm.
`featstore.datasets` validates what a builder returns and writes it.
"""
