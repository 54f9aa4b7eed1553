"""Functional training: a state, steps over it, and loops of steps."""

from jaxnet.train.epoch import make_epoch, make_repeat
from jaxnet.train.records import Run, environment
from jaxnet.train.state import Structure, TrainState, create, merge, split
from jaxnet.train.step import make_eval_step, make_predict, make_train_step, supervised

__all__ = [
    "Run",
    "Structure",
    "TrainState",
    "create",
    "environment",
    "make_epoch",
    "make_eval_step",
    "make_predict",
    "make_repeat",
    "make_train_step",
    "merge",
    "split",
    "supervised",
]
