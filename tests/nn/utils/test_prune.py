"""jaxnet/nn/utils/prune.py"""

import numpy as np
import pytest

from jaxnet import nn, weights
from jaxnet.nn.utils import prune
from jaxnet.random import Generator
from tests.tolerances import distance, tolerance

WAYS = {
    "l1_unstructured": {"amount": 5},
    "random_unstructured": {"amount": 0.3},
    "ln_structured": {"amount": 0.3, "n": 2, "dim": 1},
    "random_structured": {"amount": 1, "dim": -2},
    "identity": {},
    "scores": {},
    "global": {},
}


def pruned(prune, module, way, array, **rngs):
    if way == "global":
        pairs = [(module, "weight"), (module, "bias")]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.4)
        prune.global_unstructured(pairs, prune.RandomUnstructured, amount=2, **rngs)
    elif way == "scores":
        scores = np.arange(48.0, dtype=np.float32).reshape(4, 3, 2, 2)
        prune.l1_unstructured(module, "weight", 3, array(scores))
    else:
        rngs = rngs if "random" in way else {}
        getattr(prune, way)(module, "weight", **WAYS[way], **rngs)


@pytest.mark.torch
@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_pruning_once_and_twice_is_torchs(first, second):
    import torch
    from torch.nn.utils import prune as torchs

    torch.manual_seed(1)
    theirs = torch.nn.Conv2d(3, 4, 2)
    generator = Generator(1)
    ours = nn.Conv2d(3, 4, 2, rngs=generator)
    for way in (first, second):
        pruned(torchs, theirs, way, torch.tensor)
        pruned(prune, ours, way, np.asarray, rngs=generator)

    def compare():
        state = weights.state_dict(ours)
        assert list(state) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            np.testing.assert_array_equal(state[name], value.numpy())
        np.testing.assert_array_equal(ours.weight[...], theirs.weight.detach().numpy())

    compare()
    assert prune.is_pruned(nn.Sequential(ours))
    for name in ("weight", "bias") if "global" in (first, second) else ("weight",):
        torchs.remove(theirs, name)
        prune.remove(ours, name)
    compare()
    assert type(ours) is nn.Conv2d
    assert not prune.is_pruned(ours)


@pytest.mark.torch
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("name", "args", "norm"),
    [
        ("Conv2d", (3, 4, 2), "BatchNorm2d"),
        ("ConvTranspose1d", (3, 4, 2), "BatchNorm1d"),
        ("Linear", (3, 4), "BatchNorm1d"),
    ],
)
def test_fusion_and_vectors_are_torchs(name, args, norm, bias):
    import torch

    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, bias=bias).eval()
    their_norm = getattr(torch.nn, norm)(4).eval()
    for tensor in (*their_norm.parameters(), *their_norm.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
    ours = getattr(nn, name)(*args, bias=bias, rngs=Generator(0)).eval()
    our_norm = getattr(nn, norm)(4).eval()
    weights.load_state_dict(our_norm, their_norm.state_dict())
    fused = []
    for library, layer, batch_norm in (
        (torch.nn, theirs, their_norm),
        (nn, ours, our_norm),
    ):
        if name == "Linear":
            fused.append(library.utils.fuse_linear_bn_eval(layer, batch_norm))
        else:
            transposed = name.startswith("ConvTranspose")
            fused.append(library.utils.fuse_conv_bn_eval(layer, batch_norm, transposed))
    expected, mine = fused[0].state_dict(), weights.state_dict(fused[1])
    assert list(mine) == list(expected)
    for key, value in expected.items():
        assert distance("forward", mine[key], value) <= tolerance("forward", "float32")
    assert list(weights.state_dict(ours)) == list(theirs.state_dict())  # not changed
    vector = torch.nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy()
    np.testing.assert_array_equal(nn.utils.parameters_to_vector(ours.parameters()), vector)
    nn.utils.vector_to_parameters(2 * vector, ours.parameters())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(weights.state_dict(ours)[key], 2 * value.numpy())


def linear():
    return nn.Linear(2, 3, rngs=Generator(0))


REFUSED = [
    (lambda: prune.l1_unstructured(linear(), "weight", 7), ValueError, "accepted is 0 to 6"),
    (lambda: prune.l1_unstructured(linear(), "weight", 1.5), ValueError, "fraction from 0 to 1"),
    (lambda: prune.l1_unstructured(linear(), "weight", "1"), TypeError, "amount: '1'"),
    (lambda: prune.l1_unstructured(linear(), "wait", 1), ValueError, "'wait' is no array"),
    (
        lambda: prune.l1_unstructured(linear(), "weight", 1, np.ones(3)),
        ValueError,
        r"importance_scores: shape \(3,\)",
    ),
    (lambda: prune.ln_structured(linear(), "bias", 1, 2, 0), ValueError, r"dim: 0 of shape \(3,\)"),
    (lambda: prune.ln_structured(linear(), "weight", 1, 2, 2), ValueError, "dim: 2"),
    (lambda: prune.custom_from_mask(linear(), "weight", np.ones(3)), ValueError, "mask: shape"),
    (lambda: prune.remove(linear(), "weight"), ValueError, "is not pruned"),
    (
        lambda: prune.global_unstructured([(linear(), "weight")], prune.ln_structured),
        TypeError,
        "accepted are prune.L1Unstructured",
    ),
    (
        lambda: setattr(prune.identity(linear(), "weight"), "weight", np.ones((3, 2))),
        ValueError,
        "assign weight_orig",
    ),
    (lambda: nn.utils.parameters_to_vector([]), ValueError, "none given"),
    (
        lambda: nn.utils.vector_to_parameters(np.ones(3), linear().parameters()),
        ValueError,
        r"need \(9,\)",
    ),
    (lambda: nn.utils.vector_to_parameters(np.ones(3), [np.ones(3)]), TypeError, "no Parameter"),
    (
        lambda: nn.utils.fuse_linear_bn_eval(linear(), nn.BatchNorm1d(3)),
        ValueError,
        "in training mode",
    ),
    (
        lambda: nn.utils.fuse_linear_bn_eval(linear().eval(), nn.BatchNorm1d(2).eval()),
        ValueError,
        "bn has 2 features",
    ),
    (
        lambda: nn.utils.fuse_conv_bn_eval(
            nn.Conv1d(2, 3, 1, rngs=Generator(0)).eval(), nn.BatchNorm1d(4).eval()
        ),
        ValueError,
        r"bn_rm: shape \(4,\); accepted is \(3,\)",
    ),
    (
        lambda: nn.utils.fuse_conv_bn_eval(
            nn.Conv1d(2, 3, 1, rngs=Generator(0)).eval(),
            nn.BatchNorm1d(3, track_running_stats=False).eval(),
        ),
        ValueError,
        "no running statistics",
    ),
]


@pytest.mark.parametrize(("call", "error", "says"), REFUSED)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
