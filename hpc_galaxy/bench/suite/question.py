"""What the suite's questions have in common."""

OURS, LIMIT = "ours", "limit"
"""The two sides of each question: what the package does, and what nobody can avoid on this machine."""
