"""How fast it is here, and how fast it would be on many nodes."""
