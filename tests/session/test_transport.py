"""What a worker says of a batch that cannot be sent."""

from __future__ import annotations

import errno
import pickle
from typing import Any

from resflow.session.transport import BatchMessage


class NoRoom:
    """What cannot be sent since its memory has no room."""

    def __reduce__(self) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_shared_memory_is_no_matter_of_pickling() -> None:
    failure = pickle.loads(pickle.dumps(BatchMessage(NoRoom())))
    assert "Give /dev/shm more room (docker run --shm-size=2g)" in str(failure.error)
    assert "pickled" not in str(failure.error)
