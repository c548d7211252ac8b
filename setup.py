"""The compiled part of the package; everything else stands in setup.cfg."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "hpc_galaxy.bricks._rice",
            ["hpc_galaxy/bricks/_rice.c"],
            # Contraction of multiply-add would change the last bit of pixels.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            optional=True,  # without a C compiler fitsio reads the coadds, slower
        )
    ]
)
