"""torch.optim as optax transformations: update rules, schedules, gradient tools."""

from jaxnet.optim.accumulation import AccumulateState, accumulate
from jaxnet.optim.adafactor import Adafactor
from jaxnet.optim.adam import Adam, Adamax, AdamW
from jaxnet.optim.averaging import (
    AveragedModel,
    AveragedState,
    get_ema_avg_fn,
    get_swa_avg_fn,
    update_bn,
)
from jaxnet.optim.clip import (
    chain,
    clip_by_norm,
    clip_by_value,
    clip_grad_norm_,
    clip_grad_value_,
    get_total_norm,
)
from jaxnet.optim.cycles import CyclicLR, OneCycleLR
from jaxnet.optim.lbfgs import LBFGS
from jaxnet.optim.lr_scheduler import (
    SWALR,
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)
from jaxnet.optim.muon import Muon
from jaxnet.optim.optimizer import (
    Optimizer,
    OptimizerState,
    get_hyperparams,
    learning_rates,
    set_hyperparams,
)
from jaxnet.optim.parameter_groups import frozen, groups
from jaxnet.optim.plateau import PlateauState, ReduceLROnPlateau
from jaxnet.optim.radam import NAdam, RAdam
from jaxnet.optim.rmsprop import Adadelta, Adagrad, RMSprop
from jaxnet.optim.rprop import ASGD, Rprop
from jaxnet.optim.scaling import GradScaler, ScalerState, SkipState, loss_scale, skip_nonfinite
from jaxnet.optim.schedule import Schedule, ScheduledState, scheduled
from jaxnet.optim.sgd import SGD
from jaxnet.optim.state_dict import load_optimizer_state_dict, optimizer_state_dict

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "SWALR",
    "AccumulateState",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AveragedModel",
    "AveragedState",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "GradScaler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "Muon",
    "NAdam",
    "OneCycleLR",
    "Optimizer",
    "OptimizerState",
    "PlateauState",
    "PolynomialLR",
    "RAdam",
    "RMSprop",
    "ReduceLROnPlateau",
    "Rprop",
    "ScalerState",
    "Schedule",
    "ScheduledState",
    "SequentialLR",
    "SkipState",
    "StepLR",
    "accumulate",
    "chain",
    "clip_by_norm",
    "clip_by_value",
    "clip_grad_norm_",
    "clip_grad_value_",
    "frozen",
    "get_ema_avg_fn",
    "get_hyperparams",
    "get_swa_avg_fn",
    "get_total_norm",
    "groups",
    "learning_rates",
    "load_optimizer_state_dict",
    "loss_scale",
    "optimizer_state_dict",
    "scheduled",
    "set_hyperparams",
    "skip_nonfinite",
    "update_bn",
]
