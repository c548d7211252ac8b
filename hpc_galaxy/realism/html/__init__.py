"""The report as one self-contained HTML page, each of whose numbers is marked with its place in ``report.json``."""
