"""Copying sets between stores, wherever they lie."""
