"""Extraction: from items and a frozen encoder to a finished set of the store."""
