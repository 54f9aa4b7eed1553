"""The PyTorch training workflow, rebuilt functionally on JAX.

Import the parts by name: `from jaxnet import nn, optim, losses, train, data`.
"""

import jax as _jax

from jaxnet.precision import set_float32_matmul_precision as _set_float32_matmul_precision

__version__ = "0.1.0"

# Torch's choice. Who has made one for JAX keeps it.
if _jax.config.values["jax_default_matmul_precision"] is None:
    _set_float32_matmul_precision("highest")
