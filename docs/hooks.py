"""What the site needs beside the pages: references made from the code, and copies of files that pages link to."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from references import PAGES

DOCS = Path(__file__).parent
ROOT = DOCS.parent

_DECISIONS = "decisions"
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)#]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the references, and every file of the repository that a page links to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    files.append(File.generated(config, f"{_DECISIONS}/index.md", content=_decisions()))
    for linked in sorted({name for file in files.documentation_pages() for name in _linked(file)}):
        files.append(File.generated(config, f"repository/{linked}", abs_src_path=str(ROOT / linked)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside of docs/ lead to their copies, and links to the folder of decisions to their list."""
    if page.file.src_uri.startswith("repository/"):  # a page from above docs/
        return markdown.replace("](docs/", "](../")

    def moved(link: re.Match[str]) -> str:
        named = _outside(page.file, link)
        return link[0] if named is None else f"]({'../' * page.file.src_uri.count('/')}repository/{named})"

    return _OUTSIDE.sub(moved, markdown).replace(f"]({_DECISIONS})", f"]({_DECISIONS}/index.md)")


def _decisions() -> str:
    lines = ["# Decisions", "", "Why it is as it is, where that was hard.", ""]
    for path in sorted((DOCS / _DECISIONS).glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- {path.stem[:4]}: [{title}]({path.name})")
    return "\n".join([*lines, ""])


def _linked(file: File) -> set[str]:
    links = (_outside(file, link) for link in _OUTSIDE.finditer(file.content_string))
    return {named for named in links if named is not None}


def _outside(file: File, link: re.Match[str]) -> str | None:
    """The file in the repository that a link leads to; None when it stays in docs/ or leads to no file."""
    path = (DOCS / file.src_uri).parent.joinpath(link[1] + link[2]).resolve()
    if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT) or not path.is_file():
        return None
    return path.relative_to(ROOT).as_posix()
