"""Aligners: maps between two embedding spaces, in closed form or by a kernel."""
