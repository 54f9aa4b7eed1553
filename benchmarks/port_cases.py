"""The models of benchmarks/port.py: written new, torchvision's and timm's."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.port import Case

_SEED = 1
_OPERATORS: Any = None  # operators live as long as their library


def _image(size: int, batch: int = 2, channels: int = 3) -> Any:
    return lambda: (np.random.default_rng(_SEED).standard_normal((batch, channels, size, size)),)


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(_SEED).standard_normal(shape)


def _tokens(most: int, *shape: int) -> Any:
    return np.random.default_rng(_SEED).integers(2, most, shape)


def _graph() -> Any:
    return np.eye(5) + (_numbers(5, 5) > 0)


_INPUTS: dict[str, Any] = {
    "DigitNet": lambda: (_numbers(2, 1, 28, 28),),
    "RowNet": lambda: (_numbers(3, 1, 28, 28),),
    "VAE": lambda: (_numbers(2, 64),),
    "Generator": lambda: (_numbers(2, 6, 1, 1),),
    "Discriminator": lambda: (_numbers(2, 1, 16, 16),),
    "SuperResolution": lambda: (_numbers(2, 1, 6, 6),),
    "ConvLayer": lambda: (_numbers(2, 2, 6, 6),),
    "ResidualBlock": lambda: (_numbers(2, 4, 6, 6),),
    "UpsampleConvLayer": lambda: (_numbers(2, 2, 5, 5),),
    "StyleNet": lambda: (_numbers(1, 3, 16, 16),),
    "PositionalEncoding": lambda: (_numbers(5, 2, 6),),
    "TransformerLM": lambda: (_tokens(20, 6, 2),),
    "RNNModel": lambda: (_tokens(20, 5, 3),),
    "Policy": lambda: (_numbers(3, 4),),
    "Sequence": lambda: (_numbers(2, 5),),
    "SiameseNetwork": lambda: (_numbers(2, 1, 8, 8), 2 * _numbers(2, 1, 8, 8)),
    "GraphConv": lambda: (_numbers(5, 6), _graph()),
    "GCN": lambda: (_numbers(5, 6), _graph()),
    "GraphAttentionLayer": lambda: (_numbers(5, 6), _graph()),
    "GAT": lambda: (_numbers(5, 6), _graph()),
    "ForwardForwardLayer": lambda: (_numbers(3, 6),),
    "BottleLinear": lambda: (_numbers(2, 3, 4),),
    "Encoder": lambda: (_numbers(4, 2, 8),),
    "SNLIClassifier": lambda: (_tokens(20, 4, 2), _tokens(19, 5, 2)),
    "CausalSelfAttention": lambda: (_numbers(2, 5, 8),),
    "Block": lambda: (_numbers(2, 5, 8),),
    "GPT": lambda: (_tokens(17, 2, 6),),
    "Patchify": lambda: (_numbers(2, 3, 8, 8),),
    "SmallViT": lambda: (_numbers(2, 3, 16, 16),),
    "Translator": lambda: (_tokens(15, 6, 2), _tokens(13, 5, 2)),
    "RunningNorm": lambda: (_numbers(3, 4),),
    "PolicyMLP": lambda: (_numbers(3, 4),),
    "UNet": lambda: (_numbers(2, 1, 8, 8),),
}
_ENCODER = {"d_proj": 8, "projection": True, "n_layers": 1, "dp_ratio": 0.2, "d_hidden": 6,
            "birnn": True, "n_cells": 2}  # fmt: skip
_GIVEN: dict[str, dict[str, Any]] = {
    "ConvLayer": {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 2},
    "ResidualBlock": {"channels": 4},
    "UpsampleConvLayer": {
        "in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 1, "upsample": 2
    },
    "PositionalEncoding": {"d_model": 6},
    "GraphConv": {"input_dim": 6, "output_dim": 4, "use_bias": True},
    "GraphAttentionLayer": {"in_features": 6, "out_features": 4, "n_heads": 2, "concat": True},
    "BottleLinear": {"in_features": 4, "out_features": 3},
    "Encoder": {"config": _ENCODER},
    "CausalSelfAttention": {"n_embd": 8, "n_head": 2, "block_size": 6},
    "Block": {"n_embd": 8, "n_head": 2, "block_size": 6},
    "Patchify": {"patch_size": 4, "n_channels": 3},
}  # fmt: skip


_PROGRAMS = {
    "VAE": "vae_torch",
    "Generator": "dcgan_torch",
    "Discriminator": "dcgan_torch",
    "Policy": "actor_critic_torch",
}
"""The models that the programs of the tests have."""


def cases(tiers: list[int]) -> list[Case]:
    """The models of some tiers, or of all."""
    found = []
    for tier, make in enumerate((_written, _torchvision, _timm), 1):
        if not tiers or tier in tiers:
            found += list(make())
    return found


def _making(given: dict[str, Any]) -> Any:
    return lambda made, **more: made(**given, **more)


def _written() -> Iterator[Case]:
    here = Path(__file__)
    programs = here.parents[1] / "tests" / "programs"
    for name, inputs in _INPUTS.items():
        program = _PROGRAMS.get(name)
        file = programs / f"{program}.py" if program else here.with_name("port_examples.py")
        yield Case(1, name, f"{file}:{name}", _making(_GIVEN.get(name, {})), inputs)


_SIZES = {"inception_v3": 80, "googlenet": 64, "maxvit_t": 224, "vit": 224, "swin": 64}


def _torchvision() -> Iterator[Case]:
    try:
        import torch

        # The package index has torchvision for torch with CUDA. Beside a torch without it, the
        # compiled part is not loaded, and the import asks for two operators of that part.
        global _OPERATORS
        _OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
        with contextlib.suppress(RuntimeError):
            for name in ("nms", "qnms"):
                _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float limit) -> Tensor")
        import torchvision
    except ImportError:
        return
    for name in torchvision.models.list_models(module=torchvision.models):
        builder = torchvision.models.get_model_builder(name)
        kind = next((size for start, size in _SIZES.items() if name.startswith(start)), 64)
        yield Case(
            2,
            name,
            f"{builder.__module__}:{builder.__name__}",
            _making({}),
            _image(kind),
        )


def _timm() -> Iterator[Case]:
    try:
        import torch

        list(_torchvision())  # which timm imports
        import timm
    except ImportError:
        return
    del torch, timm
    smallest = json.loads(Path(__file__).with_name("port_timm.json").read_text(encoding="utf-8"))
    for module, (name, size, fixed) in smallest.items():
        # Where the size of the images is fixed it is an argument, on which weights depend.
        given = {"img_size": size} if fixed else {}
        yield Case(3, name, f"timm.models.{module}:{name}", _making(given), _image(size))
