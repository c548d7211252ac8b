"""The sides that bench_train.py compares, one a module; each trains the same network on the same examples."""
