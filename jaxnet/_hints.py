"""Attributes that a PyTorch program uses and jaxnet does not have, and what to write instead.

A class or a module looks a name up in its table only when it has no such attribute: the
attributes that exist take no longer, `hasattr` says False, and the error says what to write.
"""

import dis
import sys
from collections.abc import Callable, Mapping
from typing import Any

DEVICE = (
    "arrays are made on the first GPU where there is one; to put a training state somewhere else "
    'write jax.device_put(state, jax.devices("cpu")[0])'
)
_NO_GRADIENTS = (
    "gradients are values that jax.grad returns, so there is nothing to reset; a step from "
    "train.make_train_step computes them anew"
)
_FREEZE = (
    "freezing is up to the optimizer: write "
    'optim.groups([("layer1.*", optim.frozen())], optim.SGD(0.1)), with a pattern of the names'
)
_GRADIENTS = (
    "jax.grad returns the gradients by name: look at them, or ask "
    "train.make_train_step(..., grad_norm=True) for their norm"
)
_STEP = (
    "step = train.make_train_step(loss, optimizer); state, metrics = step(state, batch) does "
    "the forward pass, the gradient and the update"
)

MODULE: Mapping[str, str] = {
    **dict.fromkeys(("cuda", "cpu", "ipu", "mtia", "xpu", "share_memory", "to_empty"), DEVICE),
    "type": "write model.to(jnp.bfloat16)",
    "register_module": "write model.add_module(name, module)",
    "set_submodule": "write model.get_submodule(path).name = module",
    "get_extra_state": "what belongs to the state is an array: model.register_buffer(name, array)",
    "set_extra_state": "what belongs to the state is an array: model.register_buffer(name, array)",
    **dict.fromkeys(
        (
            "register_state_dict_pre_hook",
            "register_state_dict_post_hook",
            "register_load_state_dict_pre_hook",
            "register_load_state_dict_post_hook",
        ),
        "a state_dict is a dict: change it before model.load_state_dict or after model.state_dict",
    ),
    "requires_grad_": _FREEZE,
    "zero_grad": _NO_GRADIENTS,
    "forward": "call the module itself, model(x); a module of your own defines __call__",
    "register_full_backward_hook": _GRADIENTS,
    "register_full_backward_pre_hook": _GRADIENTS,
    "register_backward_hook": _GRADIENTS,
    "compile": "write jax.jit(step) for a step of your own loop; train.fit compiles by itself",
    "backward": _STEP,
}
"""What to write instead of each attribute of torch.nn.Module."""

PARAMETER: Mapping[str, str] = {
    "requires_grad": _FREEZE,
    "requires_grad_": _FREEZE,
    "grad": (
        "gradients are values: jax.grad(f)(params) returns them in a dictionary like params, "
        "and train.make_train_step applies them"
    ),
    "data": "write p[...] to read the array, and p[...] = array to change it",
    "copy_": "write p[...] = array",
    "fill_": "write nn.init.constant_(p, value)",
    "zero_": "write nn.init.zeros_(p)",
    "normal_": "write nn.init.normal_(p, mean, std, generator=generator)",
    "uniform_": "write nn.init.uniform_(p, low, high, generator=generator)",
    "detach": "write jax.lax.stop_gradient(p[...])",
    "numel": "write p.size",
    "numpy": "write numpy.asarray(p[...])",
    "backward": _STEP,
    "register_hook": f"{_GRADIENTS}; to change them, write a transform into optim.chain",
}
"""What to write instead of each attribute of torch.nn.Parameter."""

OPTIMIZER: Mapping[str, str] = {
    "step": _STEP,
    "zero_grad": _NO_GRADIENTS,
    "state_dict": "write optim.optimizer_state_dict(optimizer, opt_state, params, names)",
    "load_state_dict": (
        "write optim.load_optimizer_state_dict(optimizer, opt_state, params, state_dict, names)"
    ),
    "param_groups": (
        "write optim.get_hyperparams(state.opt_state, group=0) to read, and "
        "optim.set_hyperparams(state.opt_state, group=0, lr=0.01) to change"
    ),
    "add_param_group": (
        "write new = optim.groups([(pattern, optimizer), ...], default) and "
        "opt_state = optim.regroup(old, opt_state, params, new)"
    ),
    "state": "the optimizer's state is in the training state, state.opt_state",
    "scale": "write train.make_train_step(..., loss_scale=optim.loss_scale), which scales the loss",
    "unscale_": (
        "GradScaler unscales before the optimizer that it is given: "
        "optim.GradScaler(optim.chain(optim.clip_by_norm(1.0), optim.SGD(0.1)))"
    ),
}
"""What to write instead of each attribute of torch.optim.Optimizer and torch.amp.GradScaler."""

_SCHEDULE = (
    "write optimizer = optim.scheduled(optimizer, schedule, steps), which follows it by itself, or "
    "opt_state = schedule.apply(opt_state, epoch) once an epoch"
)

SCHEDULE: Mapping[str, str] = {
    "step": _SCHEDULE,
    "get_last_lr": "write schedule.lr(step)",
    "last_epoch": "a schedule counts nothing; schedule.lr(step) gives the rates of any step",
    "base_lrs": "write schedule.lr(0)",
    "state_dict": "a schedule keeps no state: a checkpoint of the training state is enough",
    "load_state_dict": "a schedule keeps no state: a checkpoint of the training state is enough",
}
"""What to write instead of each attribute of torch.optim.lr_scheduler.LRScheduler."""


_MEMORY_FORMAT = "XLA chooses how arrays lie in memory, so there is nothing to convert"
_FLASH = "the kernels are XLA's and cuDNN's; nn.attention.sdpa_kernel chooses between them"
_PIPES = (
    "data pipes are not there, and torchdata has given them up; write a class with __getitem__ "
    "and __len__, or a data.IterableDataset, whose __iter__ may be a generator"
)
_PIPE_NAMES = (
    "DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "argument_validation",
    "functional_datapipe", "guaranteed_datapipes_determinism", "non_deterministic",
    "runtime_validation", "runtime_validation_disabled",
)  # fmt: skip
_SCALED = (
    "8-bit floats with scales have no layer here; write jax.lax.dot_general with "
    "preferred_element_type, or jax.nn.scaled_matmul"
)
_QUANTIZED = "there are no quantized tensors; compute in bfloat16 with compute_dtype"
_DATA_PARALLEL = (
    'one program runs on all devices: write train.fit(..., mesh="data=4") for four of them'
)
_CLASS_OF_MASK = "nn.attention.bias.causal_lower_right(L, S) gives the mask itself, booleans (L, S)"
_LAZY = (
    "Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d",
    "ConvTranspose3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d",
    "InstanceNorm2d", "InstanceNorm3d",
)  # fmt: skip
_SIZES = {"L": "in_features, out_features", "C": "in_channels, out_channels, kernel_size"}
_IN_PLACE = ("celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu")
_LOSSES = (
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss",
    "GaussianNLLLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "LinearCrossEntropyLoss", "MarginRankingLoss", "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss", "SmoothL1Loss",
    "SoftMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss",
)  # fmt: skip

_KERNEL = (
    "XLA chooses among its own kernels under SDPBackend.MATH; cuDNN's fused kernel is "
    "SDPBackend.CUDNN_ATTENTION"
)
SDP_BACKEND: Mapping[str, str] = dict.fromkeys(
    ("EFFICIENT_ATTENTION", "ERROR", "FLASH_ATTENTION", "OVERRIDEABLE"), _KERNEL
)
"""What to write instead of each member of torch.nn.attention.SDPBackend."""

NAMES: Mapping[str, Mapping[str, str]] = {
    "jaxnet.nn": {
        **{
            f"Lazy{name}": f"write nn.{name}({_SIZES.get(name[0], 'num_features')}): the sizes of "
            "the input are given"
            for name in _LAZY
        },
        "Container": "write nn.Module, nn.Sequential or nn.ModuleList",
        "CrossMapLRN2d": (
            "write nn.LocalResponseNorm, whose formula it has; torch's own sums never lose the "
            "first channel"
        ),
        "DataParallel": _DATA_PARALLEL,
        "NLLLoss2d": "write nn.NLLLoss, which takes (N, C, H, W) too",
        "UninitializedBuffer": "write nn.Buffer(array)",
        "UninitializedParameter": "write nn.Parameter(array)",
        "parallel": _DATA_PARALLEL,
        "quantized": _QUANTIZED,
        "quantizable": _QUANTIZED,
        "qat": _QUANTIZED,
    },
    "jaxnet.nn.functional": {
        **{
            f"{name}_": f"arrays do not change in place; write x = nn.functional.{name}(x)"
            for name in _IN_PLACE
        },
        "threshold_": "arrays do not change in place; write x = nn.functional.threshold(x, "
        "threshold, value)",
        **{
            f"{kind}_max_pool{n}d_with_indices": f"write {kind}_max_pool{n}d(..., "
            "return_indices=True)"
            for kind in ("adaptive", "fractional")
            for n in (1, 2, 3)
            if (kind, n) != ("fractional", 1)
        },
        **{
            f"max_pool{n}d_with_indices": f"write max_pool{n}d(..., return_indices=True)"
            for n in (1, 2, 3)
        },
        "scaled_grouped_mm": _SCALED,
        "scaled_mm": _SCALED,
        "upsample": "write nn.functional.interpolate",
        "upsample_bilinear": (
            'write nn.functional.interpolate(x, scale_factor=2, mode="bilinear", '
            "align_corners=True)"
        ),
        "upsample_nearest": "write nn.functional.interpolate(x, scale_factor=2)",
    },
    "jaxnet.nn.attention.bias": {"CausalBias": _CLASS_OF_MASK, "CausalVariant": _CLASS_OF_MASK},
    "jaxnet.losses": {
        **{name: f"the losses here are functions; write nn.{name}" for name in _LOSSES},
    },
    "jaxnet.optim": {
        "LRScheduler": "write optim.Schedule, the class of all schedules",
        "SparseAdam": "gradients are never sparse; write optim.Adam",
        "get_ema_multi_avg_fn": "write optim.get_ema_avg_fn",
        "get_swa_multi_avg_fn": "write optim.get_swa_avg_fn",
        "lr_scheduler": "write optim.StepLR for torch.optim.lr_scheduler.StepLR, and so on",
        "swa_utils": "write optim.AveragedModel for torch.optim.swa_utils.AveragedModel",
        "swap_in_optimizer_params_and_state": (
            "an update is a function of its arguments; write optimizer.update(gradients, "
            "opt_state, params) with any parameters and any state"
        ),
    },
    "jaxnet.nn.utils": {
        "clip_grad_norm": "write optim.clip_grad_norm_(grads, max_norm)",
        "clip_grad_norm_": (
            "write grads, norm = optim.clip_grad_norm_(grads, max_norm), or "
            "optim.chain(optim.clip_by_norm(max_norm), optimizer) for make_train_step"
        ),
        "clip_grad_value_": (
            "write grads = optim.clip_grad_value_(grads, clip_value), or "
            "optim.chain(optim.clip_by_value(clip_value), optimizer) for make_train_step"
        ),
        "clip_grads_with_norm_": "write grads = optim.clip_grads_with_norm_(grads, max_norm, norm)",
        "get_total_norm": "write optim.get_total_norm(grads)",
        "skip_init": (
            "build the layer with any rngs and load the weights with layer.load_state_dict(...); "
            "drawing the first ones takes little time"
        ),
        "stateless": (
            "write structure, params, buffers = train.split(model), and then "
            "train.merge(structure, params, buffers)(x) with other arrays"
        ),
    },
    "jaxnet.nn.utils.parametrize": {
        "transfer_parametrizations_and_params": (
            "write copy.deepcopy(layer), which keeps its parametrizations"
        ),
    },
    "jaxnet.nn.utils.prune": dict.fromkeys(
        (
            "BasePruningMethod",
            "CustomFromMask",
            "Identity",
            "LnStructured",
            "PruningContainer",
            "RandomStructured",
        ),
        "pruning is by functions; write nn.utils.prune.custom_from_mask(layer, name, mask)",
    ),
}
"""What to write instead of each name of a torch module that jaxnet has under no such name."""

NO_USE: Mapping[str, Mapping[str, str]] = {
    "jaxnet.nn.attention": {
        "WARN_FOR_UNFUSED_KERNELS": _FLASH,
        "activate_flash_attention_impl": _FLASH,
        "current_flash_attention_impl": _FLASH,
        "list_flash_attention_impls": _FLASH,
        "register_flash_attention_impl": _FLASH,
        "restore_flash_attention_impl": _FLASH,
    },
    "jaxnet.nn.utils": {
        "convert_conv2d_weight_memory_format": _MEMORY_FORMAT,
        "convert_conv3d_weight_memory_format": _MEMORY_FORMAT,
    },
    "jaxnet.data": {
        **dict.fromkeys(_PIPE_NAMES, _PIPES),
    },
}
"""Why a name of a torch module has no meaning here, by module and name."""

_IMPORT_FROM = dis.opmap["IMPORT_FROM"]


def module_getattr(module: str, further: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a module, which Python calls for a name that the module has not.

    The error is an AttributeError that says what to write. `from jaxnet.nn import LazyLinear`
    would drop it and raise an ImportError without those words; there the error is an ImportError.

    Args:
        module: The module's name.
        further: What to write instead of further names.
    """
    table = {**(further or {}), **NAMES.get(module, {}), **NO_USE.get(module, {})}

    def missing(name: str) -> Any:
        message = f"module {module!r} has no attribute {name!r}"
        if name in table:
            message += f"; in jaxnet, {table[name]}"
            caller = sys._getframe(1)
            if caller.f_lasti >= 0 and caller.f_code.co_code[caller.f_lasti] == _IMPORT_FROM:
                raise ImportError(message, name=module)
        raise AttributeError(message, name=name, obj=sys.modules[module])

    return missing


def missing_attribute(owner: Any, name: str, table: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that an object does not have, with what to write instead.

    Args:
        owner: The object, or the class.
        name: The name of the attribute.
        table: What to write instead, by attribute; an attribute may be missing from it.
    """
    what = (
        f"class {owner.__name__!r}"
        if isinstance(owner, type)
        else (f"{type(owner).__name__!r} object")
    )
    message = f"{what} has no attribute {name!r}"
    if name in table:
        message += f"; in jaxnet, {table[name]}"
    return AttributeError(message, name=name, obj=owner)
