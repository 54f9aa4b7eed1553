"""torch.optim's update rules as optax transformations."""

from jaxnet.optim.adam import Adam, AdamState
from jaxnet.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamState"]
