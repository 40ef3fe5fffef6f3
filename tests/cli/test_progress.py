"""Bars show on a terminal, after two seconds, with rate and time left; elsewhere nothing is printed."""

from __future__ import annotations

import io
import sys

import pytest

import resflow.progress as bars
from resflow.progress import followed, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "terminal", "shows"), [(0.0, True, True), (60.0, True, False), (0.0, False, False)]
)
def test_a_bar_shows_on_a_terminal_after_a_while(
    monkeypatch: pytest.MonkeyPatch, patience: float, terminal: bool, shows: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bars, "PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm")
    assert list(followed(range(5), "counting", 5)) == [0, 1, 2, 3, 4]
    said = stream.getvalue()
    assert bool(said) == shows
    if shows:
        assert "counting" in said
        assert "images/s" in said
        assert "0:00:" in said  # the time left


def test_the_whole_may_become_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with progress("making", unit="shards") as show:
        show(1, 4)
    assert "1/4" in stream.getvalue()
    assert "shards/s" in stream.getvalue()
