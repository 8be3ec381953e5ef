"""Write the list of rooms in docs/architecture.md anew from the modules' own first lines.

Run it when a module was added, moved or renamed; a test fails while the page is behind.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
PAGE = HOUSE / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- end of rooms -->\n"


def modules() -> list[Path]:
    """Every module of both packages, relative to the repository."""
    found = [*HOUSE.glob("goexfs/**/*.py"), *HOUSE.glob("daemon/goexfsd/**/*.py")]
    return sorted(path.relative_to(HOUSE) for path in found)


def about(path: Path) -> str:
    """The first sentence of the module's docstring, made to follow a name and a colon."""
    docstring = ast.get_docstring(ast.parse((HOUSE / path).read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.])\.(?:\s|$)", first)[0].rstrip(".")
    return sentence.replace("``", "`").replace("|", "\\|")


def listing() -> str:
    """The section: one table a directory, in the order of the house."""
    folders: dict[Path, list[Path]] = {}
    for path in modules():
        folders.setdefault(path.parent, []).append(path)
    parts = []
    for folder, paths in folders.items():
        rows = [(path, about(path)) for path in paths]
        package = next((text for path, text in rows if path.name == "__init__.py"), "")
        parts.append(f"**`{folder}/`** {package}".rstrip() + "\n\n")
        parts.append("| file | what it is |\n| --- | --- |\n")
        parts += [f"| `{path.name}` | {text} |\n" for path, text in rows if _listed(path)]
        parts.append("\n")
    return "".join(parts)


def _listed(path: Path) -> bool:
    return path.name != "__init__.py"


def main() -> int:
    """Exit status: 0 the page is (now) right."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(head + BEGIN + "\n" + listing() + END + tail, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
