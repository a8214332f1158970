"""The report: one HTML file that opens offline, and its figures as SVG and CSV beside it."""

from bench.report.page import write_report

__all__ = ["write_report"]
