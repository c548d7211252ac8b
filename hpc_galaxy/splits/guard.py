"""The guard between bricks on different sides: coadds of neighbouring bricks show the same strip of sky."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.geometry import chord, unit_vectors
from hpc_galaxy.splits.groups import placed

BOX_DTYPE = np.dtype([("centre", "<f8", 3), ("low", "<f8", 2), ("high", "<f8", 2), ("radius", "<f8"), ("side", "i1")])
"""A rectangle around the sources of one file, on the plane that touches the sphere at `centre`: axes (east, north), radians."""


def box_around(table: np.ndarray, side: int) -> np.ndarray:
    """Return the box around sources with positions, shape (1,), `BOX_DTYPE`; shape (0,) where there are none."""
    points = unit_vectors(table["ra"], table["dec"])[placed(table)]
    box = np.zeros(min(1, len(points)), BOX_DTYPE)
    if len(box):
        centre = points.mean(axis=0)
        box["centre"], box["side"] = centre / np.linalg.norm(centre), side
        flat = on_plane(points, box["centre"][0])
        box["low"], box["high"] = flat.min(axis=0), flat.max(axis=0)
        box["radius"] = np.abs(np.stack([box["low"], box["high"]])).max(axis=0).sum()
    return box


def on_plane(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the gnomonic projection (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3) of unit vectors.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        Within a degree or so of `centre`.
    centre : ndarray, shape (3,)
        Where the plane touches the sphere.

    Returns
    -------
    ndarray, shape (N, 2)
        Axes (east, north), radians.
    """
    east = np.cross([0.0, 0.0, 1.0], centre)
    length = np.linalg.norm(east)
    east = east / length if length > 1e-12 else np.array([0.0, 1.0, 0.0])
    axes = np.stack([east, np.cross(centre, east)], axis=-1)
    return np.asarray(points @ axes / (points @ centre)[:, None])


class Guard:
    """Knows the boxes of all files, and which sources come too near to them.

    Parameters
    ----------
    boxes : ndarray, shape (M,), `BOX_DTYPE`
        Of all files of the survey.
    arcsec : float
        Distance to be kept between the centres of stamps of different splits.
    """

    def __init__(self, boxes: np.ndarray, arcsec: float) -> None:
        self._boxes = boxes
        self._margin = np.radians(arcsec / 3600) * 1.001  # the plane's stretching is less, within a degree of its centre
        self._tree = cKDTree(boxes["centre"]) if len(boxes) else None
        self._reach = boxes["radius"].max(initial=0)

    def too_near(self, table: np.ndarray, side: int) -> np.ndarray:
        """Return which sources of one file on `side` could share a pixel with an earlier split, shape (N,), bool.

        Valid keeps away from train, test from both. Sources without a position stay.
        """
        near, known = np.zeros(len(table), bool), placed(table)
        own = box_around(table, side)
        if side == 0 or self._tree is None or not len(own):
            return near
        points = unit_vectors(table["ra"], table["dec"])[known]
        distance = float(own["radius"][0] + self._reach + self._margin)
        for number in self._tree.query_ball_point(own["centre"][0], chord(np.degrees(distance) * 3600)):
            if self._boxes["side"][number] < side:
                near[known] |= self._inside(points, self._boxes[number])
        return near

    def _inside(self, points: np.ndarray, box: np.void) -> np.ndarray:
        flat = on_plane(points, box["centre"])
        outside = np.maximum(np.maximum(box["low"] - flat, flat - box["high"]), 0)
        return np.asarray(np.hypot(*outside.T) <= self._margin)
