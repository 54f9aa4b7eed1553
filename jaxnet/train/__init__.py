"""Functional training: a state, steps over it, and loops of steps."""

from jaxnet.train.callbacks import EachEpoch, EpochReport
from jaxnet.train.diagnose import Diagnosis, NonFiniteError, diagnose
from jaxnet.train.epoch import make_epoch, make_repeat
from jaxnet.train.fit import fit
from jaxnet.train.loop import Result
from jaxnet.train.progress import use_compilation_cache
from jaxnet.train.records import Run, environment
from jaxnet.train.state import Structure, TrainState, create, merge, split
from jaxnet.train.step import make_eval_step, make_predict, make_train_step, supervised
from jaxnet.train.visdom import Visdom
from jaxnet.train.writers import Records

__all__ = [
    "Diagnosis",
    "EachEpoch",
    "EpochReport",
    "NonFiniteError",
    "Records",
    "Result",
    "Run",
    "Structure",
    "TrainState",
    "Visdom",
    "create",
    "diagnose",
    "environment",
    "fit",
    "make_epoch",
    "make_eval_step",
    "make_predict",
    "make_repeat",
    "make_train_step",
    "merge",
    "split",
    "supervised",
    "use_compilation_cache",
]
