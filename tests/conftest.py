"""For every test: hypothesis asserts no times, since other work may run on the machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("headstock", deadline=None)
settings.load_profile("headstock")
