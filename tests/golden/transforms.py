"""What torchvision's transforms give for chosen parameters: python -m tests.golden.transforms

It needs torchvision, which the tests do not: they compare with the arrays that it wrote.
"""

from pathlib import Path
from typing import Any

import numpy as np

SIZE = (11, 14)
BOXES = [(0, 0, 11, 14), (2, 3, 5, 9), (4, 0, 7, 4), (10, 13, 1, 1)]
OUT = (6, 8)
RESIZE = {
    "short side": ((7,), {}),
    "both": (((16, 5),), {}),
    "larger": ((20,), {}),
    "no antialias": ((5,), {"antialias": False}),
    "nearest": (((4, 25),), {"interpolation": "nearest"}),
    "most": ((10,), {"max_size": 11}),
}
# angle, shift in x and y, scale, shear in x and y, center
AFFINE = [
    (17.0, (0, 0), 1.0, (0.0, 0.0), None),
    (-33.0, (2, -1), 1.3, (5.0, -8.0), None),
    (71.0, (-3, 2), 0.6, (12.0, 3.0), (2.0, 9.0)),
]
ROTATIONS = [(25.0, None), (-100.0, (3.0, 4.0))]
CROPS = [(5, 6), (11, 9), (14, 4), (13, 20), (4, 9)]
BLURS = [((3, 5), 0.7), ((5, 5), 2.0)]
# A magnitude for each change of RandAugment.
CHANGES = [
    ("Identity", 0.0), ("ShearX", 0.21), ("ShearX", -0.13), ("ShearY", 0.3), ("TranslateX", 3.7),
    ("TranslateX", -2.2), ("TranslateY", 2.9), ("Rotate", 21.0), ("Rotate", -50.0),
    ("Brightness", 0.4), ("Brightness", -0.7), ("Color", 0.9), ("Color", -0.3), ("Contrast", 0.5),
    ("Contrast", -0.8), ("Sharpness", 0.9), ("Sharpness", -0.6), ("Posterize", 3.0),
    ("Posterize", 8.0), ("Solarize", 0.4), ("Solarize", 1.0), ("AutoContrast", 0.0),
    ("Equalize", 0.0),
]  # fmt: skip


def images(n: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Floats (n, 3, height, width) in 0..1, some of low contrast."""
    made = np.random.RandomState(5).random_sample((n, 3, *size)) ** 1.5
    made[n // 2 :] = made[n // 2 :] * 0.5 + 0.2
    return made.astype(np.float32)


def make() -> dict[str, np.ndarray]:
    import torch
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms.v2 import functional

    found: dict[str, Any] = {}
    one = torch.tensor(images(1))
    for name, (args, kwargs) in RESIZE.items():
        words = {k: InterpolationMode(v) if k == "interpolation" else v for k, v in kwargs.items()}
        found[f"resize {name}"] = v2.Resize(*args, **words)(one)
    for method in ("nearest", "bilinear"):
        mode = InterpolationMode(method)
        for i, box in enumerate(BOXES):
            found[f"crop {method} {i}"] = functional.resized_crop(one, *box, OUT, mode)
        for i, (angle, shift, scale, shear, center) in enumerate(AFFINE):
            where = None if center is None else list(center)
            found[f"affine {method} {i}"] = functional.affine(
                one, angle, list(shift), scale, list(shear), mode, 0.25, where
            )
        for i, (angle, center) in enumerate(ROTATIONS):
            where = None if center is None else list(center)
            found[f"rotate {method} {i}"] = functional.rotate(one, angle, mode, False, where, 0.5)
    for i, size in enumerate(CROPS):
        found[f"center {i}"] = functional.center_crop(one, list(size))
    for i, (size, sigma) in enumerate(BLURS):
        found[f"blur {i}"] = functional.gaussian_blur(one, list(size), [sigma, sigma])
    policy = v2.RandAugment()
    many = torch.tensor(images(len(CHANGES), (20, 28)))
    for i, (name, magnitude) in enumerate(CHANGES):
        found[f"change {i}"] = policy._apply_image_or_video_transform(
            many[i : i + 1], name, magnitude, InterpolationMode.NEAREST, {}
        )
    for name, owner in (("rand", policy), ("trivial", v2.TrivialAugmentWide())):
        for change, (magnitudes, signed) in owner._AUGMENTATION_SPACE.items():
            values = magnitudes(31, 20, 28)
            values = torch.zeros(31) if values is None else torch.as_tensor(values)
            found[f"{name} {change}"] = torch.cat([values.float(), torch.tensor([float(signed)])])
    return {name: value.numpy().astype(np.float32) for name, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "transforms.npz", **make())  # type: ignore[arg-type]
