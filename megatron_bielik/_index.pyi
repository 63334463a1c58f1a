"""Types of csrc/index.cpp."""

import numpy as np
import numpy.typing as npt

_U32 = npt.NDArray[np.uint32]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_F64 = npt.NDArray[np.float64]

def shuffle(data: _I32 | _U32 | _I64, words: _U32, given: int) -> int: ...
def draw(largest: int, count: int, words: _U32, given: int) -> tuple[npt.NDArray[np.uint64], int]: ...
def sample_rows(
    document_index: _I32 | _I64,
    sequence_lengths: _I32,
    sequence_length: int,
    extra: int,
    row: int,
    position: int,
    before: int,
    out: _I32 | _I64,
    threads: int,
) -> tuple[int, int, int]: ...
def blend(
    weights: _F64,
    limits: _F64,
    dataset_index: npt.NDArray[np.int16] | _I32,
    sample_index: _I64,
    threads: int,
    wide: bool,
) -> None: ...
