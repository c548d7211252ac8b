"""Assign real and fake galaxies to train, valid and test by sky group, and repackage them as shuffled shards."""
