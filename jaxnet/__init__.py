"""The PyTorch training workflow, rebuilt functionally on JAX.

Import the parts by name: `from jaxnet import nn, optim, losses, train, data`.
"""

__version__ = "0.1.0"
