"""Faults of losses, gradients, optimizers and schedules."""

import dataclasses
from typing import Any

from tests.parity import faulty_layers as faulty
from tests.parity.architectures import Layer, Recipe, Task, layer
from tests.parity.plants import Plant, image, in_vector, plant, text, vector


def _loss(name: str, right: Any, wrong: Any, says: str, host: Any = None, **options: Any) -> Plant:
    host = host or (lambda loss: vector(layer("Tanh"), loss=loss, **options))
    return plant(name, "loss", host((right, {})), host((wrong, {})), ("loss", says))


def _with_loss(host: Any, **options: Any) -> Any:
    return lambda loss: host(layer("Identity"), **{**options, "loss": loss})


def _image_loss(loss: Any) -> Task:
    return dataclasses.replace(image(layer("Tanh")), loss=loss)


LOSSES = [
    plant("mse_loss, sum", "loss", vector(layer("Tanh")), vector(layer("Tanh"), loss=("mse_loss",
        {"reduction": "sum"})), ("loss", "sum")),
    _loss("mse_loss, halved", "mse_loss", faulty.halved_squares, "halved"),
    _loss("mse_loss, mean over rows only", "mse_loss", faulty.batch_mean, "batch|row|mean"),
    _loss("mse_loss of all pairs", "mse_loss", faulty.broadcast, "broadcast|pair"),
    plant("huber_loss, delta", "loss", vector(layer("Tanh"), loss=("huber_loss", {})),
        vector(layer("Tanh"), loss=("huber_loss", {"delta": 0.5})), ("loss", "delta")),
    _loss("cross_entropy, ignore_index counted", "cross_entropy", faulty.over_all_positions,
        "ignore", _with_loss(text)),
    _loss("cross_entropy, ignore_index used", "cross_entropy", faulty.pads_as_words, "ignore",
        _with_loss(text)),
    _loss("cross_entropy of probabilities", "cross_entropy", faulty.of_probabilities,
        "prob|softmax", _image_loss),
    _loss("cross_entropy in bits", "cross_entropy", faulty.log_base_2, "1.4427", _image_loss),
    plant("cross_entropy, smoothing", "loss", _image_loss(("cross_entropy", {})),
        _image_loss(("cross_entropy", {"label_smoothing": 0.1})), ("loss", "smooth")),
    _loss("binary cross entropy, clamped", "binary_cross_entropy_with_logits", faulty.clamped,
        "clamp|clip", kind="binary"),
]  # fmt: skip

_BODY = layer("Tanh")


def trained(name: str, kind: str, right: Recipe, wrong: Recipe, place: str, says: str,
             step: int = 0, steps: int = 4, body: Layer = _BODY) -> Plant:  # fmt: skip
    given = (place, says, step)
    return plant(name, kind, vector(body, right), vector(body, wrong), given, steps=steps)


def sgd(lr: float = 0.1, **options: Any) -> tuple[str, dict[str, Any]]:
    return "SGD", {"lr": lr, **options}


def adam(lr: float = 1e-2, **options: Any) -> tuple[str, dict[str, Any]]:
    return "Adam", {"lr": lr, **options}


DECAY = {"weight_decay": 0.1}
MOMENTUM = {"momentum": 0.9}

GRADIENTS = [
    trained("no clipping", "gradient", Recipe(sgd(), clip=("norm", 0.1)), Recipe(sgd()),
        "clip|update", "not clipped"),
    trained("clipped by value", "gradient", Recipe(sgd(), clip=("norm", 0.1)), Recipe(sgd(),
        clip=("value", 0.1)), "clip|update", "[Ee]ach element"),
    trained("clipped without epsilon", "gradient", Recipe(sgd(), clip=("norm", 0.1)),
        Recipe(sgd(), clip=(faulty.clip_without_epsilon, 0.1)), "clip|update", "1e-6"),
    trained("clipped to another norm", "gradient", Recipe(sgd(), clip=("norm", 0.1)),
        Recipe(sgd(), clip=("norm", 0.2)), "clip|update", "0.2"),
    in_vector("gradient stopped", layer("Linear", 8, 8), layer(faulty.NoGradient, 8, 8),
        "stop|gradient", "gradient"),
    plant("frozen weight", "gradient", vector(layer("Linear", 8, 8)),
        vector(layer(faulty.NoWeightGradient, 8, 8)), ("param_grad:1.weight",
        "stop|frozen|gradient")),
    plant("tied, gradients not added", "gradient", text(layer("Tanh"), tied="Tied"),
        text(layer("Tanh"), tied=faulty.TiedOnce), ("embedding.weight", "tied|add")),
]  # fmt: skip

OPTIMIZERS = [
    trained("Adam for AdamW", "optimizer", Recipe(("AdamW", {"lr": 0.01, **DECAY})),
        Recipe(adam(**DECAY)), "update", "decoupled|coupled|AdamW"),
    trained("AdamW for Adam", "optimizer", Recipe(adam(**DECAY)), Recipe(("AdamW", {"lr": 0.01,
        **DECAY})), "update", "decoupled|AdamW"),
    trained("AdamW, default decay of optax", "optimizer", Recipe(("AdamW", {"lr": 0.01})),
        Recipe(("AdamW", {"lr": 0.01, "weight_decay": 0.0001})), "update", "0.0001|decay"),
    trained("Adam, eps", "optimizer", Recipe(adam()), Recipe(adam(eps=1e-06)), "update",
        "1e-06|eps"),
    trained("Adam, eps inside the root", "optimizer", Recipe(adam()), Recipe((faulty.adam,
        {"fault": "inside", "lr": 0.01})), "update", "root"),
    trained("Adam, eps before the correction", "optimizer", Recipe(adam(eps=0.0001)),
        Recipe((faulty.adam, {"fault": "before correction", "lr": 0.01, "eps": 0.0001})), "update",
        "correct"),
    trained("Adam, not corrected", "optimizer", Recipe(adam()), Recipe((faulty.adam, {"fault":
        "uncorrected", "lr": 0.01})), "update", "correct"),
    trained("Adam, betas", "optimizer", Recipe(adam()), Recipe(adam(betas=(0.9, 0.99))),
        "update|state", "beta|0.99", 0),
    trained("Adam, amsgrad", "optimizer", Recipe(adam(amsgrad=True)), Recipe(adam()),
        "update|state", "amsgrad|AMSGrad", 1),
    trained("learning rate", "optimizer", Recipe(sgd()), Recipe(sgd(0.05)), "update|lr",
        "0.05|0.5 times"),
    trained("SGD, no momentum", "optimizer", Recipe(sgd(**MOMENTUM)), Recipe(sgd()),
        "update|state", "momentum", 1),
    trained("SGD, nesterov", "optimizer", Recipe(sgd(**MOMENTUM)), Recipe(sgd(nesterov=True,
        **MOMENTUM)), "update", "esterov"),
    trained("SGD, dampening", "optimizer", Recipe(sgd(**MOMENTUM)), Recipe(sgd(dampening=0.1,
        **MOMENTUM)), "update|state", "dampening", 1),
    trained("SGD, buffer is an average", "optimizer", Recipe(sgd(**MOMENTUM)),
        Recipe((faulty.sgd, {"fault": "average", "lr": 0.1, **MOMENTUM})), "update|state",
        "average|dampening"),
    trained("SGD, decay decoupled", "optimizer", Recipe(sgd(**MOMENTUM, **DECAY)),
        Recipe((faulty.sgd, {"fault": "decoupled", "lr": 0.1, **MOMENTUM, **DECAY})),
        "update|state", "decoupled"),
    trained("SGD, no decay", "optimizer", Recipe(sgd(**DECAY)), Recipe(sgd()), "update",
        "decay"),
    trained("RMSprop, alpha", "optimizer", Recipe(("RMSprop", {"lr": 0.01})), Recipe(("RMSprop",
        {"lr": 0.01, "alpha": 0.9})), "update|state", "alpha|0.9"),
]  # fmt: skip

STEP = ("StepLR", {"step_size": 2, "gamma": 0.5})
SCHEDULES = [
    trained("no schedule", "schedule", Recipe(sgd(), STEP), Recipe(sgd()), "update|lr",
        "constant|schedule|learning rate", 2),
    trained("gamma", "schedule", Recipe(sgd(), STEP), Recipe(sgd(), ("StepLR", {"step_size": 2,
        "gamma": 0.1})), "update|lr", "0.2|0.1|gamma", 2),
    trained("one step early", "schedule", Recipe(sgd(), ("ExponentialLR", {"gamma": 0.9})),
        Recipe(sgd(0.09), ("ExponentialLR", {"gamma": 0.9})), "update|lr",
        "next|early|step|factor", 0),
    trained("T_max", "schedule", Recipe(sgd(), ("CosineAnnealingLR", {"T_max": 5})),
        Recipe(sgd(), ("CosineAnnealingLR", {"T_max": 4})), "update|lr", "T_max|longer|shorter", 1),
    trained("momentum inside a schedule", "schedule", Recipe(sgd(**MOMENTUM), ("ExponentialLR",
        {"gamma": 0.5})), Recipe((faulty.sgd, {"fault": "rate inside", "lr": 0.1, **MOMENTUM}),
        ("ExponentialLR", {"gamma": 0.5})), "update|state", "lr|rate", 0),
]  # fmt: skip
