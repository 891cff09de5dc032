"""How the models of a template file are read: nothing guessed, and each refusal says what is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from job_templates.client_text import shown


class Strict(BaseModel):
    """What is read from a template: unknown keys refused, never changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Misfit(ValueError):
    """Two keys of one mapping that do not fit together; ``key`` is the one whose line is told."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def matching(pattern: str, what: str) -> AfterValidator:
    """Text, all of it matched by a pattern; ``what`` ends the sentence "'…' is no …"."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str | None) -> str | None:
        if value is not None and not compiled.fullmatch(value):
            raise ValueError(f"{shown(value)} is no {what}")
        return value

    return AfterValidator(check)


def amount(
    read: Callable[[str], int], write: Callable[[int], str], least: int = 0, unlimited: bool = False
) -> BeforeValidator:
    """An amount as a person writes it, such as ``4GiB``; 0 for ``unlimited`` where that is accepted."""

    def convert(value: object) -> int:
        if value == "unlimited" and unlimited:
            return 0
        text = value if isinstance(value, str) else json.dumps(value)
        try:
            number = read(text)
        except ValueError as error:
            more = ", or unlimited" if unlimited else ""
            raise ValueError(f"{shown(text)} is not {error}{more}") from None
        if number < least:
            raise ValueError(f"{shown(text)} is too little; at least {write(least)} is accepted")
        return number

    return BeforeValidator(convert)
