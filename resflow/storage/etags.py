"""The state each remote file was in when it was first read, known to all processes that read for one loader."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

from resflow.storage.addresses import identity


class FirstEtags:
    """First ETags by file.

    Args:
        folder: where processes tell each other; None, or where it is gone: each process knows its own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, str] = {}

    def first(self, url: str, etag: str) -> str:
        """The ETag a file had at its first read, which is now if there was none.

        Args:
            url: of the file.
            etag: its ETag now.
        """
        if url not in self._known:
            self._known.setdefault(url, etag if self._folder is None else self._shared(self._folder, url, etag))
        return self._known[url]

    def _shared(self, folder: Path, url: str, etag: str) -> str:
        pin = folder / f"pin-{hashlib.sha256(identity(url).encode(errors='surrogateescape')).hexdigest()}"
        # A draft of each thread's own: writing one that is linked already would empty the pin.
        draft = pin.with_name(f"{pin.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            draft.write_text(etag)
            with contextlib.suppress(FileExistsError):
                os.link(draft, pin)  # whole or not at all; the first one stays
            draft.unlink(missing_ok=True)
            return pin.read_text()
        except FileNotFoundError:  # the loader is gone, this process is about to be
            return etag
