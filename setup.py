"""The compiled part of the package; everything else stands in setup.cfg."""

from setuptools import Extension, setup

# Without contraction all processors come to the same numbers; nobody asks for errno or traps, and loops with them stay scalar.
SAME_EVERYWHERE = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

# Without a C compiler fitsio, numpy and HDF5 do the same, slower.
setup(
    ext_modules=[
        Extension(
            "hpc_galaxy.bricks._rice",
            ["hpc_galaxy/bricks/_rice.c"],
            # Contraction of multiply-add would change the last bit of pixels.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            optional=True,
        ),
        Extension("hpc_galaxy.cutouts._cut", ["hpc_galaxy/cutouts/_cut.c"], extra_compile_args=["-O3"], optional=True),
        Extension("hpc_galaxy.shards._fletcher", ["hpc_galaxy/shards/_fletcher.c"], extra_compile_args=["-O3"], optional=True),
        Extension(
            "hpc_galaxy.splits._moments",
            ["hpc_galaxy/splits/_moments.c"],
            depends=["hpc_galaxy/shards/_arcsinh.h"],
            extra_compile_args=SAME_EVERYWHERE,
            optional=True,
        ),
        Extension(
            "hpc_galaxy.training.data._inputs",
            ["hpc_galaxy/training/data/_inputs.c"],
            depends=["hpc_galaxy/shards/_arcsinh.h"],
            extra_compile_args=SAME_EVERYWHERE,
            optional=True,
        ),
    ]
)
