"""jaxnet/data/transforms.py"""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, losses, nn, optim, train
from jaxnet.data.transforms import (
    ColorJitter,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    ToTensor,
)
from jaxnet.data.transforms._color import turned
from jaxnet.random import Generator

KEY = jax.random.key(3)
BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
IMAGES = data.to_tensor(BYTES)


def test_to_tensor_and_normalize_are_the_hosts_to_the_bit():
    """XLA alone would multiply by 1/255."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    values = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 1, 1, 3))
    whole = Compose([ToTensor(), Normalize(mean, std)])
    for run in (whole, jax.jit(whole)):
        expected = data.normalize(data.to_tensor(values), mean, std)
        np.testing.assert_array_equal(run(KEY, values), expected)
    scale = Normalize([0, 0, 0], list(std))  # nothing between the two divisions
    expected = data.normalize(data.to_tensor(values), (0, 0, 0), std)
    for run in (Compose([ToTensor(), scale]), jax.jit(Compose([ToTensor(), scale]))):
        np.testing.assert_array_equal(run(KEY, values), expected)
    np.testing.assert_array_equal(jax.jit(scale)(KEY, data.to_tensor(values)), expected)
    for run in (ToTensor(), jax.jit(ToTensor())):
        np.testing.assert_array_equal(run(KEY, jnp.asarray(values)), data.to_tensor(values))


def test_crops_are_pieces_of_the_padded_images():
    out = np.asarray(jax.jit(RandomCrop((8, 10), padding=2))(KEY, IMAGES))
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = []
    for image, whole in zip(out, padded, strict=True):
        found = [
            (i, j) for i in range(5) for j in range(5)
            if np.array_equal(whole[:, i : i + 8, j : j + 10], image)
        ]  # fmt: skip
        places += found[:1]
    assert len(places) == len(out)
    assert len(set(places)) > 2  # each image has its own
    assert RandomCrop(4)(KEY, IMAGES).shape == (6, 3, 4, 4)
    four = jnp.arange(4.0).reshape(1, 1, 2, 2)
    pixels = jax.vmap(lambda key: RandomCrop(1)(key, four))(jax.random.split(KEY, 40))
    reached = set(pixels.ravel().tolist())
    assert reached == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("padding", "sides"),
    [(None, (0, 0, 0, 0)), ([1, 2], (1, 2, 1, 2)), ((1, 2, 3, 4), (1, 2, 3, 4))],
)
def test_padding_of_each_side(padding, sides):
    left, top, right, bottom = sides
    whole = RandomCrop((8 + top + bottom, 10 + left + right), padding=padding)
    expected = np.pad(IMAGES, ((0, 0), (0, 0), (top, bottom), (left, right)))
    np.testing.assert_array_equal(jax.jit(whole)(KEY, IMAGES), expected)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_padding_modes(mode):
    out = np.asarray(RandomCrop((8, 10), padding=3, padding_mode=mode)(KEY, IMAGES[:1]))
    padded = np.pad(IMAGES[:1], ((0, 0), (0, 0), (3, 3), (3, 3)), mode=mode)
    assert any(
        np.array_equal(padded[:, :, i : i + 8, j : j + 10], out) for i in range(7) for j in range(7)
    )


def test_flips_half_of_the_images():
    images = jnp.asarray(np.random.default_rng(1).random((400, 1, 2, 3), np.float32))
    out = np.asarray(RandomHorizontalFlip()(KEY, images))
    flipped = (out == np.asarray(images)[..., ::-1]).all(axis=(1, 2, 3))
    same = (out == np.asarray(images)).all(axis=(1, 2, 3))
    assert (flipped ^ same).all()
    assert 150 < flipped.sum() < 250
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(KEY, images), images[..., ::-1])
    np.testing.assert_array_equal(RandomHorizontalFlip(0.0)(KEY, images), images)
    np.testing.assert_array_equal(RandomHorizontalFlip(1.0)(KEY, images), images[..., ::-1])


def test_cutout_leaves_a_hole():
    out = np.asarray(jax.jit(Cutout(3, fill=-1.0))(KEY, jnp.ones((50, 2, 8, 8))))
    holes = (out == -1).sum(axis=(2, 3))
    assert (holes[:, 0] == holes[:, 1]).all()  # the same in every channel
    assert holes.max() == 9
    assert holes.min() >= 4  # cut off at a corner
    assert len({tuple(np.argwhere(image[0] == -1)[0]) for image in out}) > 10


def test_hue_turns_as_colorsys_does():
    out = np.asarray(turned(jnp.asarray(IMAGES), jnp.full((6, 1, 1, 1), 0.2)))
    pixels = IMAGES.transpose(0, 2, 3, 1).reshape(-1, 3).astype(float)
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels]
    expected = [colorsys.hsv_to_rgb((h + 0.2) % 1, s, v) for h, s, v in hsv]
    np.testing.assert_allclose(out.transpose(0, 2, 3, 1).reshape(-1, 3), expected, atol=2e-6)
    grey = jnp.full((1, 3, 2, 2), 0.5)
    np.testing.assert_array_equal(turned(grey, jnp.full((1, 1, 1, 1), 0.3)), grey)


def test_color_jitter_alone_in_each_of_its_parts():
    x = jnp.asarray(IMAGES)
    dark = ColorJitter(brightness=(0.5, 0.5))(KEY, x)
    np.testing.assert_allclose(dark, 0.5 * IMAGES, atol=1e-6)
    weights = np.array([0.2989, 0.587, 0.114], np.float32)[None, :, None, None]
    grey = (IMAGES * weights).sum(axis=1, keepdims=True)
    flat = ColorJitter(contrast=(0.0, 0.0))(KEY, x)
    np.testing.assert_allclose(
        flat, np.broadcast_to(grey.mean(axis=(1, 2, 3), keepdims=True), x.shape), atol=1e-6
    )
    pale = ColorJitter(saturation=(0.0, 0.0))(KEY, x)
    np.testing.assert_allclose(pale, np.broadcast_to(grey, x.shape), atol=1e-6)
    np.testing.assert_array_equal(ColorJitter()(KEY, x), x)


def test_the_key_decides_compiled_or_not():
    plain = Compose([RandomCrop((8, 10), 2), RandomHorizontalFlip(), Cutout(2)])
    compiled = jax.jit(plain)
    once = plain(KEY, jnp.asarray(IMAGES))
    np.testing.assert_array_equal(compiled(KEY, IMAGES), once)
    assert not np.allclose(compiled(jax.random.key(4), IMAGES), once)

    jitter = jax.jit(ColorJitter(0.4, 0.4, 0.4, 0.1))
    once = jitter(KEY, IMAGES)
    np.testing.assert_array_equal(jitter(KEY, IMAGES), once)
    assert not np.allclose(jitter(jax.random.key(4), IMAGES), once)
    changes = np.asarray(once).mean(axis=(1, 2, 3)) / IMAGES.mean(axis=(1, 2, 3))
    assert len(set(np.round(changes, 3))) == len(IMAGES)  # each image has its own
    assert once.min() >= 0
    assert once.max() <= 1


def test_inside_the_compiled_step_every_step_draws_anew():
    augment = Compose([ToTensor(), RandomHorizontalFlip()])

    def loss(model, batch):
        images = augment(nn.next_key(), batch[0])
        left = images[..., 0].sum()
        return losses.cross_entropy(model(images.reshape(len(images), -1)), batch[1]), {
            "left": left
        }

    optimizer = optim.SGD(lr=0.0)
    state = train.create(nn.Linear(240, 2, rngs=Generator(0)), optimizer, 1)
    epoch = train.make_epoch(train.make_train_step(loss, optimizer), 6)
    rows = jnp.asarray(BYTES), jnp.zeros(6, jnp.int32)
    _, metrics = epoch(state, rows, jnp.tile(jnp.arange(6), 4))
    assert len(set(metrics["left"].tolist())) > 1


def test_numbers_of_normalize_in_whatever_they_are_given():
    grey = jnp.asarray(IMAGES[:, :1])
    expected = Normalize([0.5], [0.25])(KEY, grey)
    for mean, std in ((0.5, 0.25), (np.float32(0.5), np.array(0.25)), (jnp.array([0.5]), (0.25,))):
        normalize = Normalize(mean, std)
        for called in (normalize, jax.jit(normalize)):
            np.testing.assert_array_equal(called(KEY, grey), expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ToTensor()(KEY, jnp.asarray(IMAGES)), r"accepted is uint8 \(N, H, W, C\)"),
        (lambda: Normalize([0.5], [0.5])(KEY, jnp.asarray(IMAGES)), r"\(N, 1, H, W\)"),
        (lambda: Normalize([0.5], [0.0]), "holds a zero"),
        (lambda: Normalize([0.5], [0.5, 1]), "1 and 2 numbers"),
        (lambda: RandomCrop(0), "size: 0; .* at least 1"),
        (lambda: RandomCrop((8, 8, 3)), r"size: \(8, 8, 3\)"),
        (lambda: RandomCrop(8, padding=(1, 2, 3)), r"padding: \(1, 2, 3\)"),
        (lambda: RandomCrop(8, padding=-1), "padding: -1"),
        (lambda: ColorJitter(float("inf")), "brightness: inf"),
        (lambda: RandomCrop(9)(KEY, jnp.asarray(IMAGES)), r"size \(9, 9\) does not fit"),
        (lambda: RandomCrop(2, padding_mode="wrap"), "padding_mode: 'wrap'"),
        (lambda: RandomHorizontalFlip(1.5), "p: 1.5"),
        (lambda: RandomHorizontalFlip()(KEY, jnp.asarray(BYTES)), "as ToTensor gives it"),
        (lambda: Cutout(0), "size: 0"),
        (lambda: Cutout((2, 3)), r"size: \(2, 3\); accepted is a whole number"),
        (lambda: Cutout(2, fill=(0, 1, 2)), r"fill: \(0, 1, 2\); accepted is one number"),
        (lambda: RandomCrop(2, padding=1, fill=(7, 9)), r"fill: \(7, 9\); accepted is one number"),
        (lambda: ColorJitter(brightness=-0.1), "brightness: -0.1"),
        (lambda: ColorJitter(hue=0.6), "hue: 0.6"),
        (lambda: ColorJitter(contrast=(1.0, 0.5)), "contrast:"),
    ],
)
def test_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
