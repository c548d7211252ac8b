"""The machine and its queue: what is installed here (doctor)."""
