"""The report: one HTML file that opens offline and holds its figures and their numbers."""

from bench.report.page import write_report

__all__ = ["write_report"]
