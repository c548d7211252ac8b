"""Contents of ``report.json`` in its short and its full form, and what the pictures in its folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from hpc_galaxy.config import Realism
from hpc_galaxy.realism.statistics import summarise
from hpc_galaxy.realism.where import describe, holm

HOSTILE = 'rs0-<script>alert("7")</script>&\'-1211p060-3'
PICTURES = ["roc.png", "scores.png", "where.png", "mosaic_p99.png", "mosaic_p50.png"]


def make_scores(size: int = 592, bricks: int = 24, shift: float = 0.0, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and bricks of a test split; fakes score higher by `shift`."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], size // 2).astype(np.uint8)
    scores = rng.normal(size=size) + shift * labels
    names = np.array([f"{1200 + number:04d}p060" for number in rng.integers(0, bricks, size)], "S8")
    return labels, np.stack([-scores / 4, scores / 4], axis=1), names


def short(shift: float = 0.0, leaks: tuple[str, ...] = (), margin: float = 0.0) -> dict[str, Any]:
    """Without controls and replication, and of one network."""
    labels, logits, bricks = make_scores(shift=shift)
    numbers = summarise(labels, logits, bricks, Realism(bootstrap=50, permutations=500, margin=margin), 3, leaks)
    return {
        **numbers,
        "networks": [{"seed": 3, "epoch": 2} | each for each in numbers["networks"]],
        "bins": make_bins(shift),
        "baselines": [
            {"name": name, "examples": 592, "auc": auc, "interval": [auc - 0.04, auc + 0.041], "p_value": p}
            for name, auc, p in (("catalog", 0.4912, 0.71), ("centroid", 0.5077, 0.344), ("linear on pixels", 0.5243, 0.1234))
        ],
        "provenance": {
            "code_version": "0.1.0",
            "seed": 3,
            "configuration": "2bdb25c1cdcc2be8",
            "training": "97d1a0f1e2c3b4a5",
            "shards": "65d0aa12bb34cc56",
            "checkpoint_epoch": 2,
            "ranks": 2,
            "versions": {"torch": "2.13.0+cpu", "numpy": "2.3.4"},
            "deterministic": True,
        },
        "pictures": list(PICTURES),
    }


def make_bins(shift: float) -> list[dict[str, Any]]:
    """Four bins of two quantities; with a shift the bright ones are told apart."""
    rows = []
    for quantity, edges in (("g (mag)", (20.71, 22.4, 23.0, 23.4, 23.9)), ("half-light radius (arcsec)", (0.2, 0.4, 0.6, 0.9, 1.7))):
        for number in range(4):
            auc = round(0.5 + shift * 0.2 / (1 + number) + 0.004 * (number - 1.5), 4)
            rows.append((quantity, edges[number], edges[number + 1], 148, auc, [auc - 0.08, auc + 0.079], 0.0005 if auc > 0.6 else 0.3721))
    adjusted = holm([row[-1] for row in rows])
    names = ("quantity", "low", "high", "examples", "auc", "interval", "p_value")
    return [dict(zip(names, row, strict=True)) | {"adjusted": value} for row, value in zip(rows, adjusted, strict=True)]


def arm(name: str, kind: str, auc: float, found: bool, purpose: str, **more: Any) -> dict[str, Any]:
    """A run of controls, or of the replication."""
    verdict = {"kind": "told apart" if found else "undecided", "margin": 0.06, "sentence": f"AUC {auc:.3f}"}
    low, high = auc - min(0.04, (1 - auc) / 2), auc + min(0.04, (1 - auc) / 2)
    plain = {"defect": None, "strength": None, "unit": "", "expected": "found" if kind in ("positive", "2018") else "0.5", "leaks": []}
    numbers = {"examples": 580, "bricks": 24, "auc": auc, "auc_interval": [low, high], "p_value": 0.0005 if found else 0.4123}
    rest = {
        "verdict": verdict,
        "as_expected": True,
        "found": found,
        "report": f"controls/{name}/report/report.html",
        "command": f"hpc-galaxy train -c {name}.toml",
    }
    return {"name": name, "kind": kind, "purpose": purpose, **plain, **numbers, **rest, **more}


def make_controls() -> dict[str, Any]:
    """Negative and positive controls, two rungs of the ladder, and a band ablation."""
    arms = [
        arm("real-real", "negative", 0.503, False, "half of the real galaxies are called fake"),
        arm("shuffled", "negative", 0.489, False, "labels are shuffled within each brick"),
        arm(
            "sky",
            "negative",
            0.5612,
            True,
            "empty sky at injected and at random places",
            as_expected=False,
            leaks=["the audit failed: zeros"],
        ),
    ]
    for defect, unit, rows in (
        ("centroid", "px", ((0.1, 0.512, False), (0.25, 0.61, True), (0.5, 0.83, True))),
        ("psf", "", ((0.02, 0.5, False), (0.05, 0.531, False), (0.1, 0.5432, False))),
        ("flux", "", ((0.05, 0.51, False), (0.2, 0.64, True))),
    ):
        for strength, auc, found in rows:
            more = {"defect": defect, "strength": strength, "unit": unit}
            arms.append(arm(f"{defect}-{strength:g}", "positive", auc, found, f"fakes have the defect {defect}", **more))
    arms[8] |= {"simpler": {"name": "light profile", "examples": 580, "auc": 0.6123, "interval": [0.57, 0.65], "p_value": 0.0005}}
    arms.append(arm("resnet", "ladder", 0.52, False, "a residual network of 20 layers"))
    arms += [arm(f"only-{band}", "bands", 0.505, False, f"the network sees {band} alone") for band in "grz"]
    said = "the network finds a centroid that is off by 0.25 px, not by 0.1 px"
    thresholds = [
        {
            "defect": "centroid",
            "unit": "px",
            "tried": [0.1, 0.25, 0.5],
            "first_detected": 0.25,
            "first_simpler": None,
            "simpler": None,
            "sentence": said,
        },
        {"defect": "psf", "unit": "", "tried": [0.02, 0.05, 0.1], "first_detected": None, "sentence": "not found, up to 0.1"}
        | {"first_simpler": 0.1, "simpler": "light profile", "first_audited": None},
        {"defect": "flux", "unit": "", "tried": [0.05, 0.2], "first_detected": 0.2, "sentence": "found from 0.2"},
    ]
    return {"arms": arms, "thresholds": thresholds}


def make_replicate() -> dict[str, Any]:
    """The survey as in 2018: honest, with each defect, with all."""
    rows = (
        ("honest", 0.504, False, "this pipeline"),
        ("one_pixel", 0.9312, True, "fakes lie one pixel off"),
        ("stars", 0.71, True, "stars among the real galaxies"),
        ("all of 2018", 0.9874, True, "everything together"),
    )
    arms = [arm(name, "2018", auc, found, why, expected="found" if found else "0.5") for name, auc, found, why in rows]
    return {"arms": arms}


def make_why() -> dict[str, Any]:
    """All four parts."""
    stacks = [
        {
            "part": part,
            "band": band,
            "reals": 296,
            "fakes": 296,
            "largest_sigma": 3.217,
            "central_difference": -0.00123,
            "central_error": 0.0021,
            "chi2_per_pixel": 1.0312,
        }
        for part in ("all", "bright half", "faint half")
        for band in "grz"
    ]
    sensitivity = {"parameter": "rhalf", "unit": "arcsec", "scatter": 0.311, "slope": 0.1043, "error": 0.0312, "p_value": 0.00087}
    sensitivity |= {"adjusted": 0.0061, "auc_if_changed": 0.487, "change": "-0.5 scatter"}
    best = [
        {"id": HOSTILE, "brick": "1211p060", "score": 0.7312, "mag": 21.337},
        {"id": "rs0-1212p060-8", "brick": "1212p060", "score": 0.71, "mag": None},
    ]
    return {
        "stacks": {"picture": "stacks.png", "rows": stacks},
        "occlusion": {
            "picture": "occlusion.png",
            "galaxies": 64,
            "patch_pixels": 8,
            "rows": [{"channel": f"image_{band}", "within_2_arcsec": -0.1312, "outside": 0.0021} for band in "grz"],
        },
        "galleries": {"pictures": ["most_fake.png", "most_fooled.png"], "most_fake": best, "most_fooled": best[1:]},
        "sensitivity": {
            "rows": [sensitivity, sensitivity | {"parameter": "n", "unit": "", "slope": -0.01, "adjusted": 1.0}],
            "auc": 0.514,
            "sentence": "half a scatter less rhalf would lower the AUC most, from 0.514 to 0.487",
            "limits": "this is correlation within the sample, not another injection",
        },
    }


def full(shift: float = 0.0) -> dict[str, Any]:
    """With everything that can be there."""
    content = short(shift)
    found = describe(make_found(content), "g (mag)")
    networks = [{"seed": 3 + number, "epoch": 2, "auc": 0.51 + number / 300, "auc_interval": [0.46, 0.561]} for number in range(3)]
    checks = [
        {
            "name": "shared pixels",
            "result": "pass",
            "found": "0 stamps within 23.7 arcsec of one in another split, nearest 31.2",
            "advice": "",
            "numbers": {},
        },
        {
            "name": "centroid x",
            "result": "warn",
            "found": "difference +0.041 +- 0.013 px (3.1 sigma)",
            "advice": "count pixels from 0",
            "numbers": {},
        },
        {"name": "duplicate ids", "result": "pass", "found": "0 ids occur more than once", "advice": "", "numbers": {}},
    ]
    matching = {
        "columns": [{"column": "mag_g", "before": -0.4193, "after": 0.0212}, {"column": "shape_r", "before": None, "after": None}],
        "tabular": {
            "before": {"auc": 0.6123, "interval": [0.58, 0.64], "reason": ""},
            "after": {"auc": 0.4981, "interval": [0.45, 0.54], "reason": ""},
        },
        **{"pairs": 2638, "real": 5120, "fake": 3417, "caliper": 0.2, "problems": []},
    }
    split = {"examples": 592, "groups": 24, "share": 0.3, "asked": 0.3, "real": 296, "fake": 296}
    splits = {"groups": {"kind": "brick", "guard_arcsec": 0.0, "count": 80}, "dropped": {"overlap": 12, "repeat": 0, "match": 2790}}
    more = {
        "networks": networks,
        "networks_scatter": 0.0033,
        "audit": {"path": "shards/audit.json", "checks": checks},
        "stamps": {"size": 64, "channels": ["image_g", "image_r", "image_z", "invvar_g", "invvar_r", "invvar_z"]},
        "splits": splits | {"train": split | {"examples": 2638, "groups": 48, "real": 1319, "fake": 1319}, "valid": split, "test": split},
        "matching": matching,
        "sample": {
            "real": {"catalog": 9211, "not_star": -812, "kept": 8399},
            "fake": {"injected": 8000, "not_detected": -611, "kept": 7389},
        },
        "why": make_why(),
        "controls": make_controls(),
        "replicate": make_replicate(),
        "commands": ["hpc-galaxy survey -c run.toml", "hpc-galaxy realism -c run.toml"],
        "checksums": {"run/weights.safetensors": "0123456789abcdef" * 4, "report/scores.csv": "fedcba9876543210" * 4},
        "limits": [f"fakes differ {found or 'nowhere'} in this sample of 592"],
    }
    return content | more


def make_found(content: dict[str, Any]) -> list[Any]:
    """The bins as they were before they were stored."""
    from hpc_galaxy.realism.where import Bin

    return [Bin(**{**each, "interval": tuple(each["interval"])}) for each in content["bins"]]


def draw_pictures(content: dict[str, Any], folder: Path) -> None:
    """Draw a small picture under each name that the content has."""
    why = content.get("why") or {}
    named = [*content["pictures"], *((why.get("galleries") or {}).get("pictures") or [])]
    named += [why[part]["picture"] for part in ("stacks", "occlusion") if why.get(part)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(named):
        imsave(folder / name, np.full((90, 160), number / len(named)), vmin=0, vmax=1, cmap="Blues")
