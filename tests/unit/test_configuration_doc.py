"""docs/configuration.md lists every key, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from goexfsd.config import Config

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            found |= keys(part, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_every_key_is_documented_and_no_other() -> None:
    cells = [line.split("|")[1] for line in DOC.read_text().splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`([a-z_.]+)`", cell)}
    assert documented == keys(Config)
