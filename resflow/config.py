"""Values of frozen dataclasses from YAML: every wrong key or value is refused, naming file and line.

A mapping holds a dataclass's fields. Where one of several classes may stand, a mapping of one entry names it, in the
class's own name written with underscores: `random_resized_crop: {scale: [0.35, 1.0]}`; a bare name stands for a class
whose fields all have defaults. Sequences become tuples. Only plain YAML is read: no tags, no Python objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from resflow.errors import ConfigError

_READY = Path(__file__).with_name("pipelines")  # in a checkout a link to the folder at its top
MAX_BYTES = 1 << 20
"""Of a YAML file."""
MAX_NODES = 100_000
"""Values in a YAML file, those of an alias counted wherever it stands: ten lines can stand for a billion."""

Reader = Callable[["Node"], Any]
"""Turns a node into a value; raises ConfigError through `Node.error`."""


def ready_pipelines() -> dict[str, Path]:
    """The pipelines that come with Resflow, by name."""
    return {path.stem: path for path in sorted(_READY.glob("*.yaml"))}


def pipeline_file(name: str | Path) -> Path:
    """The file of a pipeline.

    Args:
        name: path of a YAML file, or the name of a ready pipeline.

    Raises:
        ConfigError: there is no such file, and no ready pipeline of this name.
    """
    path, ready = Path(name), ready_pipelines()
    if path.exists() or os.fspath(name) not in ready:
        if path.exists():
            return path
        beside = [str(found) for found in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(
            f"{name}: cannot be read: No such file or directory. Check the path, or name a ready pipeline; "
            f"{_suggest(str(name), dict.fromkeys([*ready, *beside]))}"
        )
    return ready[os.fspath(name)]


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A piece of a YAML file that knows its line.

    Args:
        yaml: the composed YAML node.
        file: path of the file, for messages.
    """

    yaml: yaml.Node
    file: str

    @classmethod
    def load(cls, path: str | Path) -> Node:
        """The root of a YAML file.

        Raises:
            ConfigError: the file cannot be read, is empty, or is not YAML.
        """
        try:
            with Path(path).open("rb") as file:
                text = file.read(MAX_BYTES + 1)
            if len(text) > MAX_BYTES:
                raise ConfigError(f"{path}: has more than {MAX_BYTES} bytes; expected a pipeline's few lines")
            root = yaml.compose(text.decode(), Loader=yaml.SafeLoader)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}. Check the path.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line}: is not YAML: {error.problem}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{path}: is not YAML, or too deeply nested: {error}") from error
        if root is None:
            raise ConfigError(f"{path}: is empty; expected a mapping of pipeline fields such as `resolution: 224`")
        node = cls(root, str(path))
        if _count(root, {}) > MAX_NODES:
            raise node.error(f"aliases make more than {MAX_NODES} values of this file, or contain themselves")
        return node

    def error(self, message: str) -> ConfigError:
        """An error at this node's file and line."""
        return ConfigError(f"{self.file}:{self.yaml.start_mark.line + 1}: {message}")

    def items(self, what: str) -> dict[str, Node]:
        """The entries of a mapping with text keys."""
        if not isinstance(self.yaml, yaml.MappingNode):
            raise self.error(f"{what} must be a mapping; got {self.text()}")
        entries: dict[str, Node] = {}
        for key, value in self.yaml.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Node(key, self.file).error(f"a key of {what} must be a name")
            if key.value in entries:
                raise Node(key, self.file).error(f"{what} has the key `{key.value}` twice; keep one")
            entries[key.value] = Node(value, self.file)
        return entries

    def elements(self, what: str) -> list[Node]:
        """The elements of a sequence."""
        if not isinstance(self.yaml, yaml.SequenceNode):
            raise self.error(f"{what} must be a sequence; got {self.text()}")
        return [Node(element, self.file) for element in self.yaml.value]

    def named(self, what: str) -> tuple[str, dict[str, Node]]:
        """A name and its fields: a mapping of one entry, or a bare name."""
        if isinstance(self.yaml, yaml.ScalarNode):
            return str(self.yaml.value), {}
        entries = self.items(what)
        if len(entries) != 1:
            raise self.error(f"{what} must be one name with its fields; got the keys {list(entries)}")
        name, body = next(iter(entries.items()))
        return name, {} if body.yaml.value == "" else body.items(name)

    def plain(self) -> Any:
        """The node as plain values: numbers, text, booleans, None, tuples and dicts."""
        constructor = yaml.SafeLoader("")
        try:
            return _frozen(constructor.construct_object(self.yaml, deep=True))
        except yaml.MarkedYAMLError as error:
            raise self.error(f"only plain YAML is read: {error.problem}") from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            # PyYAML checks no text that a tag stands before, as in `!!int ""`.
            raise self.error(f"cannot be read as a value: {type(error).__name__}: {error}") from error
        finally:
            constructor.dispose()

    def text(self) -> str:
        """The node as it would be read in a message."""
        return repr(self.plain())


def read_fields(
    node: Node,
    cls: type[Any],
    readers: Mapping[str, Reader] | None = None,
    *,
    what: str = "",
    default: Reader = Node.plain,
) -> Any:
    """Build a dataclass from a mapping.

    Args:
        node: the mapping.
        cls: the dataclass.
        readers: how to read a field that is more than a plain value.
        what: the dataclass's name in messages.
        default: how to read all other fields.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: an unknown or missing key, or a value that `cls` refuses.
    """
    what = what or snake_case(cls)
    entries = node.items(what)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in entries:
        if key not in fields:
            raise _key(node, key).error(f"{what} has no key `{key}`; {_suggest(key, fields)}")
    required = (f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING)
    missing = [name for name in required if name not in entries]
    if missing:
        raise node.error(f"{what} lacks the key `{missing[0]}`")
    readers = readers or {}
    values = {key: readers.get(key, default)(entry) for key, entry in entries.items()}
    try:
        return cls(**values)
    except (ConfigError, TypeError, ValueError) as error:
        named = [key for key in entries if re.search(rf"\b{key}\b", str(error))]
        raise (entries[named[0]] if named else node).error(f"{what}: {error}") from error


def read_choice(node: Node, classes: tuple[type[Any], ...], *, what: str, default: Reader = Node.plain) -> Any:
    """Build one of several dataclasses, named by the only key of a mapping or by a bare name.

    Args:
        node: the mapping or name.
        classes: the dataclasses that may stand here.
        what: what stands here, in messages.
        default: how to read the fields.

    Returns:
        An instance of one of `classes`.

    Raises:
        ConfigError: an unknown name, more than one, or fields that the class refuses.
    """
    named = {snake_case(cls): cls for cls in classes}
    if isinstance(node.yaml, yaml.ScalarNode):
        name, body = (
            node.yaml.value,
            Node(yaml.MappingNode("tag:yaml.org,2002:map", [], node.yaml.start_mark), node.file),
        )
    else:
        entries = node.items(what)
        if len(entries) != 1:
            raise node.error(f"{what} must be one name with its fields; got the keys {list(entries)}")
        name, body = next(iter(entries.items()))
    if name not in named:
        raise node.error(f"there is no {what} `{name}`; {_suggest(name, named)}")
    return read_fields(body, named[name], what=name, default=default)


def snake_case(cls: type[Any]) -> str:
    """A class's name as YAML writes it: RandomResizedCrop is random_resized_crop."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, itself included, as often as aliases repeat them; one that contains itself has many."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # while it is being counted
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _key(node: Node, name: str) -> Node:
    return next(Node(key, node.file) for key, _ in node.yaml.value if key.value == name)


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
