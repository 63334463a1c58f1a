"""Types of csrc/packing.cpp."""

import numpy as np
import numpy.typing as npt

def pack(
    lengths: npt.NDArray[np.int32] | npt.NDArray[np.int64], capacity: int, split: str, wide: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32] | npt.NDArray[np.int64], npt.NDArray[np.int64] | None, int]: ...
