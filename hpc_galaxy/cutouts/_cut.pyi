import numpy as np

def cut(
    planes: tuple[np.ndarray, ...],
    shape: tuple[int, ...],
    clamped: bytes,
    corners: np.ndarray,
    size: int,
    stamps: np.ndarray,
    bad: np.ndarray,
) -> None: ...
