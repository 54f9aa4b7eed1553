"""The arguments of `jaxnet predict`, which `_predict` runs."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

ABOUT = """    jaxnet predict net.jaxexport photo.jpg photos/ --classes labels.txt -o out.csv
    jaxnet predict net.jaxexport photos/ --classes labels.txt --top 5 \\
        --resize 256 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    jaxnet predict net.jaxexport table.csv --columns length,width -o out.csv

The model is a file of train.export, and knows the shapes of its inputs. It is a program: use it
only if you trust whoever wrote it. It needs flatbuffers, and images need pillow
(pip install flatbuffers pillow).

Images are .png and .jpg files, and folders of them (folders within are not searched). They are
turned upright, made RGB without alpha, or grey for a model of one channel; resized so that the
shorter side has --resize pixels, cut to the middle, brought to [0, 1], and normalized by --mean and
--std. This is torchvision's Resize, CenterCrop, ToTensor and Normalize. Give the numbers that the
model was trained with; what was done is printed.

Tables are .csv files whose first line names the columns, all of them numbers, or those of
--columns; and .npy and .npz files, whose arrays are the inputs in their order, with the rows along
axis 0. Numbers have to be scaled as for training; --mean and --std do it for a .csv.

What comes out has a line for each image or row: the file, for tables the number of the row from 0,
and the outputs. With --classes, or --top, it has the most likely classes and their probabilities,
which are the softmax of the outputs; --no-softmax takes the outputs as they are. Without -o the
first 20 lines are shown, and -o - prints all of them as CSV.

Exit status: 0; 1 if some of the files could not be predicted, which are named, while the others
are written; 2 if nothing was."""


def add(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Gives the parser of `jaxnet predict` its arguments.

    Args:
        parser: The parser.
        positive: The function that reads a whole number from 1.
    """
    parser.usage = "jaxnet predict [options] MODEL FILE [FILE ...]"
    parser.add_argument("model", type=Path, help="a file of train.export")
    parser.add_argument(
        "files", type=Path, nargs="+", help="images and folders of images, or tables"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the .csv to write; - prints it; a table without it"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="rows at a time (32)")
    outputs = parser.add_argument_group("what comes out")
    outputs.add_argument(
        "--classes", type=Path, metavar="FILE", help="the names of the classes, one a line, in the "
        "order of the outputs"
    )  # fmt: skip
    outputs.add_argument(
        "--top", type=positive, metavar="N", help="how many classes, the most likely first (1)"
    )
    outputs.add_argument(
        "--softmax", action=argparse.BooleanOptionalAction, default=None,
        help="whether the softmax of the outputs is taken (with --classes and --top it is)",
    )  # fmt: skip
    images = parser.add_argument_group("images")
    images.add_argument(
        "--size", type=_sizes, metavar="N", help="height and width that the model takes, such as "
        "224 or 224,192; it is known from the model, and compared"
    )  # fmt: skip
    images.add_argument(
        "--resize", type=_sizes, metavar="N", help="pixels of the shorter side before the middle "
        "is cut out (the size), or height,width"
    )  # fmt: skip
    images.add_argument(
        "--as-stored", action="store_true", help="do not turn images as their EXIF data say"
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument(
        "--columns", type=_names, metavar="A,B", help="columns of a .csv, in the model's order"
    )
    for name, what in (("mean", "is taken away"), ("std", "is what is then divided by")):
        parser.add_argument(
            f"--{name}", type=_numbers, metavar="X,Y,Z",
            help=f"{what}, of each channel in [0, 1] or of each column; --{name}=-1,2 where the "
            "first is negative",
        )  # fmt: skip


def _sizes(text: str) -> list[int]:
    return _split(text, _whole, "a whole number from 1, or height,width", 2)


def _numbers(text: str) -> list[float]:
    return _split(text, _finite, "numbers such as 0.5 or 0.485,0.456,0.406", None)


def _names(text: str) -> list[str]:
    return _split(text, _word, "names such as a,b", None)


def _split(text: str, of: Callable[[str], _T], accepted: str, most: int | None) -> list[_T]:
    try:
        found = [of(part.strip()) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or (most is not None and len(found) > most):
        raise argparse.ArgumentTypeError(f"{text!r}; accepted is {accepted}")
    return found


def _whole(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def _word(text: str) -> str:
    if not text:
        raise ValueError
    return text
