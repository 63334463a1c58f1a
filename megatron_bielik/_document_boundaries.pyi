"""Types of csrc/document_boundaries.cpp."""

import numpy as np
import numpy.typing as npt

def cu_seqlens(
    document_index: npt.NDArray[np.int32] | npt.NDArray[np.int64],
    sequence_lengths: npt.NDArray[np.int32],
    begin: int,
    begin_offset: int,
    end: int,
    end_offset: int,
    sequence_length: int,
) -> npt.NDArray[np.int32]: ...
def positions(cu_seqlens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]: ...
def loss_mask(cu_seqlens: npt.NDArray[np.int32], last_label_crosses: bool) -> npt.NDArray[np.float32]: ...
