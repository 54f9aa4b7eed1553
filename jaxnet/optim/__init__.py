"""The optimizers and schedules of torch.optim as optax transformations, and gradient tools."""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet.optim._accumulation import AccumulateState, accumulate
from jaxnet.optim._adafactor import Adafactor
from jaxnet.optim._adam import Adam, Adamax, AdamW
from jaxnet.optim._averaging import (
    AveragedModel,
    AveragedState,
    get_ema_avg_fn,
    get_swa_avg_fn,
    update_bn,
)
from jaxnet.optim._clip import (
    chain,
    clip_by_norm,
    clip_by_value,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from jaxnet.optim._combined_schedules import ChainedScheduler, SequentialLR
from jaxnet.optim._cycles import CyclicLR, OneCycleLR
from jaxnet.optim._hyperparams import get_hyperparams, learning_rates, set_hyperparams
from jaxnet.optim._lbfgs import LBFGS
from jaxnet.optim._lr_scheduler import (
    SWALR,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from jaxnet.optim._muon import Muon
from jaxnet.optim._optimizer import Optimizer, OptimizerState
from jaxnet.optim._parameter_groups import frozen, groups, regroup
from jaxnet.optim._plateau import PlateauState, ReduceLROnPlateau
from jaxnet.optim._radam import NAdam, RAdam
from jaxnet.optim._rmsprop import Adadelta, Adagrad, RMSprop
from jaxnet.optim._rprop import ASGD, Rprop
from jaxnet.optim._scaling import GradScaler, ScalerState, SkipState, loss_scale, skip_nonfinite
from jaxnet.optim._schedule import Schedule, ScheduledState, scheduled
from jaxnet.optim._sgd import SGD
from jaxnet.optim._state_dict import load_optimizer_state_dict, optimizer_state_dict

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
    "clip_grads_with_norm_",
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
    "regroup",
    "scheduled",
    "set_hyperparams",
    "skip_nonfinite",
    "update_bn",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.optim")
del TYPE_CHECKING, module_getattr
