"""Stamps: 570 captioned pictures of Tux Paint, half photographs, half drawings."""
