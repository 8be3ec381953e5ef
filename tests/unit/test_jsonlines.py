"""The client's JSON is the standard library's, to the byte, whatever comes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs import jsonlines

_texts = st.text(st.characters(exclude_categories=()))
_plain = st.none() | st.booleans() | st.integers() | st.floats() | _texts
_values = st.recursive(
    _plain, lambda inner: st.lists(inner) | st.dictionaries(_texts, inner), max_leaves=20
)


@given(_values)
def test_values_go_and_come_back_as_with_json(value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert jsonlines.dumps(value) == text
    assert repr(jsonlines.loads(text.encode())) == repr(json.loads(text))
    spaced = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    assert repr(jsonlines.loads(spaced)) == repr(json.loads(spaced))


@given(st.binary() | _values.map(lambda value: json.dumps(value).encode()[:-1]))
def test_what_json_refuses_is_refused(line: bytes) -> None:
    try:
        wanted = repr(json.loads(line))
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  (as json's)
            jsonlines.loads(line)
    else:
        assert repr(jsonlines.loads(line)) == wanted


@pytest.mark.parametrize(
    "line", [b" {} ", b"\xef\xbb\xbf[]", "[1]".encode("utf-16"), b"[1] 2", b""]
)
def test_odd_lines(line: bytes) -> None:
    test_what_json_refuses_is_refused.hypothesis.inner_test(line)  # type: ignore[attr-defined]


def test_what_is_no_json_value_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not JSON"):
        jsonlines.dumps({"a": {1}})


def test_an_interpreter_without_the_c_halves() -> None:
    code = """
import sys
sys.modules["_json"] = None
from goexfs import jsonlines
assert jsonlines.loads(jsonlines.dumps({"a": [1, None]}).encode()) == {"a": [1, None]}
assert jsonlines.dumps([1, 2]) == "[1,2]"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
