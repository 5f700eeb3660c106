"""The documentation site is built as `make docs` builds it, and loads nothing from another host."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import featx

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("zensical", reason="the dependency group `docs` is not installed")
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "featx").symlink_to(ROOT / "featx", target_is_directory=True)
    result = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "build" / "site"


def find_assets(path):
    """List what a browser loads with a page or a style sheet."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".css":
        return re.findall(r"""(?:url\(|@import\s*)\s*["']?([^"')]+)""", text)
    tags = re.findall(r"<(?:script|img|iframe|link|source|video|audio|object|embed)\b[^>]*>", text)
    return [found for tag in tags for found in re.findall(r"""\b(?:src|href|srcset|data)="?([^"\s>]+)""", tag)]


def test_the_site_loads_nothing_from_another_host(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assets = {asset for page in pages for asset in find_assets(page)}
    assert any(asset.endswith(".css") for asset in assets)
    assert any(asset.endswith(".js") for asset in assets)
    assert not [asset for asset in assets if re.match(r"(https?:)?//", asset)]
    # The theme fetches the libraries for these from a CDN when a page has one.
    assert not [page for page in site.rglob("*.html") if re.search(r'class="(mermaid|arithmatex)"', page.read_text())]


def test_the_site_has_every_page(site):
    pages = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    listed = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.as_posix() for page in pages], "the `nav` of mkdocs.yml lists every page once"
    assert not [str(page) for page in pages if not (site / page.with_suffix(".html")).is_file()]


def test_the_reference_has_every_public_name(site):
    named = re.findall(r"^::: featx\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(featx.__all__)
    page = (site / "api.html").read_text(encoding="utf-8")
    assert not [name for name in named if f'id="featx.{name}"' not in page]
