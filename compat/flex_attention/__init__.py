"""`torch.nn.attention.flex_attention` with Tilewright's kernels: the same names, arguments and results.

What only describes (AuxRequest, FlexKernelOptions) or only combines (and_masks, or_masks, noop_mask, create_mask) is
PyTorch's own. Block masks are symbolic: they keep the mask_mod, and kernels skip what it leaves empty.
"""

from torch.nn.attention.flex_attention import (
    AuxOutput,
    AuxRequest,
    FlexKernelOptions,
    and_masks,
    create_mask,
    noop_mask,
    or_masks,
)

from .arguments import ARGUMENTS
from .block_mask import BlockMask, create_block_mask, create_nested_block_mask
from .call import flex_attention

__all__ = [
    "ARGUMENTS", "AuxOutput", "AuxRequest", "BlockMask", "FlexKernelOptions", "and_masks", "create_block_mask",
    "create_mask", "create_nested_block_mask", "flex_attention", "noop_mask", "or_masks",
]  # fmt: skip
