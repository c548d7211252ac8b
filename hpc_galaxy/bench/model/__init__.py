"""What a step would take on many nodes: compute, data, messages, stragglers."""
