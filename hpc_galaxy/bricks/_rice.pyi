import numpy as np

def decode(
    heap: np.ndarray,
    plane: np.ndarray,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    tile: tuple[int, int],
    block: int,
    method: int,
    seed: int,
) -> tuple[int, str] | None: ...
