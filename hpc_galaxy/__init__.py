"""Survey bricks in, trained networks out: galaxy cutouts, shards and data-parallel CNNs on supercomputers.

The sub-packages, in the order in which data flow through them::

    bricks -> injection -> cutouts -> splits (-> shards) -> training -> realism

Importing this package imports neither torch nor mpi4py.
"""

__version__ = "0.1.0"
