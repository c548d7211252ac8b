"""Can a trained network tell fake from real? Scores on the held-out split, and pictures."""
