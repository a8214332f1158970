"""Decoding in processes of its own: a crash or a hang costs one image, not the job."""

from featstore.decoding.pool import DecodePool

__all__ = ["DecodePool"]
