"""Encoders: models that map images or texts to vectors, opened by name.

Importing this package loads no torch; an encoder's libraries are loaded when it is opened.
"""
