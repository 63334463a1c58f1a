"""Where documents begin and end inside a training sample: cu_seqlens, positions and loss mask. The work is done in C++.

A sample is sequence_length + 1 consecutive tokens of the documents in shuffled order, cut as megatron-core's GPTDataset
does (_query_document_sample_shuffle_indices and build_sample_idx): consecutive samples share one token, offsets are
inclusive. Source: csrc/document_boundaries.cpp, built by setup.py as megatron_bielik._document_boundaries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

try:
    from megatron_bielik import _document_boundaries as _native
except ImportError as error:  # a source tree that was never built, or built for another Python
    raise ImportError(
        "megatron_bielik._document_boundaries is not built for this Python; run `pip install -e .` in the repository"
    ) from error


def sample_cu_seqlens(
    document_index: npt.NDArray[np.int32] | npt.NDArray[np.int64],
    sequence_lengths: npt.NDArray[np.int32],
    begin: int,
    begin_offset: int,
    end: int,
    end_offset: int,
    sequence_length: int,
) -> npt.NDArray[np.int32]:
    """Cumulative document lengths over the first sequence_length tokens of a sample.

    Args:
        document_index: int32 or int64 [positions], C-contiguous; the document at each place of the shuffled order.
        sequence_lengths: int32 [documents], C-contiguous; tokens of each document.
        begin: Position in document_index of the sample's first token (sample_index[i, 0]).
        begin_offset: Offset of that token in its document (sample_index[i, 1]).
        end: Position of the sample's last token, the label of token sequence_length - 1 (sample_index[i + 1, 0]).
        end_offset: Offset of that token in its document, inclusive (sample_index[i + 1, 1]).
        sequence_length: Tokens the model reads; the sample has one more.

    Returns:
        int32 [documents in the sample + 1]: 0, ..., sequence_length. Empty documents add no entry. If the documents give
        fewer tokens (the partial sample at the end of a data set), the padding is one more document.

    Raises:
        ValueError: Positions or offsets outside the arrays.
        TypeError: Another dtype or a non-contiguous array; it would have to be copied for every sample.
    """
    return _native.cu_seqlens(
        document_index, sequence_lengths, int(begin), int(begin_offset), int(end), int(end_offset), int(sequence_length)
    )


def positions(cu_seqlens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Position of each token in its document: int32 [cu_seqlens[-1]], 0 again at every boundary.

    Raises:
        ValueError: cu_seqlens does not begin with 0 or falls.
    """
    return _native.positions(cu_seqlens)


def loss_mask(cu_seqlens: npt.NDArray[np.int32], last_label_crosses: bool) -> npt.NDArray[np.float32]:
    """1 where a token's label belongs to the same document, 0 at the last token of each: float32 [cu_seqlens[-1]].

    Args:
        cu_seqlens: int32 [documents + 1].
        last_label_crosses: The label of the sample's last token, which lies outside cu_seqlens, begins another document.
            For sample_cu_seqlens's arguments that is `end > begin and end_offset == 0`.

    Raises:
        ValueError: cu_seqlens does not begin with 0 or falls.
    """
    return _native.loss_mask(cu_seqlens, bool(last_label_crosses))
