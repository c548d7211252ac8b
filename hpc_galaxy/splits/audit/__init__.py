"""The leak audit of a directory of shards: what a referee would look for, and what it takes for each finding to count."""
