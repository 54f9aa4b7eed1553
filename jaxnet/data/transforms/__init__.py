"""Transforms of batches of images on the device: pure functions of (key, batch).

They are those of torchvision, but work on whole batches (N, C, H, W) inside the compiled
step, and each image has its own random numbers. In a step, the key comes from the
`nn.keys` context that `train.make_train_step` opens:

    from jaxnet import nn

    augment = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip()])

    def loss(model, batch):
        images, labels = batch
        return losses.cross_entropy(model(augment(nn.next_key(), images)), labels)

The same key gives the same result, so a resumed run is equal to an uninterrupted one. The
random numbers are JAX's and differ from torch's: the distributions are torchvision's, and given
the same crop, angle or magnitude the pixels are too, up to rounding.

`MixUp` and `CutMix` take and give a pair, images and labels:

    images, labels = MixUp(num_classes=10)(nn.next_key(), batch)
"""

from jaxnet.data.transforms._automatic import RandAugment, TrivialAugmentWide
from jaxnet.data.transforms._basic import Compose, Normalize, ToTensor
from jaxnet.data.transforms._color import ColorJitter, GaussianBlur
from jaxnet.data.transforms._crops import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
)
from jaxnet.data.transforms._erasing import Cutout, RandomErasing
from jaxnet.data.transforms._geometry import RandomAffine, RandomRotation
from jaxnet.data.transforms._mixing import CutMix, MixUp

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "GaussianBlur",
    "MixUp",
    "Normalize",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "ToTensor",
    "TrivialAugmentWide",
]
