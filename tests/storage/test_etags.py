"""The first state of a remote file is the same for everyone who reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from resflow.storage import etags
from resflow.storage.etags import FirstEtags


def first_ones(folder: Path, threads: int = 8, rounds: int = 200) -> set[str]:
    """What threads, each with notes of its own as a process has, take for the first state of one file."""
    found: set[str] = set()
    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds):
            url = f"https://store/{number}.tar"
            found.update(pool.map(lambda _, url=url: FirstEtags(folder).first(url, "the tag"), range(threads)))
    return found


def test_many_readers_agree_on_the_first_state(tmp_path: Path) -> None:
    assert first_ones(tmp_path) == {"the tag"}


def test_planted_fault_drafts_shared_by_threads_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etags, "threading", SimpleNamespace(get_ident=lambda: 0))
    found: set[str] = set()
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        found |= first_ones(tmp_path / str(number))
    assert "" in found


def test_the_first_state_stays(tmp_path: Path) -> None:
    assert FirstEtags(tmp_path).first("https://store/a.tar", "old") == "old"
    assert FirstEtags(tmp_path).first("https://store/a.tar", "new") == "old"
    assert FirstEtags().first("https://store/a.tar", "new") == "new"
