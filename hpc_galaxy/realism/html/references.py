"""The papers that the report names: short forms, links, and BibTeX to paste (``references.bib``)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

PACKAGE = "hpc_galaxy.realism.html"


@dataclass(frozen=True)
class Reference:
    """A paper.

    Attributes
    ----------
    short : str
        Authors and year.
    used_for : str
        What this report takes from it.
    link : str
        Where it is to be read; empty where there is no lasting address.
    """

    short: str
    used_for: str
    link: str = ""


ARXIV, DOI = "https://arxiv.org/abs/", "https://doi.org/"
REFERENCES = {
    "LopezPazOquab": Reference(
        "Lopez-Paz & Oquab 2017", "the test: a classifier on held-out examples of two samples", ARXIV + "1610.06545"
    ),
    "DeLong": Reference("DeLong et al. 1988", "the error of the AUC", DOI + "10.2307/2531595"),
    "Obuchowski": Reference("Obuchowski 1997", "the same for examples that come in groups, here bricks", DOI + "10.2307/2533958"),
    "PhipsonSmyth": Reference("Phipson & Smyth 2010", "the p-value of drawn permutations", DOI + "10.2202/1544-6115.1585"),
    "Schuirmann": Reference("Schuirmann 1987", "equivalence by two one-sided tests", DOI + "10.1007/BF01068419"),
    "Holm": Reference("Holm 1979", "p-values corrected for their number"),
    "Brier": Reference("Brier 1950", "the Brier score"),
    "Wilson": Reference("Wilson 1927", "the interval of a share", DOI + "10.1080/01621459.1927.10502953"),
    "Austin": Reference("Austin 2011", "matching by propensity score", DOI + "10.1080/00273171.2011.568786"),
    "HeInitialisation": Reference("He et al. 2015", "the networks' initial weights", ARXIV + "1502.01852"),
    "HeResidual": Reference("He et al. 2016", "the deeper, residual network", ARXIV + "1512.03385"),
    "ZeilerFergus": Reference("Zeiler & Fergus 2014", "occlusion", ARXIV + "1311.2901"),
    "Dey": Reference("Dey et al. 2019", "the Legacy Surveys", DOI + "10.3847/1538-3881/ab089d"),
    "Kong": Reference("Kong et al. 2020", "obiwan, which injects galaxies into these surveys", ARXIV + "2007.08992"),
    "Lanusse": Reference("Lanusse et al. 2021", "what smooth profiles lack", DOI + "10.1093/mnras/stab1214"),
    "Zanisi": Reference(
        "Zanisi et al. 2021", "small structure, where simulated galaxies differ from real ones", DOI + "10.1093/mnras/staa3864"
    ),
    "Rowe": Reference("Rowe et al. 2015", "GalSim, which draws the galaxies", DOI + "10.1016/j.ascom.2015.02.002"),
    "Paszke": Reference("Paszke et al. 2019", "PyTorch", ARXIV + "1912.01703"),
    "Sergeev": Reference("Sergeev & Del Balso 2018", "Horovod", ARXIV + "1802.05799"),
    "Pedregosa": Reference("Pedregosa et al. 2011", "scikit-learn, for the simpler classifiers"),
}


def bibtex() -> str:
    """Return the entries of all `REFERENCES`."""
    return resources.files(PACKAGE).joinpath("references.bib").read_text(encoding="utf-8")


def cite(key: str) -> Markup:
    """Return the short form of a paper, marked."""
    return Markup('<span class="cite" data-cite="{}">{}</span>').format(key, REFERENCES[key].short)


def cite_latex(*keys: str) -> Markup:
    r"""Return ``\citep{...}``.

    Raises
    ------
    KeyError
        There is no such paper.
    """
    for key in keys:
        REFERENCES[key]
    return Markup(r"\citep{{{}}}").format(",".join(keys))
