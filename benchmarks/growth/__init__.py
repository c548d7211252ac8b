"""What `bench_growth.py` measures: one module for each thing that grows."""
