"""The report: one HTML file that opens offline and holds its figures and their numbers."""
