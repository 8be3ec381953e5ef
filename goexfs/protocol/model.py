"""What every message is: frozen pydantic, unknown fields refused; and the words they share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

PROTOCOL_VERSION = 1
MAX_LINE = 4 * 1024 * 1024
MAX_INPUT_AHEAD = 8 * 1024 * 1024
POLICY_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
SECRET_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Encoding = Literal["utf-8", "base64"]
Kind = Literal["deleted", "created", "modified", "renamed", "retyped", "metadata"]
FileType = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
SessionState = Literal["opening", "open", "committing", "committed", "discarded", "failed"]


class Model(BaseModel):
    """Base of all wire models: frozen; requests refuse unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reply(BaseModel):
    """Base of results: a client of an older version ignores what it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")
