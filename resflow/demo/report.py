"""What the demonstration prints: a table that grows by a row an epoch, progress on a terminal, closing words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from resflow.demo.data import Data
from resflow.demo.train import EpochResult

Element = TypeVar("Element")

_COLUMNS = {
    "epoch": 5,
    "resolution": 10,
    "shapes": 6,
    "images/s": 8,
    "padded %": 8,
    "cropped %": 9,
    "loss": 6,
    "accuracy %": 10,
}


class Report:
    """Prints to a console.

    Args:
        console: where to; progress bars are shown only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str = "") -> None:
        """Print a line as it is; long ones are broken only on a terminal."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)

    def watch(self, elements: Iterable[Element], count: int, what: str) -> Iterator[Element]:
        """Pass elements on, with a progress bar meanwhile on a terminal.

        Args:
            elements: what to pass on.
            count: how many there are.
            what: what is done with them.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            yield from bar.track(elements, total=count, description=what)

    def header(self) -> None:
        """Print the table's head."""
        self.say("images/s counts loading and training together; accuracy is that on held-out images")
        self.console.print(_table(show_header=True))

    def row(self, result: EpochResult) -> None:
        """Print an epoch's row."""
        table = _table(show_header=False)
        table.add_row(
            str(result.epoch),
            str(result.resolution),
            str(result.shapes),
            f"{result.images_per_second:,.0f}",
            f"{100 * result.padded:.1f}",
            f"{100 * result.cropped:.1f}",
            f"{result.loss:.3f}",
            f"{100 * result.accuracy:.1f}",
        )
        self.console.print(table)


def data_text(data: Data, ratios: tuple[float, float]) -> str:
    """One line on the data.

    Args:
        data: the data.
        ratios: least and largest aspect ratio of the training images.
    """
    return (
        f"{len(data.train):,} images to train on, {len(data.held_out):,} held out, {len(data.classes)} classes, "
        f"aspect ratios {ratios[0]:.2f} to {ratios[1]:.2f}"
    )


def closing_text(data: Data, accuracy: float) -> str:
    """What the last accuracy is worth: beside chance, and with a warning where the data cannot say much.

    Args:
        data: the data.
        accuracy: of the last epoch, in [0, 1].
    """
    most = len(data.held_out)
    lines = [
        f"held-out accuracy {accuracy:.1%} over {len(data.classes)} classes; always answering the most frequent class "
        f"gives {data.chance:.1%}"
    ]
    if data.unseen:
        lines.append(
            f"{data.unseen:,} of the {most:,} held-out images are of a class that no training image shows: "
            "this accuracy says nothing about the model"
        )
    elif most < 100:
        lines.append(f"only {most} images were held out: one of them is worth {1 / most:.1%} of accuracy")
    per_class = len(data.train) / len(data.classes)
    if per_class < 50:
        lines.append(f"{per_class:.1f} training images a class are few for training from scratch; expect little")
    return "\n".join(lines)


def _table(*, show_header: bool) -> Table:
    table = Table(box=None, show_header=show_header, padding=(0, 1), header_style="bold")
    for name, width in _COLUMNS.items():
        table.add_column(name, justify="right", width=width, no_wrap=True)
    return table
