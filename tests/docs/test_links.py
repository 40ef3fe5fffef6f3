"""Links and pictures of README and docs lead somewhere; every page is in the site's navigation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def headings(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    words = (found[1] for found in re.finditer(r"^#+ (.+)$", text, flags=re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in words}


def broken(page: Path, text: str) -> list[str]:
    """Local links of a page that lead nowhere."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = []
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        wrong_anchor = anchor and path.suffix == ".md" and path.exists() and anchor not in headings(path.read_text())
        if not path.exists() or wrong_anchor:
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = "# Head\n\n[a](#head) [b](#tail) ![c](gone.png) [d](gone.md#x) [e](https://x.y/z) `[f](gone.md)`\n"
    assert broken(ROOT / "docs" / "page.md", text.replace("#head", "faq.md#nowhere")) == [
        "faq.md#nowhere",
        "#tail",
        "gone.png",
        "gone.md#x",
    ]


def test_pages_and_navigation_agree() -> None:
    listed = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:]]
    assert sorted(listed) == sorted([*pages, "CHANGELOG.md"])


def test_the_readme_can_be_taken_in_at_once() -> None:
    prose = re.sub(
        r"```.*?```|<!--.*?-->|^\|.*?$", "", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    assert 300 < len(prose.split()) <= 700


def test_pictures_of_concepts_are_small() -> None:
    for name in ("buckets", "fit", "schedules", "tiers", "coordinates"):
        assert (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 60_000
