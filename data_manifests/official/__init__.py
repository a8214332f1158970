"""Datasets in their official layouts on disk: found, read, compared with what is known of them."""
