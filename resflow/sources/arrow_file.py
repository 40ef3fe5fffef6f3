"""Arrow files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from resflow.errors import IndexFileError


def write_arrow(batch: Any, path: Path) -> None:
    """Write an Arrow IPC file; whoever opens `path` meanwhile sees the old file or the new one, whole.

    Args:
        batch: a record batch, its metadata included.
        path: where.

    Raises:
        IndexFileError: the file cannot be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise IndexFileError(
            f"the index cannot be written: {error.strerror or error}. Make room on its disk, or its folder writable; "
            "what was there before is as it was.",
            shard=str(path),
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
