"""jaxnet/train/_step.py: every option of a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics, nn, optim, train
from jaxnet.random import Generator


def net() -> nn.Sequential:
    g = Generator(0)
    return nn.Sequential(nn.Linear(3, 8, rngs=g), nn.Tanh(), nn.Linear(8, 2, rngs=g))


def rows(n: int = 12) -> tuple[jax.Array, jax.Array]:
    x = np.random.RandomState(0).standard_normal((n, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray((x.sum(1) > 0).astype(np.int32))


SGD = optim.SGD(lr=0.1)
LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})


def one_step(optimizer=SGD, loss=LOSS, model=None, state=None, batch=None, **options):
    state = state or train.create(model or net(), optimizer, average=options.get("average"))
    return jax.jit(train.make_train_step(loss, optimizer, **options))(state, batch or rows())


def largest_gap(a, b) -> float:
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    return max(jax.tree.leaves(gaps))


def test_microbatches_give_the_gradient_of_the_whole():
    whole, metrics_whole = one_step()
    parts, metrics_parts = one_step(microbatches=3)
    assert largest_gap(whole.params, parts.params) < 1e-6
    assert int(parts.step) == 1
    assert float(metrics_whole["loss"]) == pytest.approx(float(metrics_parts["loss"]), rel=1e-6)
    assert float(metrics_parts["accuracy"].compute()) == float(metrics_whole["accuracy"].compute())
    with pytest.raises(ValueError, match="12 rows cannot be cut into 5"):
        one_step(microbatches=5)
    with pytest.raises(ValueError, match="microbatches: 0"):
        one_step(microbatches=0)


def test_microbatches_give_the_means_of_plain_metrics():
    def measured(microbatches):
        numbers = {"mean": lambda o, t: o.mean(), "columns": lambda o, t: o.mean(0)}
        loss = train.supervised(losses.cross_entropy, numbers)
        return one_step(loss=loss, microbatches=microbatches)[1]

    whole, parts = measured(1), measured(3)
    np.testing.assert_allclose(parts["mean"], whole["mean"], rtol=1e-5)
    np.testing.assert_allclose(parts["columns"], whole["columns"], rtol=1e-5)


def test_microbatches_update_running_statistics_one_after_another():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2, rngs=Generator(0)))
    state, _ = one_step(model=model, microbatches=4)
    assert int(state.buffers["0.num_batches_tracked"]) == 4


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    seen = []

    def loss(model, batch):
        outputs = model(batch[0])
        seen.append((model[0].weight[...].dtype, outputs.dtype))
        return losses.cross_entropy(outputs, batch[1])

    full, _ = one_step(loss=loss)
    half, measured = one_step(loss=loss, compute_dtype=jnp.bfloat16)
    assert seen == [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32)]
    assert measured["loss"].dtype == jnp.float32
    assert {p.dtype for p in half.params.values()} == {jnp.dtype(jnp.float32)}
    assert 0 < largest_gap(full.params, half.params) < 1e-2


def test_bfloat16_keeps_running_statistics_in_float32():
    model = nn.Sequential(nn.Linear(3, 4, rngs=Generator(0)), nn.BatchNorm1d(4), nn.ReLU())
    state, _ = one_step(model=model, compute_dtype=jnp.bfloat16)
    assert state.buffers["1.running_mean"].dtype == jnp.float32


def test_float16_needs_and_uses_loss_scaling():
    with pytest.raises(ValueError, match="float16 gradients vanish"):
        one_step(compute_dtype=jnp.float16)
    scaled = optim.GradScaler(optim.SGD(lr=0.1), init_scale=1024.0)
    half, measured = one_step(scaled, compute_dtype=jnp.float16, loss_scale=optim.loss_scale)
    full, reference = one_step()
    assert 0 < largest_gap(full.params, half.params) < 1e-2
    assert float(measured["loss"]) == pytest.approx(float(reference["loss"]), abs=1e-2)


def test_the_gradients_norm_is_that_without_the_loss_scale():
    scaler = optim.GradScaler(SGD, init_scale=1024.0)
    options = {"compute_dtype": jnp.float16, "loss_scale": optim.loss_scale, "grad_norm": True}
    scaled = one_step(scaler, **options)[1]["grad_norm"]
    plain = one_step(grad_norm=True)[1]["grad_norm"]
    assert float(scaled) == pytest.approx(float(plain), rel=1e-2)


def test_float16_overflow_leaves_the_step_out():
    scaled = optim.GradScaler(optim.SGD(lr=0.1), init_scale=2.0**40)
    before = train.create(net(), scaled)
    after, _ = one_step(
        scaled, state=before, compute_dtype=jnp.float16, loss_scale=optim.loss_scale
    )
    assert largest_gap(before.params, after.params) == 0
    assert float(optim.loss_scale(after.opt_state)) == 2.0**39


@pytest.mark.parametrize("remat", [True, jax.checkpoint_policies.nothing_saveable])
def test_remat_changes_no_number(remat):
    g = Generator(0)
    model = nn.Sequential(nn.Linear(3, 8, rngs=g), nn.Dropout(0.5), nn.Linear(8, 2, rngs=g))
    plain, _ = one_step(model=model)
    again, _ = one_step(model=model, remat=remat)
    assert largest_gap(plain.params, again.params) < 1e-7


def test_average_follows_the_weights():
    ema = optim.AveragedModel(optim.get_ema_avg_fn(0.5))
    state = train.create(net(), SGD, average=ema)
    step = jax.jit(train.make_train_step(LOSS, SGD, average=ema))
    first, _ = step(state, rows())
    second, _ = step(first, rows())
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, first.params, second.params)
    assert largest_gap(second.average.params, expected) < 1e-7
    averaged = second.model(averaged=True)
    np.testing.assert_array_equal(averaged[0].weight[...], second.average.params["0.weight"])
    with pytest.raises(ValueError, match="keeps no average"):
        train.create(net(), SGD).model(averaged=True)


def test_penalty_clipping_and_frozen_parameters_compose():
    def loss(model, batch):
        data_term = losses.cross_entropy(model(batch[0]), batch[1])
        return data_term + 0.01 * losses.l2_penalty(model, where="*.weight")

    optimizer = optim.chain(optim.clip_by_norm(1e-3), optim.SGD(lr=1.0))
    before = train.create(net(), optimizer)
    after, _ = one_step(optimizer, loss, state=before)
    change = jax.tree.map(jnp.subtract, after.params, before.params)
    norm = float(jnp.sqrt(sum((c**2).sum() for c in change.values())))
    assert norm == pytest.approx(1e-3, rel=2e-2)


def test_several_inputs_and_predict():
    class Sum(nn.Module):
        def __init__(self, *, rngs):
            self.fc = nn.Linear(3, 2, rngs=rngs)

        def __call__(self, a, b):
            return self.fc(a + b)

    x, y = rows()
    state, _ = one_step(model=Sum(rngs=Generator(0)), batch=((x, x), y))
    outputs = jax.jit(train.make_predict())(state, x, x)
    np.testing.assert_allclose(outputs, state.model()(x, x), rtol=1e-6)
    half = train.make_predict(compute_dtype=jnp.bfloat16)(state, x, x)
    assert half.dtype == jnp.float32
    assert 0 < largest_gap(half, outputs) < 0.05


@pytest.mark.parametrize(
    "batch", [jnp.ones((2, 3)), {"inputs": jnp.ones((4, 3)), "targets": jnp.ones(4)}, (1.0,)]
)
def test_a_supervised_batch_is_a_pair(batch):
    with pytest.raises(ValueError, match=r"supervised: a batch of .*accepted is \(inputs, targ"):
        train.make_train_step(LOSS, SGD)(train.create(net(), SGD), batch)


class Halves(nn.Module):
    """Two layers, of which the loss uses the second only as it is told."""

    def __init__(self, way: str):
        g = Generator(0)
        self.a, self.b, self.way = nn.Linear(3, 2, rngs=g), nn.Linear(3, 2, rngs=g), way

    def __call__(self, x):
        if self.way == "detached":
            return self.a(x) + jax.lax.stop_gradient(self.b(x))
        if self.way == "times 0":  # torch's grad is a tensor of zeros then
            return self.a(x) + 0 * self.b(x)
        if self.way == "chosen":
            return self.a(x) + jax.nn.one_hot(self.b(x).argmax(1), 2)
        return self.a(x)


def torch_halves(way: str, optimizer: str, arguments: dict, steps: int, microbatches: int) -> dict:
    """The parameters after some steps of the same program in PyTorch."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    a, b = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    update = getattr(torch.optim, optimizer)([*a.parameters(), *b.parameters()], **arguments)
    x, y = (torch.tensor(np.asarray(part)) for part in rows())
    for _ in range(steps):
        update.zero_grad()
        for part, classes in zip(x.chunk(microbatches), y.chunk(microbatches), strict=True):
            out = a(part)
            out = out + b(part).detach() if way == "detached" else out
            out = out + 0 * b(part) if way == "times 0" else out
            if way == "chosen":
                out = out + torch.nn.functional.one_hot(b(part).argmax(1), 2)
            loss = torch.nn.functional.cross_entropy(out, classes.long())
            (loss / microbatches).backward()
        update.step()
    layers = {"a": a, "b": b}
    return {
        f"{k}.{n}": p.detach().numpy() for k, m in layers.items() for n, p in m.named_parameters()
    }


UNUSED = [
    ("unused", "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {}),
    ("detached", "AdamW", {"lr": 0.1}, {}),
    ("chosen", "Adam", {"lr": 0.1, "weight_decay": 0.1}, {"remat": True}),
    ("times 0", "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {}),
    ("unused", "RMSprop", {"lr": 0.1, "weight_decay": 0.1}, {"microbatches": 3}),
    ("unused", "NAdam", {"lr": 0.1, "weight_decay": 0.1}, {}),
]


@pytest.mark.parametrize(("way", "name", "arguments", "options"), UNUSED)
def test_a_parameter_without_a_gradient_stays_as_in_torch(way, name, arguments, options):
    wanted = torch_halves(way, name, arguments, 3, options.get("microbatches", 1))
    optimizer = getattr(optim, name)(**arguments)
    state = train.create(Halves(way), optimizer)
    before = state.params
    step = jax.jit(train.make_train_step(LOSS, optimizer, **options))
    for _ in range(3):
        state, _ = step(state, rows())
    for name_, value in wanted.items():
        np.testing.assert_allclose(state.params[name_], value, rtol=1e-5, atol=1e-6)
    moved = largest_gap(before["b.weight"], state.params["b.weight"]) > 0
    assert moved == (way == "times 0")
    slots = [slot["b.weight"] for slot in state.opt_state.slots.values()]
    assert all(not np.any(slot) for slot in slots) == (not moved)


def test_a_parameter_without_a_gradient_stays_in_wrappers_and_with_optax():
    sgd = optim.SGD(lr=0.1, weight_decay=0.1)
    wrapped = optim.groups([("a.*", optim.SGD(lr=0.1))], optim.chain(optim.clip_by_norm(1.0), sgd))
    decayed = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    for optimizer in (wrapped, optim.skip_nonfinite(sgd), decayed):
        before = train.create(Halves("unused"), optimizer)
        after, _ = one_step(optimizer, state=before)
        assert largest_gap(before.params["b.weight"], after.params["b.weight"]) == 0
        assert largest_gap(before.params["a.weight"], after.params["a.weight"]) > 0


def test_accumulation_counts_a_gradient_of_an_earlier_batch():
    optimizer = optim.accumulate(optim.SGD(lr=0.1), 2)

    def of(name):
        def loss(model, batch):
            return losses.cross_entropy(getattr(model, name)(batch[0]), batch[1])

        return jax.jit(train.make_train_step(loss, optimizer))

    before = train.create(Halves("unused"), optimizer)
    for first, moves in (("b", True), ("a", False)):
        after = of("a")(of(first)(before, rows())[0], rows())[0]
        assert (largest_gap(after.params["b.weight"], before.params["b.weight"]) > 0) == moves


SCALER = optim.GradScaler(SGD, init_scale=1024.0)
CLIP = optim.clip_by_norm(1.0)


@pytest.mark.parametrize(
    ("optimizer", "scaled", "says"),
    [
        (SCALER, False, "loss_scale: None, but the optimizer has a GradScaler.*give loss_scale="),
        (optim.accumulate(SCALER, 2), False, "loss_scale: None, but the optimizer has a GradSc"),
        (optim.chain(CLIP, SCALER), True, "GradScaler is inside another transformation; it goes"),
        (optax.chain(CLIP, SCALER), True, "GradScaler is inside another transformation"),
        (optim.skip_nonfinite(SCALER), True, "GradScaler is inside another transformation"),
        (optim.groups([("0.*", SCALER)], SGD), True, "GradScaler is inside another transformation"),
        (SGD, True, "loss_scale: GradScaler is missing"),
        (optim.GradScaler(SCALER), True, "GradScaler: there is one inside already"),
    ],
)
def test_loss_scaling_that_is_wired_wrongly_is_refused(optimizer, scaled, says):
    with pytest.raises(ValueError, match=says):
        one_step(optimizer, loss_scale=optim.loss_scale if scaled else None)


def test_loss_scaling_that_is_wired_rightly_is_the_same_step():
    plain, _ = one_step(optim.chain(CLIP, SGD))
    inside, _ = one_step(
        optim.GradScaler(optim.chain(CLIP, SGD), init_scale=1024.0), loss_scale=optim.loss_scale
    )
    assert largest_gap(plain.params, inside.params) < 1e-6
    summed, _ = one_step(optim.accumulate(SCALER, 1), loss_scale=optim.loss_scale)
    assert largest_gap(one_step()[0].params, summed.params) < 1e-6


def ignoring(model, batch):
    classes = jnp.where(batch[0][:, 0] > 0.9, batch[1], -100)  # none in some parts
    return losses.cross_entropy(model(batch[0]), classes) + 0.1 * losses.l2_penalty(model)


def weighted(model, batch):
    scores, weight = model(batch[0]), jnp.array([1.0, 5.0])
    of_classes = losses.cross_entropy(scores, batch[1], weight=weight, label_smoothing=0.1)
    return of_classes + losses.nll_loss(jax.nn.log_softmax(scores), batch[1], weight=weight)


@pytest.mark.parametrize(("loss", "options"), [(ignoring, {}), (weighted, {"remat": True})])
def test_microbatches_divide_by_the_targets_of_the_whole_batch(loss, options):
    order = jnp.argsort(rows()[1])  # so that the parts differ in their classes
    batch = rows()[0][order], rows()[1][order]
    whole, measured = one_step(loss=loss, batch=batch)
    parts, again = one_step(loss=loss, batch=batch, microbatches=4, **options)
    assert largest_gap(whole.params, parts.params) < 1e-6
    assert float(again["loss"]) == pytest.approx(float(measured["loss"]), rel=1e-6)


def test_a_mean_whose_divisor_cannot_be_seen_is_refused():
    def loss(model, batch):
        return jax.jit(losses.cross_entropy)(model(batch[0]), batch[1])

    with pytest.raises(
        ValueError, match=r"microbatches: cross_entropy or nll_loss .*inside jax.jit"
    ):
        one_step(loss=loss, microbatches=2)


class Keeping(nn.Module):
    def __init__(self, way: str):
        self.fc, self.way = nn.Linear(3, 2, rngs=Generator(0)), way
        self.hidden, self.calls, self.seen = None, 0, [0]

    def __call__(self, x):
        if self.way == "hidden":
            self.hidden = x.mean(0)
        if self.way == "calls":
            self.calls += 1
        if self.way == "fc.last":
            self.fc.last = x
        if self.way == "seen":
            self.seen = [*self.seen, 1]
        return self.fc(x)


@pytest.mark.parametrize("way", ["hidden", "calls", "seen"])
@pytest.mark.parametrize(
    ("step", "batch"),
    [
        (train.make_train_step(LOSS, SGD), rows()),
        (train.make_eval_step(LOSS), rows()),
        (train.make_predict(), rows()[0]),
    ],
)
def test_attributes_that_a_forward_pass_changes_would_be_lost(way, step, batch):
    state = train.create(Keeping(way), SGD)
    with pytest.raises(ValueError, match=f"forward pass changes the attribute '{way}'.*nn.Buffer"):
        jax.eval_shape(step, state, batch)


def test_attributes_that_a_forward_pass_makes_serve_the_loss():
    def loss(model, batch):
        return losses.cross_entropy(model(batch[0]), batch[1]) + model.fc.last.mean()

    _, measured = one_step(loss=loss, model=Keeping("fc.last"))
    assert np.isfinite(measured["loss"])


def test_lbfgs_is_given_the_loss_as_a_function():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    x, y = (torch.tensor(np.asarray(part)) for part in rows())
    update = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def closure():
        update.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y.long())
        loss.backward()
        return loss

    update.step(closure)
    state, _ = one_step(optim.LBFGS(lr=0.5, max_iter=4), model=nn.Linear(3, 2, rngs=Generator(0)))
    for name, value in model.named_parameters():
        np.testing.assert_allclose(state.params[name], value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_lbfgs_in_fit_in_double_precision():
    """PyTorch's time_sequence_prediction: one batch of all rows, a line search, float64."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    net = torch.nn.Sequential(*layers).double()
    x = np.random.RandomState(0).standard_normal((20, 3))
    y, evaluations, expected = np.sin(2 * x).sum(1, keepdims=True), [], []
    update = torch.optim.LBFGS(net.parameters(), lr=0.8, max_iter=6, line_search_fn="strong_wolfe")

    def closure():
        update.zero_grad()
        loss = torch.nn.functional.mse_loss(net(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        evaluations.append(loss.item())
        return loss

    for _ in range(4):
        expected.append(update.step(closure).item())
    with jax.enable_x64(True):
        g = Generator(0)
        model = nn.Sequential(nn.Linear(3, 4, rngs=g), nn.Tanh(), nn.Linear(4, 1, rngs=g)).double()
        optimizer = optim.LBFGS(lr=0.8, max_iter=6, line_search_fn="strong_wolfe")
        state = train.create(model, optimizer)
        step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
        options = {"epochs": 4, "batch_size": 20, "shuffle": False, "quiet": True}
        result = train.fit(state, step, (x, y), **options, compilation_cache=False)
        found = [line["loss"] for line in result.history]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        for name, value in net.state_dict().items():
            np.testing.assert_allclose(result.state.params[name], value.numpy(), rtol=1e-9)
        assert int(result.state.opt_state.shared["func_evals"]) == len(evaluations)
        floats = [x for x in jax.tree.leaves(result.state) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert {x.dtype for x in floats} == {jnp.dtype(jnp.float64)}


@pytest.mark.parametrize("make", [train.make_eval_step, lambda loss, **k: train.make_predict(**k)])
def test_float64_without_x64_is_refused(make):
    with pytest.raises(ValueError, match="compute_dtype: float64, of which JAX would make 32 bits"):
        make(LOSS, compute_dtype=jnp.float64)
    with pytest.raises(ValueError, match=r"compute_dtype: float64.*jax_enable_x64"):
        train.make_train_step(LOSS, SGD, compute_dtype="float64")
