"""Settings of the tests of parity.

The PyTorch networks import torch at their top, so no doctests are looked for in them.
"""

from collections.abc import Iterator

import jax
import pytest

collect_ignore_glob = ["*_torch.py"]


@pytest.fixture
def usual_settings() -> Iterator[None]:
    """flax and optax do not run under the strictness of these tests, as a user's would not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
