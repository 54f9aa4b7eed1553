"""The losses."""

import numpy as np

from tests.table import Case


def uniform(*shape, low=0.0, high=1.0):
    return lambda rng: rng.uniform(low, high, shape)


def classes(count, *shape, ignored=None):
    """Class numbers; of every three one is `ignored`, if given."""

    def make(rng):
        numbers = rng.randint(0, count, shape)
        if ignored is not None:
            numbers.reshape(-1)[::3] = ignored
        return numbers

    return make


def signs(*shape):
    return lambda rng: 2 * rng.randint(0, 2, shape) - 1


def log_probabilities(*shape):
    def make(rng):
        x = rng.standard_normal(shape)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    return make


def given_array(*values):
    return lambda rng: np.array(values)


def weights(*values):
    """A weight argument of a constructor: called with the library's array maker."""
    return lambda make: make(np.asarray(values, np.float32))


CASES = [
    Case("MSELoss", inputs=[(3, 2), (3, 2)]),
    Case("L1Loss", inputs=[(3, 2), (3, 2)]),
    Case("L1Loss", kwargs={"reduction": "sum"}, inputs=[(5,), (5,)]),
    Case("SmoothL1Loss", kwargs={"beta": 0.4}, inputs=[(4, 3), (4, 3)]),
    Case("HuberLoss", kwargs={"delta": 0.7, "reduction": "sum"}, inputs=[(4, 3), (4, 3)]),
    Case("GaussianNLLLoss", inputs=[(4, 3), (4, 3), uniform(4, 3)]),
    Case(
        "GaussianNLLLoss",
        kwargs={"full": True, "eps": 0.5, "reduction": "none"},
        inputs=[(4, 3), (4, 3), uniform(4)],
    ),
    Case("PoissonNLLLoss", inputs=[(4, 3), uniform(4, 3, high=4)]),
    Case(
        "PoissonNLLLoss",
        kwargs={"log_input": False, "full": True, "eps": 0.1, "reduction": "sum"},
        inputs=[uniform(4, 3), uniform(4, 3, low=0.1, high=4)],
    ),
    Case("NLLLoss", inputs=[log_probabilities(5, 3), classes(3, 5)]),
    Case(
        "NLLLoss",
        kwargs={"weight": weights(0.5, 2.0, 1.0), "ignore_index": 1},
        inputs=[(2, 3, 4), classes(3, 2, 4)],
    ),
    Case("CrossEntropyLoss", inputs=[(5, 3), classes(3, 5)]),
    Case("CrossEntropyLoss", inputs=[(3,), classes(3)], id="single"),
    Case(
        "CrossEntropyLoss",
        kwargs={"weight": weights(0.5, 2.0, 1.0), "label_smoothing": 0.2},
        inputs=[(2, 3, 2, 3), classes(3, 2, 2, 3, ignored=-100)],
    ),
    Case(
        "CrossEntropyLoss",
        kwargs={"ignore_index": 2, "reduction": "none", "label_smoothing": 1.0},
        inputs=[(4, 3, 2), classes(3, 4, 2)],
    ),
    Case(
        "CrossEntropyLoss",
        kwargs={"weight": weights(0.5, 2.0, 1.0), "label_smoothing": 0.1},
        inputs=[(4, 3, 2), uniform(4, 3, 2)],
        id="probabilities",
    ),
    Case("LinearCrossEntropyLoss", (3, 4), inputs=[(5, 3), classes(4, 5, ignored=-100)]),
    Case(
        "LinearCrossEntropyLoss",
        (3, 4),
        {"bias": True, "label_smoothing": 0.2, "weight": weights(0.5, 2.0, 1.0, 0.7)},
        inputs=[(3,), classes(4)],
        id="single",
    ),
    Case(
        "LinearCrossEntropyLoss",
        (3, 2),
        {"out_features": (2,), "bias": True, "reduction": "none"},
        inputs=[(4, 3), uniform(4, 2, 2)],
        id="probabilities",
    ),
    Case(
        "AdaptiveLogSoftmaxWithLoss",
        (4, 7, [2, 5]),
        {"div_value": 2.0, "head_bias": True},
        inputs=[(5, 4), classes(7, 5)],
        output=tuple,
    ),
    Case("KLDivLoss", kwargs={"reduction": "batchmean"}, inputs=[(4, 3), uniform(4, 3)]),
    Case("KLDivLoss", kwargs={"reduction": "none", "log_target": True}, inputs=[(4, 3), (4, 3)]),
    Case("BCELoss", inputs=[uniform(4, 3), uniform(4, 3)]),
    Case(
        "BCELoss",
        kwargs={"weight": weights(0.5, 2.0, 1.0), "reduction": "sum"},
        inputs=[uniform(4, 3), uniform(4, 3)],
    ),
    Case("BCEWithLogitsLoss", inputs=[(4, 3), uniform(4, 3)]),
    Case(
        "BCEWithLogitsLoss",
        kwargs={"weight": weights([0.5], [2.0]), "pos_weight": weights(3.0, 1.0, 0.2)},
        inputs=[(2, 3), uniform(2, 3)],
    ),
    Case("HingeEmbeddingLoss", (0.6,), inputs=[(4, 3), signs(4, 3)]),
    Case("SoftMarginLoss", kwargs={"reduction": "none"}, inputs=[(4, 3), signs(4, 3)]),
    Case("MarginRankingLoss", (0.3,), inputs=[(6,), (6,), signs(6)]),
    Case("CosineEmbeddingLoss", (0.2,), inputs=[(5, 3), (5, 3), signs(5)]),
    Case("CosineEmbeddingLoss", inputs=[(3,), (3,), signs()]),
    Case("TripletMarginLoss", inputs=[(4, 3), (4, 3), (4, 3)]),
    Case("TripletMarginLoss", (0.5, 1.5), {"swap": True}, inputs=[(3,), (3,), (3,)]),
    Case(
        "TripletMarginLoss",
        kwargs={"p": float("inf"), "eps": 0.1, "reduction": "none"},
        inputs=[(4, 2, 3), (4, 2, 3), (4, 2, 3)],
    ),
    Case(
        "TripletMarginWithDistanceLoss",
        kwargs={"swap": True, "margin": 2.0},
        inputs=[(4, 3), (4, 3), (4, 3)],
    ),
    Case("PairwiseDistance", (3.0,), {"keepdim": True}, inputs=[(4, 3), (4, 3)]),
    Case("MultiMarginLoss", inputs=[(5, 3), classes(3, 5)]),
    Case(
        "MultiMarginLoss",
        (2, 0.7),
        {"weight": weights(0.5, 2.0, 1.0), "reduction": "none"},
        inputs=[(5, 3), classes(3, 5)],
    ),
    Case(
        "MultiLabelMarginLoss",
        inputs=[(3, 4), given_array([3, 0, -1, 1], [-1, 1, 2, 3], [1, 1, 0, 2])],
    ),
    Case(
        "MultiLabelSoftMarginLoss",
        kwargs={"weight": weights(0.5, 2.0, 1.0), "reduction": "none"},
        inputs=[(4, 3), classes(2, 4, 3)],
    ),
    Case(
        "CTCLoss",
        inputs=[
            log_probabilities(6, 3, 4),
            given_array([1, 2, 2], [3, 1, 1], [2, 1, 3]),
            given_array(6, 4, 5),
            given_array(3, 1, 0),
        ],
    ),
    Case(
        "CTCLoss",
        (2,),
        {"reduction": "none", "zero_infinity": True},
        inputs=[
            (5, 2, 4),
            given_array(1, 1, 3, 0, 3),
            given_array(5, 3),
            given_array(3, 2),
        ],
        id="one after the other",
    ),
]
