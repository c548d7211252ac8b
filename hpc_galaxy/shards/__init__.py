"""The on-disk formats: one HDF5 file of cutouts a brick, and shuffled numpy shards. README.md is their specification."""
