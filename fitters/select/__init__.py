"""Choosing penalties and mixing weights from training pairs and prototypes only."""
