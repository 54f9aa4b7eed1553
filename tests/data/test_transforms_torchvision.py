"""jaxnet/data/transforms/: the pixels of torchvision, and the distributions of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.data import transforms
from jaxnet.data.transforms._automatic import NAMES, changed
from jaxnet.data.transforms._crops import resized_crop
from jaxnet.data.transforms._geometry import inverse_matrices, mapped
from jaxnet.random import Generator
from tests.golden.transforms import (
    AFFINE,
    BLURS,
    BOXES,
    CHANGES,
    CROPS,
    OUT,
    RESIZE,
    ROTATIONS,
    images,
)
from tests.table import golden_arrays

KEY = jax.random.key(7)
ONE = jnp.asarray(images(1))
ATOL = 2e-6  # of pixels in 0..1


def close(found, name):
    np.testing.assert_allclose(found, golden_arrays("transforms")[name], atol=ATOL, err_msg=name)


@pytest.mark.parametrize("name", RESIZE)
def test_resize(name):
    args, kwargs = RESIZE[name]
    close(jax.jit(transforms.Resize(*args, **kwargs))(KEY, ONE), f"resize {name}")


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_resized_crop(method):
    same = jnp.broadcast_to(ONE, (len(BOXES), *ONE.shape[1:]))
    found = resized_crop(same, jnp.asarray(BOXES), OUT, method, antialias=True)
    for i in range(len(BOXES)):
        close(found[i : i + 1], f"crop {method} {i}")


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_affine_maps(method):
    for i, (angle, shift, scale, shear, center) in enumerate(AFFINE):
        fixed = transforms.RandomAffine(
            (angle, angle), None, (scale, scale), (shear[0], shear[0], shear[1], shear[1]),
            method, 0.25, center,
        )  # fmt: skip
        if shift == (0, 0):
            close(fixed(KEY, ONE), f"affine {method} {i}")
            continue
        middle = (0.0, 0.0) if center is None else (center[0] - 7.0, center[1] - 5.5)
        given = [jnp.asarray([v], jnp.float32) for v in (angle, shift, scale, shear)]
        close(mapped(ONE, inverse_matrices(*given, middle), method, 0.25), f"affine {method} {i}")


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_rotations(method):
    for i, (angle, center) in enumerate(ROTATIONS):
        rotate = transforms.RandomRotation((angle, angle), method, center, fill=0.5)
        close(rotate(KEY, ONE), f"rotate {method} {i}")


def test_center_crop_and_blur():
    for i, size in enumerate(CROPS):
        close(transforms.CenterCrop(size)(KEY, ONE), f"center {i}")
    for i, (size, sigma) in enumerate(BLURS):
        close(transforms.GaussianBlur(size, sigma)(KEY, ONE), f"blur {i}")


def test_changes_of_the_policies():
    change = jnp.asarray([NAMES.index(name) for name, _ in CHANGES])
    magnitude = jnp.asarray([value for _, value in CHANGES], jnp.float32)
    batch = jnp.asarray(images(len(CHANGES), (20, 28)))
    found = jax.jit(lambda b: changed(b, change, magnitude, "nearest", 0.0))(batch)
    for i in range(len(CHANGES)):
        close(found[i : i + 1], f"change {i}")


@pytest.mark.parametrize("name", ["rand", "trivial"])
def test_magnitudes_of_the_policies(name):
    rand, trivial = transforms.RandAugment(), transforms.TrivialAugmentWide()
    table = rand.table(20, 28) if name == "rand" else trivial.table()
    theirs = [golden_arrays("transforms")[f"{name} {change}"] for change in NAMES]
    np.testing.assert_allclose(table, np.stack(theirs)[:, :-1], rtol=1e-6, atol=1e-6)
    signed = [change for change, row in zip(NAMES, theirs, strict=True) if row[-1]]
    assert signed == list(NAMES[1:10])


def test_parts_are_drawn_as_torchvision_says():
    crop = transforms.RandomResizedCrop(8, scale=(0.2, 0.6), ratio=(0.5, 2.0))
    top, left, height, width = np.asarray(crop.boxes(KEY, 4000, 60, 80)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 60).all()
    assert (left + width <= 80).all()
    area = height * width / 4800
    assert 0.19 < area.min() < 0.22
    assert 0.55 < area.max() < 0.62
    ratio = width / height
    assert 0.48 < ratio.min() < 0.55
    assert 1.8 < ratio.max() < 2.1
    # What is left of the image is shared evenly between both sides.
    share = top[height < 60] / (60 - height[height < 60])
    assert abs(share.mean() - 0.5) < 0.02
    # Nothing fits: the middle, of the ratio that is nearest.
    flat = transforms.RandomResizedCrop(8, scale=(0.9, 1.0), ratio=(1.0, 1.0))
    assert np.asarray(flat.boxes(KEY, 3, 10, 100)).tolist() == [[0, 45, 10, 10]] * 3


def test_erased_rectangles():
    ones = jnp.ones((2000, 3, 20, 30))
    out = np.asarray(jax.jit(transforms.RandomErasing(0.5, (0.1, 0.2), value=(0, 2, 3)))(KEY, ones))
    holes = out[:, 0] == 0
    erased = holes.any((1, 2))
    assert abs(erased.mean() - 0.5) < 0.05
    shares = holes[erased].mean((1, 2))
    assert 0.08 < shares.min() < 0.12
    assert 0.18 < shares.max() < 0.23
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert (rows * columns == holes.sum((1, 2))).all()  # a rectangle
    assert (out[:, 2][holes] == 3).all()
    noise = transforms.RandomErasing(1.0, value="random")(KEY, ones[:50])
    assert len(np.unique(noise)) > 1000


@pytest.mark.long
def test_mixed_batches_and_labels():
    batch = jnp.asarray(images(6)), jnp.arange(6)
    for transform in (transforms.MixUp(num_classes=6), transforms.CutMix(num_classes=6)):
        mixed, labels = jax.jit(transform)(KEY, batch)
        share = float(labels[0, 0])
        assert 0 < share < 1
        expected = share * np.eye(6) + (1 - share) * np.roll(np.eye(6), 1, 0)
        np.testing.assert_allclose(labels, expected, atol=1e-6)
        if isinstance(transform, transforms.MixUp):
            pixels = share * images(6) + (1 - share) * np.roll(images(6), 1, 0)
            np.testing.assert_allclose(mixed, pixels, atol=1e-6)
        else:
            kept = (np.asarray(mixed) == images(6)).all(1)
            assert (kept | (np.asarray(mixed) == np.roll(images(6), 1, 0)).all(1)).all()
            assert (kept == kept[:1]).all()
            np.testing.assert_allclose(kept[0].mean(), share, atol=1e-6)
        soft = jax.jit(transform)(KEY, (batch[0], jnp.eye(6)))[1]
        np.testing.assert_allclose(soft, labels, atol=1e-6)
    draw = jax.vmap(lambda k: transforms.MixUp(0.4, 6)(k, batch)[1][0, 0])
    shares = jax.jit(draw)(jax.random.split(KEY, 500))
    # Beta(0.4, 0.4) has the mean 1/2 and the variance 1 / (4 (2 * 0.4 + 1)).
    assert abs(float(shares.mean()) - 0.5) < 0.08
    assert abs(float(shares.var()) - 1 / 7.2) < 0.03


@pytest.mark.long
def test_each_image_has_its_own_numbers_and_the_key_decides():
    same = jnp.broadcast_to(ONE, (24, *ONE.shape[1:]))
    policies = (
        transforms.RandomVerticalFlip(),
        transforms.RandomResizedCrop(9),
        transforms.RandomAffine(30, (0.2, 0.2), (0.7, 1.4), 10),
        transforms.RandomRotation(45, "bilinear"),
        transforms.GaussianBlur(3),
        transforms.RandomErasing(1.0),
        transforms.RandAugment(),
        transforms.TrivialAugmentWide(),
    )

    @jax.jit
    def every(key):
        return [transform(key, same) for transform in policies]

    first, again, other = every(KEY), every(KEY), every(jax.random.key(8))
    for transform, out, out2, out3 in zip(policies, first, again, other, strict=True):
        np.testing.assert_array_equal(out, out2)
        assert not np.array_equal(out, out3), transform
        kinds = len(np.unique(np.asarray(out).reshape(24, -1), axis=0))
        assert kinds >= (2 if isinstance(transform, transforms.RandomVerticalFlip) else 8), (
            transform
        )
        assert np.isfinite(np.asarray(out)).all()


def test_a_step_trains_on_mixed_batches():
    mix = transforms.CutMix(num_classes=2)

    def loss(model, batch):
        x, y = mix(nn.next_key(), batch)
        return losses.cross_entropy(model(x.reshape(len(x), -1)), y), {"share": y[0, 0]}

    optimizer = optim.SGD(lr=0.1)
    model = nn.Linear(3 * 11 * 14, 2, rngs=Generator(0))
    state = train.create(model, optimizer, 1)
    step = jax.jit(train.make_train_step(loss, optimizer))
    batch = jnp.asarray(images(4)), jnp.asarray([0, 1, 0, 1])
    state, first = step(state, batch)
    _, second = step(state, batch)
    assert first["share"] != second["share"]


BYTES = jnp.zeros((2, 8, 8, 3), jnp.uint8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: transforms.Resize(0), "size: 0"),
        (lambda: transforms.Resize(8, "bicubic"), "interpolation: 'bicubic'; accepted are"),
        (lambda: transforms.Resize((8, 8), max_size=9), "max_size: 9"),
        (lambda: transforms.Resize(4)(KEY, BYTES), "as ToTensor gives it"),
        (lambda: transforms.RandomResizedCrop(8, scale=(0.0, 1)), r"scale: \(0.0, 1\); .* above"),
        (lambda: transforms.RandomResizedCrop(8, ratio=2.0), "ratio: 2.0"),
        (lambda: transforms.RandomVerticalFlip(2), "p: 2"),
        (lambda: transforms.RandomRotation(-5), "degrees: -5"),
        (lambda: transforms.RandomAffine((5, 1)), r"degrees: \(5, 1\)"),
        (lambda: transforms.RandomAffine(5, translate=(2, 0)), r"translate: \(2, 0\)"),
        (lambda: transforms.RandomAffine(5, scale=(-1, 1)), r"scale: \(-1, 1\)"),
        (lambda: transforms.RandomAffine(5, shear=(1, 2, 3)), "shear: "),
        (lambda: transforms.RandomErasing(value="noise"), "value: 'noise'"),
        (lambda: transforms.RandomErasing(value=(1, 2))(KEY, ONE), r"accepted are 1 or 3 numbers"),
        (lambda: transforms.GaussianBlur(4), "kernel_size: 4; accepted are odd"),
        (lambda: transforms.MixUp(0), "alpha: 0"),
        (lambda: transforms.MixUp()(KEY, (ONE, jnp.zeros(1, int))), "num_classes: None"),
        (lambda: transforms.CutMix(1.0, 2)(KEY, (ONE, jnp.zeros(1))), "labels: float32"),
        (lambda: transforms.RandAugment(magnitude=31), "magnitude: 31"),
        (lambda: transforms.RandAugment()(KEY, ONE[:, :1]), r"\(N, 3, H, W\)"),
    ],
)  # fmt: skip
def test_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_images_alone_are_refused():
    with pytest.raises(TypeError, match=r"MixUp: accepted is a batch of \(images, labels\)"):
        transforms.MixUp(num_classes=2)(KEY, ONE)
