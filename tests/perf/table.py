"""The printed table."""

from __future__ import annotations

from tests.perf.engine import Figure

_WIDTHS = (32, 9, 19, 7, 5)


def heading() -> str:
    """Return the first line."""
    return _line("name", "ratio", "interval", "goal", "holds", "against")


def line(figure: Figure) -> str:
    """Return the line of one figure."""
    interval = "-" if figure.low is None else f"{_short(figure.low)}–{_short(figure.high)}"
    goal = "-" if figure.goal is None else f"{figure.goal:g}"
    holds = "yes" if figure.holds else "NO"
    return _line(figure.name, _short(figure.ratio), interval, goal, holds, figure.against)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def _line(name: str, ratio: str, interval: str, goal: str, holds: str, against: str) -> str:
    a, b, c, d, e = _WIDTHS
    return f"{name:<{a}}{ratio:>{b}}{interval:>{c}}{goal:>{d}}  {holds:<{e}}  {against}"
