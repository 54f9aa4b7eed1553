"""jaxnet/data/_images.py and sampler.py"""

import numpy as np
import pytest

from jaxnet import data
from jaxnet.random import Generator


def test_to_tensor_moves_channels_and_scales():
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    out = data.to_tensor(images)
    assert out.shape == (1, 3, 2, 4)
    assert out.dtype == np.float32
    assert out[0, 1, 0, 2] == np.float32(images[0, 0, 2, 1]) / np.float32(255)
    with pytest.raises(ValueError, match="float32 of shape"):
        data.to_tensor(out)


def test_normalize_works_by_channel():
    x = np.ones((2, 3, 4, 4), np.float32)
    out = data.normalize(x, (0, 1, 2), (1, 2, 4))
    np.testing.assert_allclose(out[0, :, 0, 0], [1, 0, -0.25])
    assert out.dtype == np.float32
    with pytest.raises(ValueError, match="2 and 2 numbers for images of 3 channels"):
        data.normalize(x, (0, 1), (1, 2))


def test_epoch_order_is_a_permutation_that_moves_on():
    generator = Generator(0)
    first, second = data.epoch_order(50, generator), data.epoch_order(50, generator)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


@pytest.mark.torch
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_epoch_order_is_the_data_loaders(seed):
    import torch

    torch.manual_seed(seed)
    generator = Generator(seed)
    shuffled = torch.utils.data.DataLoader(torch.arange(37), batch_size=8, shuffle=True)
    plain = torch.utils.data.DataLoader(torch.arange(5), batch_size=8)
    for _ in range(3):
        theirs = torch.cat(list(shuffled)).numpy()
        np.testing.assert_array_equal(data.epoch_order(37, generator), theirs)
        list(plain)
        data.epoch_order(5, generator, shuffle=False)
