"""Layers in C for the CPU, compiled where they run.

XLA's own convolutions reach a third to a half of what PyTorch's vendor library does on
a CPU, and it goes over the images many times for a norm or a pool; its loop over time
steps costs more than the steps. As torch.compile does, jaxnet compiles its kernels with the
system's C compiler, once a machine: `cc`, or what the variable CC names. The library lies in
the user's cache. Where there is no compiler the plain XLA forms run, and a log line says so
once. The environment variable JAXNET_KERNELS=off switches them off for a whole process,
`jaxnet.backend.arithmetic_form` for a part of a program.

Images are (N, C, H, W) and lie with the batch innermost, which the calls tell XLA. The
functions here have no derivatives: `jaxnet.nn` gives them (`jaxnet.backend.Operation`).
"""

from jaxnet._kernels.batchnorm import batch_norm, batch_norm_gradient
from jaxnet._kernels.build import available, load
from jaxnet._kernels.conv2d import correlate2d, correlate2d_gradient
from jaxnet._kernels.few_rows import MOST_ROWS, few_rows
from jaxnet._kernels.pool2d import max_pool2d_pick, max_pool2d_spread
from jaxnet._kernels.recurrent import kept_shapes, recurrent, recurrent_gradient

__all__ = [
    "MOST_ROWS",
    "available",
    "batch_norm",
    "batch_norm_gradient",
    "correlate2d",
    "correlate2d_gradient",
    "few_rows",
    "kept_shapes",
    "load",
    "max_pool2d_pick",
    "max_pool2d_spread",
    "recurrent",
    "recurrent_gradient",
]
