"""WebDataset's grouping of tar members into samples.

A member's key is its name up to the first dot of its basename (folders belong to the key); the rest, in lower case, is
its extension. Adjacent members with one key form a sample. Names whose first part is `__like_this__` are metadata and
skipped, and so are names without a key or an extension (`README`, `.hidden`). webdataset takes a hidden file in a
folder for a sample of its own (`a/.x.jpg` has the key `a/`); here it is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resflow.errors import ShardError
from resflow.sources.tar import Member

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "avif"),
    *("ppm", "pgm", "pbm", "pnm"),
)
"""Extensions of a sample's image; where a sample has several, the first in this order is its image."""


class Group(NamedTuple):
    """The members of one sample, by extension, in the order of the archive."""

    key: str
    members: dict[str, Member]

    @property
    def image(self) -> Member | None:
        """The image: the member whose whole extension is the first of IMAGE_EXTENSIONS that is there."""
        return next((self.members[e] for e in IMAGE_EXTENSIONS if e in self.members), None)

    @property
    def extent(self) -> tuple[int, int]:
        """First byte of the first member's header, and the byte after the last member's data."""
        members = list(self.members.values())
        return members[0].header, members[-1].offset + members[-1].size


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a member, or None if it belongs to no sample."""
    top = name.partition("/")[0]
    if len(top) >= 4 and top.startswith("__") and top.endswith("__"):
        return None
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if dot and stem else None


def group_members(members: Iterable[Member], shard: str) -> Iterator[Group]:
    """Group adjacent members of one key into samples.

    Args:
        members: a shard's members in order.
        shard: name for error messages.

    Yields:
        Groups in order.

    Raises:
        ShardError: a key comes back after other samples, or a sample has two members of one name.
    """
    seen: dict[str, int] = {}
    group: Group | None = None
    for member in members:
        parts = split_name(member.name)
        if parts is None:
            continue
        key, extension = parts
        if group is None or key != group.key:
            if group is not None:
                yield group
            if key in seen:
                raise ShardError(
                    f"two samples have the key {key!r}, the first at byte {seen[key]}. Rename one; the members of a "
                    "sample must follow one another.",
                    shard=shard,
                    offset=member.header,
                )
            seen[key] = member.header
            group = Group(key, {})
        elif extension in group.members:
            raise ShardError(
                f"sample {key!r} has two members {extension!r}, the first at byte {group.members[extension].header} "
                "(capitals do not count). Rename one.",
                shard=shard,
                offset=member.header,
            )
        group.members[extension] = member
    if group is not None:
        yield group
