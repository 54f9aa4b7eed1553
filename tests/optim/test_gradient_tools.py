"""Groups, frozen parameters, clipping, accumulation, loss scaling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator
from tests.optim.runs import problem, run


def arrays(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


@pytest.mark.torch
def test_groups_follow_torch() -> None:
    import torch

    params, grads = problem()
    tensors = {k: torch.tensor(v).requires_grad_() for k, v in params.items()}
    groups = [
        {"params": [tensors["a"]], "lr": 0.1, "momentum": 0.5},
        {"params": [tensors["c"]], "weight_decay": 0.1},
    ]
    theirs = torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=False)
    for i in range(100):
        for name in "ac":
            tensors[name].grad = torch.tensor(grads[name][i])
        theirs.step()
    optimizer = optim.groups(
        [
            (["a", "[!bc]"], optim.SGD(0.1, momentum=0.5)),
            ("b", optim.frozen()),
        ],
        optim.SGD(0.01, momentum=0.9, weight_decay=0.1),
    )
    ours = run(optimizer, params, grads, np.float32)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(ours[name][-1], tensor.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(ours["b"][-1], params["b"])


def test_groups_of_a_model_by_pattern_and_predicate() -> None:
    model = nn.Sequential(nn.Linear(2, 3, rngs=Generator(0)), nn.Linear(3, 1, rngs=Generator(1)))
    optimizer = optim.groups(
        [("0.*", optim.frozen()), (lambda name, p: p.ndim < 2, optim.AdamW(weight_decay=0))],
        optim.AdamW(weight_decay=0.5),
    )
    state = train.create(model, optimizer)
    assert optimizer.partition(state.params) == [["1.bias"], ["1.weight"]]
    batch = (jnp.ones((4, 2)), jnp.zeros((4, 1)))
    step = jax.jit(train.make_train_step(train.supervised(losses.mse_loss), optimizer))
    after, _ = step(state, batch)
    moved = {k: not np.array_equal(after.params[k], v) for k, v in state.params.items()}
    assert moved == {"0.bias": False, "0.weight": False, "1.bias": True, "1.weight": True}
    assert "weight_decay" not in optim.get_hyperparams(after.opt_state, 0)
    assert float(optim.get_hyperparams(after.opt_state, 1)["weight_decay"]) == 0.5
    changed = optim.set_hyperparams(after.opt_state, lr=0.5, group=1)
    assert [float(optim.get_hyperparams(changed, g)["lr"]) for g in range(2)] == [
        pytest.approx(1e-3),
        0.5,
    ]


def test_different_optimizers_in_different_groups() -> None:
    params = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    optimizer = optim.groups([(lambda name, p: p.ndim == 2, optim.Muon())], optim.AdamW())
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_a_rule_that_fits_nothing_is_an_error() -> None:
    optimizer = optim.groups([("convs.*", optim.frozen())], optim.SGD())
    with pytest.raises(ValueError, match=r"groups: rules: 'convs.\*' fits no .*\['conv.weight'\]"):
        optimizer.init({"conv.weight": jnp.zeros(1)})
    taken = optim.groups([("*", optim.SGD()), (["conv.*"], optim.SGD())], optim.SGD())
    with pytest.raises(ValueError, match=r"\['conv.\*'\] fits none .* left; .*\['conv.weight'\]"):
        taken.init({"conv.weight": jnp.zeros(1)})
    with pytest.raises(TypeError, match=r"groups: optimizer 0: GradientTransformation"):
        optim.groups([("*", optax.identity())], optim.SGD())  # type: ignore[list-item]


TREES = {
    "small": {"a": np.array([0.3, -0.4], np.float32), "b": np.full((2, 1), 0.1, np.float32)},
    "large": {"a": np.array([3.0, -40.0], np.float32), "b": np.full((2, 1), 5.0, np.float32)},
    "tiny": {"a": np.full(2, 1e-7, np.float32), "b": np.zeros((2, 1), np.float32)},
    "nan": {"a": np.array([1.0, np.nan], np.float32), "b": np.ones((2, 1), np.float32)},
    "inf": {"a": np.array([1.0, np.inf], np.float32), "b": np.ones((2, 1), np.float32)},
}


@pytest.mark.torch
@pytest.mark.parametrize("tree", TREES)
def test_clipping_equals_torch(tree: str) -> None:
    import torch

    def tensors() -> list[Any]:
        made = []
        for value in TREES[tree].values():
            made.append(torch.zeros(value.shape, requires_grad=True))
            made[-1].grad = torch.tensor(value)
        return made

    for norm_type in (2.0, 1.0, float("inf"), 3.5, 0.0, -float("inf"), "inf"):
        for max_norm in (0.5, 1e-7, 100):
            theirs = tensors()
            norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type, foreach=False)
            ours, total = optim.clip_grad_norm_(TREES[tree], max_norm, norm_type)
            np.testing.assert_allclose(total, norm.numpy(), rtol=1e-6)
            for a, b in zip(ours.values(), theirs, strict=True):
                np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-6)
    theirs = tensors()
    torch.nn.utils.clip_grads_with_norm_(theirs, 0.5, torch.tensor(3.0))
    ours = optim.clip_grads_with_norm_(TREES[tree], 0.5, jnp.float32(3))
    for a, b in zip(ours.values(), theirs, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-6)
    theirs = tensors()
    torch.nn.utils.clip_grad_value_(theirs, 0.35)
    for a, b in zip(optim.clip_grad_value_(TREES[tree], 0.35).values(), theirs, strict=True):
        np.testing.assert_array_equal(a, b.grad.numpy())


def test_clipping_has_torchs_epsilon() -> None:
    clipped, norm = optim.clip_grad_norm_({"w": jnp.array([3e-6, 4e-6])}, max_norm=5e-6)
    assert float(norm) == pytest.approx(5e-6)
    # 5e-6 / (5e-6 + 1e-6)
    np.testing.assert_allclose(clipped["w"], [2.5e-6, 10e-6 / 3], rtol=1e-5)


def test_a_norm_that_is_not_finite_is_an_error_where_asked() -> None:
    with pytest.raises(ValueError, match="the norm of order 2 of the gradients is inf"):
        optim.clip_grad_norm_({"w": jnp.array([jnp.inf])}, 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="a compiled function cannot raise"):
        jax.jit(lambda g: optim.clip_grad_norm_(g, 1.0, error_if_nonfinite=True))(jnp.ones(1))
    with pytest.raises(ValueError, match="max_norm: -1"):
        optim.clip_by_norm(-1.0)
    with pytest.raises(ValueError, match="norm_type: nan"):
        optim.get_total_norm({}, float("nan"))
    assert float(optim.get_total_norm({})) == 0


def test_clipping_in_a_chain() -> None:
    params = {"w": jnp.zeros(2)}
    optimizer = optim.chain(optim.clip_by_value(0.5), optim.clip_by_norm(0.25), optim.SGD(1.0))
    updates, state = optimizer.update({"w": jnp.array([3.0, 0.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.25, 0], rtol=1e-5)
    assert float(optim.get_hyperparams(state)["lr"]) == 1.0
    with pytest.raises(ValueError, match="chain: it holds 2 optimizers"):
        optim.chain(optim.SGD(), optim.SGD())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulation_equals_one_large_batch(reduction: str) -> None:
    inputs = jnp.asarray(np.random.RandomState(0).standard_normal((12, 2)), jnp.float32)
    targets = inputs @ jnp.array([[1.0], [2.0]])
    loss = train.supervised(lambda out, y: losses.mse_loss(out, y, reduction=reduction))
    plain = optim.AdamW(0.1, eps=0.1)
    several = optim.accumulate(plain, 4, reduction)
    large = train.create(nn.Linear(2, 1, rngs=Generator(0)), plain)
    small = train.create(nn.Linear(2, 1, rngs=Generator(0)), several)
    large_step = jax.jit(train.make_train_step(loss, plain))
    small_step = jax.jit(train.make_train_step(loss, several))
    for _ in range(3):
        large, _ = large_step(large, (inputs, targets))
        before = small.params
        for i in range(4):
            assert np.array_equal(small.params["weight"], before["weight"])
            small, _ = small_step(small, (inputs[3 * i : 3 * i + 3], targets[3 * i : 3 * i + 3]))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), small.params, large.params
        )


def test_accumulate_refuses() -> None:
    with pytest.raises(ValueError, match="accumulate: batches: 0"):
        optim.accumulate(optim.SGD(), 0)
    with pytest.raises(ValueError, match="accumulate: reduction: 'max'"):
        optim.accumulate(optim.SGD(), 2, "max")


def test_a_step_that_is_not_finite_leaves_everything() -> None:
    params = {"w": jnp.ones(2), "b": jnp.ones(())}
    optimizer = optim.skip_nonfinite(optim.Adam())
    compiled = jax.jit(optimizer.update)
    _, state = compiled(params, optimizer.init(params), params)
    updates, after = compiled({"w": jnp.array([1.0, jnp.nan]), "b": jnp.ones(())}, state, params)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))
    assert int(after.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, arrays(after.inner), arrays(state.inner))


@pytest.mark.torch
def test_loss_scaling_follows_torch() -> None:
    import torch

    options = {"init_scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25}
    tensor = torch.zeros(2, requires_grad=True)
    theirs = torch.optim.SGD([tensor], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", growth_interval=2, **options)
    optimizer = optim.GradScaler(optim.SGD(0.1, momentum=0.9), growth_interval=2, **options)
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(12):
        bad = step in (3, 4, 9)
        grad = np.array([1.0, np.inf if bad else step], np.float32)
        scaler.scale(torch.zeros(()))
        tensor.grad = torch.tensor(grad) * scaler.get_scale()
        assert float(optim.loss_scale(state)) == scaler.get_scale()
        updates, state = update({"w": grad * optim.loss_scale(state)}, state, params)
        params = optax.apply_updates(params, updates)
        scaler.step(theirs)
        scaler.update()
        np.testing.assert_allclose(params["w"], tensor.detach().numpy(), rtol=1e-6)
    assert int(optim.get_hyperparams(state)["lr"] > 0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("init_scale", 0), ("growth_factor", 1.0), ("backoff_factor", 1.0), ("growth_interval", 0)],
)
def test_grad_scaler_refuses(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"GradScaler: {option}: {value}"):
        optim.GradScaler(optim.SGD(), **{option: value})  # type: ignore[arg-type]


def test_loss_scale_needs_a_scaler() -> None:
    with pytest.raises(ValueError, match="loss_scale: GradScaler is missing"):
        optim.loss_scale(optim.SGD().init({"w": jnp.zeros(1)}))
