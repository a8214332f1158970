"""Metrics on arrays: exact ranks, the numbers made of them, and what chance would give.

Nothing here knows a store, an encoder or an aligner.
"""
