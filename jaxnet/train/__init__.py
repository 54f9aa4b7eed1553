"""Functional training: a state, steps over it, and loops of steps."""

from jaxnet.train.epoch import make_epoch, make_repeat
from jaxnet.train.state import Structure, TrainState, create, merge, split
from jaxnet.train.step import make_eval_step, make_train_step, supervised

__all__ = [
    "Structure",
    "TrainState",
    "create",
    "make_epoch",
    "make_eval_step",
    "make_repeat",
    "make_train_step",
    "merge",
    "split",
    "supervised",
]
