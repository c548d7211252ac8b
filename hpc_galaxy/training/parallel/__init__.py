"""How ranks agree on gradients: one small interface, and its implementations."""
