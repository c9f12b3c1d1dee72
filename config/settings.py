"""Settings from environment variables, read into a typed struct in one go.

A part declares a `msgspec.Struct` whose fields are its settings; the field `model_dir` is read
from `MODEL_DIR`. Every problem is reported at once.
"""

import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """One or more settings cannot be used; the message lists all of them."""


def read_settings(kind: type[T], environ: Mapping[str, str]) -> T:
    """The settings of `kind`; an unset or empty variable takes the field's default.

    Raises SettingsError listing each variable, its value and what was expected.
    """
    values, problems = {}, []
    for field in msgspec.structs.fields(kind):
        variable = field.name.upper()
        text = environ.get(variable, "")
        if text:
            try:
                values[field.name] = msgspec.convert(text, field.type, strict=False)
            except msgspec.ValidationError as err:
                problems.append(f"{variable}={text}: {err}")
        elif field.required:
            problems.append(f"{variable}: not set, and there is no default")
    if problems:
        raise SettingsError("\n".join(problems))
    return kind(**values)


def exit_on_settings_error(main: Callable[[], None]) -> None:
    """Run an entry point; a settings problem ends it with one clear message, no traceback."""
    try:
        main()
    except SettingsError as err:
        print(f"settings:\n{err}", file=sys.stderr)
        raise SystemExit(2) from None
