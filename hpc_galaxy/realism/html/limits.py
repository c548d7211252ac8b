"""What such a test cannot say, in any run."""

from __future__ import annotations

LIMITS = (
    (
        "Galaxies are injected into coadds, not into exposures.",
        "A coadd is made of resampled exposures. The light and the photon noise of a fake are added after that, so its noise is "
        "independent from pixel to pixel, while that of a real galaxy is correlated by the resampling kernel (Lanczos). Its PSF is "
        "one model of the coadd's, not a mixture of those of the exposures, each with its own weight and mask.",
    ),
    (
        "Fakes are not detected again.",
        "Unless the injected coadds were run through the survey's own detection and fitting, the catalog of the fakes is what such a "
        "catalog would say, and the selection acts on that.",
    ),
    (
        "The answer holds for this sample.",
        "Other magnitudes, other seeing, another selection, or a larger test set may give another answer. Within the margin is not the "
        "same as equal: differences that are smaller than the margin may be there.",
    ),
    (
        "The network may be too weak.",
        "Another network, or more training galaxies, may find what this one does not. From some thousand galaxies a network learns less of "
        "profiles and noise than classifiers that are told what to measure; these are asked as well, and have a say in the verdict. The "
        "positive controls say how small a defect is found with this many galaxies; without them an AUC of one half is no evidence.",
    ),
    (
        "Where and why are correlations.",
        "Galaxies of one bin differ in other quantities too, and a change of one injection parameter is predicted from the scatter within "
        "the sample. What a change does is known when galaxies have been injected with it and the network has been trained again.",
    ),
    (
        "The interval is about galaxies and bricks.",
        "It says how the AUC of these networks would scatter over other test bricks. Networks that start from another seed scatter as "
        "well; train several to see by how much.",
    ),
)
