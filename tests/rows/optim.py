"""The optimizers, with option sets that reach every branch of their arithmetic."""

from tests.optim.runs import MATRICES, Row

ROWS = [
    Row("SGD"),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    Row("Adam"),
    Row("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    Row("Adam", {"lr": 0.03, "amsgrad": True, "maximize": True}),
    Row("Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    Row("AdamW"),
    Row("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    Row("NAdam"),
    Row("NAdam", {"lr": 0.05, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    Row("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    Row("RAdam"),
    Row("RAdam", {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    Row("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    Row("RAdam", {"lr": 0.1, "betas": (0.9, 0.5)}),
    Row("Adamax"),
    Row("Adamax", {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1, "maximize": True}),
    Row("RMSprop"),
    Row("RMSprop", {"lr": 0.05, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    Row("RMSprop", {"centered": True, "momentum": 0.5, "eps": 0.1, "maximize": True}),
    Row("Adagrad"),
    Row(
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    Row("Adadelta"),
    Row("Adadelta", {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    Row("Rprop"),
    Row("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.5), "maximize": True}),
    Row("ASGD"),
    Row("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 10, "weight_decay": 0.1}),
    Row("Adafactor"),
    Row(
        "Adafactor",
        {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 1e-2), "d": 2.0, "weight_decay": 0.1},
    ),
    Row("Muon", {"ns_steps": 2}, MATRICES),
    Row("Muon", {"ns_steps": 1, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}, MATRICES),
]
SHOWN = (0, 1, 9, 99)
"""The steps that are kept as golden arrays."""
