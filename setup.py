"""The compiled part of the package; everything else stands in setup.cfg."""

from setuptools import Extension, setup

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
            # Without contraction all processors come to the same sums; nobody asks for errno or traps, and loops with them stay scalar.
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
            optional=True,
        ),
    ]
)
