"""Train a network on shards, data-parallel: dataset, model, gradient averaging, loop, checkpoints."""
