"""Layers in C for the CPU, compiled on the machine that they run on.

On a CPU XLA's own convolutions reach a third to a half of the speed of PyTorch's vendor
library, its norms and pools read the images many times, and its loop over time steps costs
more than the steps. So jaxnet, like torch.compile, compiles its kernels with the system's C
compiler, once on each machine: `cc`, or the compiler that the variable CC names. The library
is stored in the user's cache folder. Without a compiler the layers run in plain XLA, and one
log line says so. The environment variable JAXNET_KERNELS=off switches the kernels off for a
whole process, and `jaxnet.backend.arithmetic_form` for a part of a program.

Images have the shape (N, C, H, W) and are stored with the batch as innermost axis; the calls
ask XLA for this layout. The functions here have no derivatives. These are given in
`jaxnet.nn` (`jaxnet.backend.Operation`).
"""

from jaxnet._kernels.batchnorm import batch_norm, batch_norm_gradient
from jaxnet._kernels.build import available, load
from jaxnet._kernels.conv2d import (
    MOST_SPAN,
    MOST_STRIDE,
    Steps,
    correlate2d,
    correlate2d_gradient,
    spread2d,
)
from jaxnet._kernels.few_rows import MOST_ROWS, few_rows
from jaxnet._kernels.groupnorm import group_norm, group_norm_gradient
from jaxnet._kernels.pool2d import max_pool2d_pick, max_pool2d_spread
from jaxnet._kernels.recurrent import kept_shapes, recurrent, recurrent_gradient

__all__ = [
    "MOST_ROWS",
    "MOST_SPAN",
    "MOST_STRIDE",
    "Steps",
    "available",
    "batch_norm",
    "batch_norm_gradient",
    "correlate2d",
    "correlate2d_gradient",
    "few_rows",
    "group_norm",
    "group_norm_gradient",
    "kept_shapes",
    "load",
    "max_pool2d_pick",
    "max_pool2d_spread",
    "recurrent",
    "recurrent_gradient",
    "spread2d",
]
