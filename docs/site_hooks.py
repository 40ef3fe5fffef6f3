"""What the site takes from outside docs/: examples, pipelines and the changelog, which pages link by `../`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_TAKEN = ("CHANGELOG.md", "examples/*.py", "pipelines/*.yaml")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the files to the site."""
    root = Path(config.config_file_path).parent
    for path in sorted(path for pattern in _TAKEN for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Links out of docs/, which GitHub follows, lead to the site's own copies."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"](../{up}", f"]({up}")
