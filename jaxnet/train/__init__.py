"""Functional training: a state, steps over it, and loops of steps."""

from jaxnet._processes import init_processes
from jaxnet.train._callbacks import EachEpoch, EpochReport, EverySteps, StepReport
from jaxnet.train._chunk import make_epoch, make_repeat
from jaxnet.train._diagnose import Diagnosis, NonFiniteError, diagnose
from jaxnet.train._evaluate import evaluate, make_eval_step, make_predict, predict
from jaxnet.train._export import export
from jaxnet.train._fit import fit
from jaxnet.train._mesh import gather, make_mesh, shard
from jaxnet.train._progress import use_compilation_cache
from jaxnet.train._records import Recorder, Records
from jaxnet.train._result import Result
from jaxnet.train._state import Structure, TrainState, create, merge, split
from jaxnet.train._step import TrainStep, make_train_step, supervised
from jaxnet.train._sweep import sweep
from jaxnet.train._sweep_result import Sweep
from jaxnet.train._visdom import Visdom

__all__ = [
    "Diagnosis",
    "EachEpoch",
    "EpochReport",
    "EverySteps",
    "NonFiniteError",
    "Recorder",
    "Records",
    "Result",
    "StepReport",
    "Structure",
    "Sweep",
    "TrainState",
    "TrainStep",
    "Visdom",
    "create",
    "diagnose",
    "evaluate",
    "export",
    "fit",
    "gather",
    "init_processes",
    "make_epoch",
    "make_eval_step",
    "make_mesh",
    "make_predict",
    "make_repeat",
    "make_train_step",
    "merge",
    "predict",
    "shard",
    "split",
    "supervised",
    "sweep",
    "use_compilation_cache",
]
