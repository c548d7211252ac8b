"""How long things take: timed spans of a stage, and its progress."""
