"""docs/protocol.md is held to ``goexfs.protocol`` and ``goexfs.errors``: nothing more or less.

Every model has a section with a table of its fields: name, type, default (``required`` where
there is none), meaning.  Every error has a row.
"""

from __future__ import annotations

import json
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from goexfs import errors, protocol

DOC = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
_PARTS = tuple(
    name
    for name, model in vars(protocol).items()
    if isinstance(model, type)
    and issubclass(model, BaseModel)
    and name not in ("BaseModel", "Model", "Reply", "Envelope")
)
"""Every model that a client may meet."""


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", DOC, re.M | re.S)
    assert found is not None, f"docs/protocol.md has no section {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The body rows of the first table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def type_text(annotation: Any) -> str:
    """A field's type as the document writes it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f'`"{each}"`' for each in arguments)
    if origin in (Union, types.UnionType):
        return " \\| ".join("null" if a is type(None) else type_text(a) for a in arguments)
    if origin is list:
        return f"[{type_text(arguments[0])}]"
    if origin is dict:
        return "object of strings"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}[annotation]


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.get_default(call_default_factory=True, validated_data={}))}`"


def fields(model: type[BaseModel]) -> list[list[str]]:
    return [
        [f"`{field.alias or name}`", type_text(field.annotation), default_text(field)]
        for name, field in model.model_fields.items()
    ]


def documented(title: str) -> list[list[str]]:
    return [row[:3] for row in rows(section(title))]


@pytest.mark.parametrize("name", _PARTS)
def test_a_model_is_documented_field_by_field(name: str) -> None:
    model: type[BaseModel] = getattr(protocol, name)
    used: dict[type[BaseModel], str] = {
        **{request: f"`{method}`" for method, (request, _) in protocol.METHODS.items()},
        **{event: f"`{method}` event" for method, event in protocol.EVENTS.items()},
        **{notice: f"`{method}` notice" for method, notice in protocol.NOTICES.items()},
    }
    assert documented(used.get(model, name)) == fields(model)


@pytest.mark.parametrize("method", protocol.METHODS)
def test_a_method_names_its_result(method: str) -> None:
    result = protocol.METHODS[method][1].__name__
    assert f"Result: [{result}](#{result.lower()})" in section(f"`{method}`")


def test_every_method_event_and_notice_is_there_and_no_other() -> None:
    titles = set(re.findall(r"^### `(\w+)`( event| notice)?$", DOC, re.M))
    expected = {(method, "") for method in protocol.METHODS}
    expected |= {(event, " event") for event in protocol.EVENTS}
    expected |= {(notice, " notice") for notice in protocol.NOTICES}
    assert titles == expected


def test_every_field_has_a_meaning() -> None:
    assert not [row for row in rows(DOC) if len(row) == 4 and not row[3]]


def test_errors() -> None:
    found = {row[0]: row[1:3] for row in rows(section("Errors"))}
    assert found == {
        f"`{code}`": [str(leaf.number), str(leaf.exit_status)]
        for code, leaf in errors.BY_CODE.items()
    }


def test_exit_statuses() -> None:
    found = {int(row[0]) for row in rows(section("Exit statuses"))}
    fixed = {0, 124, 125, 126, 127, 130, 141}
    assert found == fixed | {leaf.exit_status for leaf in errors.BY_CODE.values()}


def test_numbers_in_the_text() -> None:
    assert f"{protocol.MAX_LINE // 2**20} MiB" in section("Framing")
    assert f"{protocol.MAX_INPUT_AHEAD // 2**20} MiB" in section("`input` notice")
    assert f'"protocol": {protocol.PROTOCOL_VERSION}' in DOC


def test_examples_are_valid() -> None:
    """Every line of an example that a client sends is a request, or a notice, as modelled."""
    sent = re.findall(r"^> (\{.*\})$", DOC, re.M)
    assert len(sent) > 5
    for line in sent:
        message = protocol.Envelope.model_validate(json.loads(line))
        models: dict[str, Any] = {m: each[0] for m, each in protocol.METHODS.items()}
        {**models, **protocol.NOTICES}[message.method].model_validate(message.params)
    received = re.findall(r"^< (\{.*\})$", DOC, re.M)
    for line in received:
        found = json.loads(line)
        assert found["jsonrpc"] == "2.0"
        if "method" in found:
            protocol.EVENTS[found["method"]].model_validate(found["params"])
