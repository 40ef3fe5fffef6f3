"""Builds as setuptools does, and compiles the decoder's C sources on the way; see `resflow/decode/native/build.py`.

A wheel has no code of one version of Python: it serves all of them, on one system.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 (the hooks that stay as they are)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path("resflow", "decode", "native")


def _compiling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resflow_build", Path(__file__).parent / NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _also() -> list[str]:
    """What is needed besides: a compiler, where the system has none."""
    return [] if _compiling().find_compiler() else ["ziglang>=0.13"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """See PEP 517."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_also()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """See PEP 660."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_also()]


class BuildNative(build_py):
    """Puts the library beside its loader: among what is built, or in a checkout that is installed as it is."""

    def run(self) -> None:
        """Copy the package, and compile."""
        super().run()
        root = Path(__file__).parent if self.editable_mode else Path(self.build_lib)
        _compiling().build(root / NATIVE)


class SystemWheel(bdist_wheel):
    """A wheel for any Python of one system."""

    def finalize_options(self) -> None:
        """It is not pure, though setuptools knows of no extension module."""
        self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """Any Python 3, no interface of Python's, this system."""
        return "py3", "none", super().get_tag()[2]
