"""Shapes that datasets share: class folders, lists of images, Karpathy's JSON, arrays of pixels."""
