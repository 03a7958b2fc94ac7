"""Bodies of the server's own responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from minseek.serve.engine_thread import State


class ModelEntry(BaseModel):
    """The loaded model; `minseek` holds its memory, its slots and its thinking."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "minseek"
    minseek: dict[str, Any]


class ModelList(BaseModel):
    """The list of models, which is the loaded one."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(BaseModel):
    """State of the server."""

    status: State
