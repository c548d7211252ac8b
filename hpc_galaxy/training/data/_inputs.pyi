import numpy as np

def see(
    stamps: np.ndarray,
    moves: np.ndarray,
    sources: np.ndarray,
    factors: np.ndarray,
    out: np.ndarray,
    finite: np.ndarray,
    size: int,
    channels: int,
    curved: bool,
) -> None: ...
