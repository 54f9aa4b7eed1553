"""The progress bar of a run, which shows what there is room for on one line."""

from collections.abc import Iterable
from typing import Any

from rich.progress import BarColumn, Progress, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_WIDTH = 20  # of the bar itself


class Bar(Progress):
    """A bar of one line in a terminal of any width: what does not fit is left out.

    The first metric is the last to go; before it go the epoch, the percentage, the bar, the time
    that remains, the other metrics and the rows. A task has a field `metrics`, which is a list
    of names and numbers.
    """

    _bar = BarColumn(bar_width=_WIDTH)
    _remaining = TimeRemainingColumn()

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """The lines of all tasks, of which a run has one."""
        table = Table.grid(padding=(0, 1))
        for task in tasks:
            table.add_row(*self._cells(task))
        return table

    def _cells(self, task: Task) -> list[Any]:
        width = self.console.width
        metrics = [f"{name} {value:.4g}" for name, value in task.fields["metrics"]]
        if metrics and len(metrics[0]) > width:
            metrics = [_short(task.fields["metrics"][0][1], width)]
        left = width - len(metrics[0]) if metrics else width + 1
        cells: dict[str, Any] = {}

        def add(name: str, cell: Any, needs: int) -> None:
            nonlocal left
            if needs < left:  # and not equal: one column is between two cells
                cells[name] = cell
                left -= needs + 1

        add("epoch", Text(task.description), len(task.description))
        rows = f"{task.completed:,.0f} rows"
        if task.total is not None:
            add("percentage", Text(f"{task.percentage:3.0f}%"), 4)
            add("bar", self._bar(task), _WIDTH)
            remaining = self._remaining.render(task)
            add("remaining", remaining, remaining.cell_len)
            rows = f"{task.completed:,.0f}/{task.total:,.0f} rows"
        shown = metrics[:1]
        for metric in metrics[1:]:
            if len(metric) + 2 <= left:
                shown.append(metric)
                left -= len(metric) + 2
        if shown:
            cells["metrics"] = Text(", ".join(shown))
        add("rows", Text(rows), len(rows))
        order = ("epoch", "bar", "percentage", "metrics", "rows", "remaining")
        return [cells[name] for name in order if name in cells]


def _short(value: float, width: int) -> str:
    """A number with as many digits as fit."""
    texts = [f"{value:.{digits}g}" for digits in (4, 3, 2, 1)]
    return next((text for text in texts if len(text) <= width), texts[-1][: width - 1] + "…")
