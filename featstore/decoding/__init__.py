"""Decoding in processes of its own: a crash or a hang costs one image, not the job."""
