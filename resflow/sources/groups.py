"""WebDataset's grouping of tar members into samples.

A member's key is its name up to the first dot of its basename (folders belong to the key); the rest, in lower case, is
its extension. Adjacent members with one key form a sample. Names whose first part is `__like_this__` are metadata and
skipped, and so are names without a key or an extension (`README`, `.hidden`) and files that are plainly no samples
(`README.md`, `Thumbs.db`, `__MACOSX/`), which are counted. webdataset takes a hidden file in a
folder for a sample of its own (`a/.x.jpg` has the key `a/`); here it is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from resflow.errors import HeaderError, ShardError
from resflow.sources.tar import Member

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "avif"),
    *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jxl", "heic", "heif", "exr", "dcm", "tga"),
)
"""Extensions of a sample's image; where a sample has several, the first in this order is its image."""


class Group(NamedTuple):
    """The members of one sample, by extension, in the order of the archive."""

    key: str
    members: dict[str, Member]

    @property
    def image(self) -> Member | None:
        """The image: the member whose whole extension is the first of IMAGE_EXTENSIONS that is there, or npy."""
        return next((self.members[e] for e in (*IMAGE_EXTENSIONS, "npy") if e in self.members), None)

    @property
    def extent(self) -> tuple[int, int]:
        """First byte of the first member's header, and the byte after the last member's data."""
        members = list(self.members.values())
        return members[0].header, members[-1].offset + members[-1].size


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a member, or None if it belongs to no sample."""
    top = name.partition("/")[0]
    if (len(top) >= 4 and top.startswith("__") and top.endswith("__")) or top == "__MACOSX":
        return None
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if dot and stem else None


def group_members(members: Iterable[Member], shard: str, remarks: Remarks | None = None) -> Iterator[Group]:
    """Group adjacent members of one key into samples; files that are plainly no samples are left out.

    Args:
        members: a shard's members in order.
        shard: name for error messages.
        remarks: takes note of what is left out, and of samples that may be several.

    Yields:
        Groups in order.

    Raises:
        ShardError: a key comes back after other samples, or a sample has two members of one name.
    """
    remarks = remarks or Remarks()
    seen: dict[str, tuple[int, tuple[str, ...]]] = {}
    kinds: dict[tuple[str, ...], tuple[str, ...]] = {}  # one of each, since most samples have the same
    group: Group | None = None
    for member in members:
        parts = split_name(member.name)
        if parts is None:
            if not _METADATA.match(member.name):
                remarks.ignore(member.name)
            continue
        key, extension = parts
        if group is None or key != group.key:
            if group is not None:
                names = tuple(group.members)
                seen[group.key] = group.extent[0], kinds.setdefault(names, names)
                if not remarks.see(group):
                    yield group
            if key in seen:
                raise _comes_back(key, extension, member, *seen[key], shard)
            group = Group(key, {})
        elif extension in group.members:
            raise ShardError(
                f"sample {key!r} has two members {extension!r}, the first at byte {group.members[extension].header} "
                "(capitals do not count). Rename one.",
                shard=shard,
                offset=member.header,
            )
        group.members[extension] = member
    if group is not None and not remarks.see(group):
        yield group


def _comes_back(
    key: str, extension: str, member: Member, first: int, extensions: tuple[str, ...], shard: str
) -> ShardError:
    """The error for a key that comes back after others: the same sample twice, or in parts."""
    if dotted(extension) and extension not in extensions:
        what = (
            f"{member.name!r} and what lies at byte {first} have the same key {key!r}, as keys end at the first dot of "
            f"a name. {_UNDOTTED}"
        )
    elif extension in extensions:
        what = (
            f"two samples have the key {key!r}, the first at byte {first}. Rename one; the members of a sample must "
            "follow one another."
        )
    else:
        what = (
            f"the members of sample {key!r} lie apart: {', '.join(extensions)} at byte {first}, {extension} here. They "
            "must follow one another: write the shard again in the order of names (tar --sort=name)."
        )
    return ShardError(what, shard=shard, offset=member.header)


_UNDOTTED = "Rename the files without dots before their extension (cat.1.jpg to cat_1.jpg) and write the shard again."


def dotted(extension: str) -> bool:
    """Whether an extension, such as "1.jpg", may be the end of an image's name that has dots in it."""
    return extension.rpartition(".")[2] in IMAGE_EXTENSIONS and "." in extension


def without_image(group: Group, shard: str) -> HeaderError:
    """The error for a sample that has no image, with what is likely the cause."""
    names = sorted(group.members)
    shown = f"{names[:5]}" if len(names) <= 5 else f"{names[:5]} and {len(names) - 5:,} more"
    if any(map(dotted, names)):
        example = next(group.members[name].name for name in names if dotted(name))
        why = f"A key ends at the first dot of a name, so {example!r} is taken for a part of {group.key!r}. {_UNDOTTED}"
    else:
        why = (
            "If its image lies elsewhere in the shard, write the shard again in the order of names (tar --sort=name); "
            "if it is missing, add it; if this is no sample, leave the file out of the shard"
        )
    return HeaderError(
        f"no image among its members {shown}; expected one of {', '.join(IMAGE_EXTENSIONS)}. {why}",
        key=group.key,
        shard=shard,
    )


# Files that lie beside samples but are none, by the name before the first dot, or by extension.
# fmt: off
_FOREIGN_NAMES = frozenset([
    "readme", "license", "licence", "copying", "notice", "changelog", "authors", "citation", "thumbs", "desktop",
    "ehthumbs", "classes", "labels", "categories", "metadata", "checksums", "md5sums", "sha256sums", "makefile",
])
_FOREIGN_EXTENSIONS = frozenset([
    "md", "rst", "pdf", "html", "htm", "css", "db", "ini", "lnk", "url", "log", "sh", "bat", "py", "ipynb", "md5",
    "sha1", "sha256", "sha512", "yaml", "yml", "toml", "cfg",
])
# fmt: on
_METADATA = re.compile(r"__[^/]*__(?:/|$)")  # webdataset's
_SHOWN = 3
_MOST = 4096  # combinations that are told apart


def is_key(key: str) -> bool:
    """Whether a sample that is written under a key is read back under it."""
    try:
        key.encode()
    except UnicodeEncodeError:  # bytes of a file's name that are not UTF-8
        return False
    plain = "\0" not in key and not any(part in ("", ".", "..") for part in key.split("/"))
    return plain and split_name(f"{key}.jpg") == (key, "jpg")


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a dataset's members that its reader should know.

    Args:
        count: of members or samples.
        examples: the first of them.
    """

    count: int
    examples: tuple[str, ...]


class Remarks:
    """What is noticed while members are grouped: files that are no samples, and samples that may be several images."""

    def __init__(self) -> None:
        self._ignored = 0
        self._ignored_examples: list[str] = []
        self._samples = 0
        self._others: dict[tuple[str, ...], tuple[int, str]] = {}  # further images: samples, and an example

    def ignore(self, name: str) -> None:
        """Count a member that belongs to no sample."""
        self._ignored += 1
        if len(self._ignored_examples) < _SHOWN:
            self._ignored_examples.append(name)

    def see(self, group: Group) -> bool:
        """Look at a group; whether it is no sample."""
        image = group.image
        if image is None:
            base = group.key.rpartition("/")[2].lower()
            if base in _FOREIGN_NAMES or _FOREIGN_EXTENSIONS.issuperset(group.members):
                for member in group.members.values():
                    self.ignore(member.name)
                return True
            return False
        self._samples += 1
        if len(group.members) > 1:
            others = tuple(
                name
                for name, member in group.members.items()
                if member is not image and name.rpartition(".")[2] in IMAGE_EXTENSIONS
            )
            if others:
                self._add(others, 1, f"{image.name} and {group.members[others[0]].name}")
        return False

    def add(self, other: Remarks) -> None:
        """Take in what was noticed in another shard."""
        self._ignored += other._ignored
        self._ignored_examples = (self._ignored_examples + other._ignored_examples)[:_SHOWN]
        self._samples += other._samples
        for names, (count, example) in other._others.items():
            self._add(names, count, example)

    def plain(self) -> dict[str, Any]:
        """What was noticed as plain JSON values, the number of samples aside; {} where nothing was."""
        if not (self._ignored or self._others):
            return {}
        others = [[list(names), *value] for names, value in self._others.items()]
        return {"ignored": self._ignored, "examples": self._ignored_examples, "others": others}

    @classmethod
    def of_plain(cls, value: Mapping[str, Any], samples: int) -> Remarks:
        """Remarks on so many samples from what `plain` gave; KeyError, TypeError or ValueError for anything else."""
        remarks = cls()
        if value:
            remarks._ignored, remarks._ignored_examples = int(value["ignored"]), list(map(str, value["examples"]))
            remarks._others = {tuple(map(str, names)): (int(n), str(example)) for names, n, example in value["others"]}
        remarks._samples = samples
        return remarks

    def found(self) -> dict[str, Remark]:
        """The remarks by kind, as far as there are any: "ignored" members, "doubled" samples.

        Further images that most samples have (a mask, a second view) are meant; those of a few may be other samples.
        """
        found = {}
        if self._ignored:
            found["ignored"] = Remark(self._ignored, tuple(self._ignored_examples))
        usual: Counter[str] = Counter()
        for names, (count, _) in self._others.items():
            usual.update(dict.fromkeys(names, count))
        rare = [
            value for names, value in self._others.items() if any(2 * usual[name] < self._samples for name in names)
        ]
        if rare:
            found["doubled"] = Remark(sum(count for count, _ in rare), tuple(example for _, example in rare[:_SHOWN]))
        return found

    def _add(self, names: tuple[str, ...], count: int, example: str) -> None:
        if names not in self._others and len(self._others) >= _MOST:
            names = ("",)
        before, first = self._others.get(names, (0, example))
        self._others[names] = before + count, first


def read_remarks(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Remark]:
    """Remarks from plain values, as `dataclasses.asdict` gives them; KeyError, TypeError or ValueError for others."""
    kinds = sorted({"ignored", "doubled"} & set(stored))
    return {kind: Remark(int(stored[kind]["count"]), tuple(map(str, stored[kind]["examples"]))) for kind in kinds}


def remark_lines(remarks: Mapping[str, Remark]) -> list[str]:
    """What was noticed, in words, a line each."""
    lines = []
    if "ignored" in remarks:
        count, examples = remarks["ignored"].count, remarks["ignored"].examples
        what = "1 file that is no sample is" if count == 1 else f"{count:,} files that are no samples are"
        lines.append(f"{what} ignored: {_listed(count, examples)}")
    if "doubled" in remarks:
        count, examples = remarks["doubled"].count, remarks["doubled"].examples
        what = "1 sample holds" if count == 1 else f"{count:,} samples hold"
        lines.append(
            f"{what} a further image that most do not, and that is not read: {_listed(count, examples)}. Files whose "
            f"names agree up to the first dot are one sample; if these are images of their own: {_UNDOTTED}"
        )
    return lines


def _listed(count: int, examples: Sequence[str]) -> str:
    return ", ".join(examples) + (", ..." if count > len(examples) else "")
