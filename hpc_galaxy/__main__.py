"""``python -m hpc_galaxy`` is ``hpc-galaxy``."""

from hpc_galaxy.cli import main

main()
