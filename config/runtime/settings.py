"""Settings from environment variables, read into a typed struct in one go.

A part declares a `msgspec.Struct` whose fields are its settings; the field `model_dir` is read
from `MODEL_DIR`. Every problem is reported at once.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

SECRETS = ("PASSWORD", "KEY", "TOKEN", "SECRET")  # in names of variables
# It says nothing of what it got: that may hold a password.
MONGODB_ADDRESS_RULE = (
    "MONGODB_ADDRESS: cannot be used, expected mongodb://USER@HOST:PORT with names that can be"
    " resolved and the password in MONGODB_PASSWORD; in the address it must be percent-encoded, %40"
    " for @"
)
T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """One or more settings cannot be used; the message lists all of them."""


def read_settings(kind: type[T], environ: Mapping[str, str]) -> T:
    """The settings of `kind`; an unset or empty variable takes the field's default.

    Raises SettingsError listing each variable, its value unless that may be a secret, and what was
    expected.
    """
    values, problems = {}, []
    for field in msgspec.structs.fields(kind):
        variable = field.name.upper()
        text = environ.get(variable, "")
        if text:
            try:
                values[field.name] = msgspec.convert(text, field.type, strict=False)
            except msgspec.ValidationError as err:
                problems.append(f"{shown(variable, text)}: {described(field.type) or err}")
        elif field.required:
            problems.append(f"{variable}: not set, and there is no default")
    if problems:
        raise SettingsError("\n".join(problems))
    return kind(**values)


def shown(variable: str, text: str) -> str:
    """A setting as a message may have it: a secret's value would end up in logs."""
    is_secret = any(word in variable for word in SECRETS) or "@" in text
    return f"{variable} (its value is not shown)" if is_secret else f"{variable}={text}"


def described(kind: Any) -> str:
    """What a type's description expects, which reads better than its pattern; or nothing."""
    marks = [one for one in get_args(kind) if isinstance(one, msgspec.Meta)]
    return "".join(f"expected {mark.description}" for mark in marks if mark.description)


def check_folder(variable: str, path: Path) -> None:
    """Makes the folder that a setting names. Raises SettingsError if files cannot be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise SettingsError(
            f"{variable}={path}: {err.strerror}; name a folder that this user may write"
        ) from err


def exit_with_message(main: Callable[[], None]) -> None:
    """Runs an entry point; what is wrong outside of the code ends it with a message, no traceback.

    Status 2 for a setting, 1 for a file or an address that cannot be used, or a full disk.
    """
    try:
        main()
    except SettingsError as err:
        print(f"settings:\n{err}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as err:
        print(err, file=sys.stderr)
        raise SystemExit(1) from None
