"""Operations of torch's in float64 where its own does not exist, or takes much too long."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxnet.parity._wide_lstm import WideLstm

# Of an image with so few positions in its output the kernel, and not the image, is what is large:
# torch multiplies image by image and reads the whole kernel each time.
_POSITIONS = 16
# Maxima over so many channels are taken side by side where channels come last.
_CHANNELS = 8


def kernels(torch: Any, lstm: WideLstm | None = None) -> Mapping[str, Callable[..., Any]]:
    """The functions by the names of the operations; they take the operation's arguments.

    Args:
        torch: The package.
        lstm: The LSTM, which keeps numbers for the way back until it is told to forget them.
    """
    aten = torch.ops.aten
    layer = WideLstm(torch) if lstm is None else lstm

    def convolution(x: Any, weight: Any, bias: Any, stride: Any, *rest: Any) -> Any:
        form = _Columns.of(torch, x, weight, stride, *rest)
        if form is None:
            return aten.convolution.default(x, weight, bias, stride, *rest)
        kernel = weight.flatten(1).t()
        columns = form.columns(x)
        flat = columns @ kernel if bias is None else torch.addmm(bias, columns, kernel)
        return flat.view(len(x), *form.size, len(weight)).permute(0, 3, 1, 2).contiguous()

    def convolution_backward(
        gradient: Any, x: Any, weight: Any, biases: Any, stride: Any, *rest: Any
    ) -> Any:
        form = _Columns.of(torch, x, weight, stride, *rest[:-1])
        if form is None:
            return aten.convolution_backward.default(gradient, x, weight, biases, stride, *rest)
        flat = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        wanted = rest[-1]
        return (
            form.images(flat @ weight.flatten(1), x) if wanted[0] else None,
            (flat.t() @ form.columns(x)).view(weight.shape) if wanted[1] else None,
            flat.sum(0) if wanted[2] else None,
        )

    def max_pool2d(x: Any, *rest: Any, **more: Any) -> Any:
        if x.dim() == 4 and x.shape[1] >= _CHANNELS and x.is_contiguous() and x.is_cpu:
            x = x.contiguous(memory_format=torch.channels_last)
            found = aten.max_pool2d_with_indices.default(x, *rest, **more)
            return tuple(each.contiguous() for each in found)
        return aten.max_pool2d_with_indices.default(x, *rest, **more)

    return {
        "mkldnn_rnn_layer": layer.forward,
        "mkldnn_rnn_layer_backward": layer.backward,
        "convolution": convolution,
        "convolution_backward": convolution_backward,
        "max_pool2d_with_indices": max_pool2d,
    }


class _Columns:
    """A convolution as one product of matrices: what each position sees becomes a row.

    Args:
        torch: torch.
        size: Height and width of the output.
        window: Those of the kernel.
        stride, padding, dilation: As torch's convolution has them.
    """

    def __init__(
        self,
        torch: Any,
        size: Sequence[int],
        window: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        self.torch, self.size, self.window = torch, size, window
        self.rest = {"stride": stride, "padding": padding, "dilation": dilation}

    @classmethod
    def of(
        cls,
        torch: Any,
        x: Any,
        weight: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> "_Columns | None":
        """The form of a convolution; None where torch's own is as fast."""
        if transposed or groups != 1 or x.dim() != 4 or not x.is_cpu or not x.is_floating_point():
            return None
        window = weight.shape[2:]
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x.shape[2:], window, stride, padding, dilation, strict=True)
        ]
        if not 0 < size[0] * size[1] <= _POSITIONS:
            return None
        return cls(torch, size, window, stride, padding, dilation)

    def columns(self, x: Any) -> Any:
        """A row for each position of each image."""
        unfold = self.torch.nn.functional.unfold
        columns = unfold(x, self.window, **self.rest)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])

    def images(self, columns: Any, like: Any) -> Any:
        """The sums of what lies over each other, as the gradient of `columns`."""
        fold = self.torch.nn.functional.fold
        rows = columns.view(len(like), self.size[0] * self.size[1], columns.shape[1])
        return fold(rows.transpose(1, 2), like.shape[2:], self.window, **self.rest)
