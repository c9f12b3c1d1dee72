"""Settings from environment variables, `.env` and secret files, checked by pydantic-settings.

A part declares a subclass of `BaseSettings`; the field `model_dir` is read from `MODEL_DIR`. The
fields' descriptions are docs/configuration.md.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic_settings
from dotenv.parser import parse_stream
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import SettingsConfigDict

SECRET_FOLDER = "/run/secrets/"
SECRETS = ("PASSWORD", "KEY", "TOKEN", "SECRET")  # in names of variables
# Without the value, which may hold a password.
MONGODB_ADDRESS_RULE = (
    "MONGODB_ADDRESS: unusable address; expected mongodb://USER@HOST:PORT with resolvable host"
    " names. Put the password in MONGODB_PASSWORD, or percent-encode it in the address (%40 for @)."
)
YEAR_S = 366 * 86400
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Workers = Annotated[int, Field(ge=1, le=256)]
Seconds = Annotated[float, Field(gt=0, le=YEAR_S)]


class SettingsError(Exception):
    """One or more settings cannot be used; the message lists all of them."""


class BaseSettings(pydantic_settings.BaseSettings):
    """Settings that do not change while a process runs. An empty variable counts as unset."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")


T = TypeVar("T", bound=BaseSettings)


def read_settings(kind: type[T]) -> T:
    """Return the settings of `kind` after `load_environment`.

    Raises SettingsError listing each problem: variable, value unless it may be a secret, and rule.
    """
    load_environment()
    try:
        return kind()
    except ValidationError as err:
        raise SettingsError("\n".join(describe(problem) for problem in err.errors())) from None


def load_environment() -> None:
    """Complete `os.environ`, because libraries such as MLflow and Prefect read theirs there.

    `NAME_FILE=/run/secrets/FILE` sets NAME to the file's content, as many container images do. Then
    `.env` of the working folder, or ENV_FILE, sets the variables that are still unset. Raises
    SettingsError for a secret file that is missing or empty, or an invalid line of `.env`.
    """
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]  # Compose sets what .env leaves out to nothing
    for name, path in list(os.environ.items()):
        if name.endswith("_FILE") and path.startswith(SECRET_FOLDER):
            os.environ[name.removesuffix("_FILE")] = read_secret(name, Path(path))
            del os.environ[name]
    for name, value in read_env_file(Path(os.environ.get("ENV_FILE", ".env"))).items():
        if value:
            os.environ.setdefault(name, value)


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of an env file, empty if it does not exist.

    Quotes and comments have the meaning that a shell and Compose give them. Raises SettingsError
    naming the first line that is not NAME=value.
    """
    found: dict[str, str] = {}
    if not path.exists():
        return found
    with path.open(encoding="utf-8") as file:
        for one in parse_stream(file):
            if one.error or (one.key and one.value is None):
                text = one.original.string.lstrip("\n")  # of empty lines before it
                line = one.original.line + len(one.original.string) - len(text)
                name, is_set, _ = text.strip().partition("=")  # the value may be a password
                got = f"{name}=... with an open quote" if is_set else repr(name)
                raise SettingsError(
                    f"{path}, line {line}: got {got}, expected NAME=value."
                    ' Put a value with quotes or # between other quotes: NAME="it\'s"'
                )
            if one.key:
                found[one.key] = one.value or ""
    return found


def read_secret(name: str, path: Path) -> str:
    """Return a secret file's content without the final newline. Raises SettingsError."""
    try:
        content = path.read_text("utf-8").rstrip("\n")
    except OSError as err:
        raise SettingsError(f"{name}: {path}: {err.strerror}. Run `make secrets`.") from err
    if not content:
        raise SettingsError(f"{name}: {path} is empty. Run `make secrets`.")
    return content


def describe(problem: Any) -> str:
    """Return one line for a problem as pydantic reports it."""
    variable, text = str(problem["loc"][0]).upper(), problem["input"]
    if problem["type"] == "missing":
        return f"{variable}: not set; expected a value. Set it in the environment or in .env."
    rule = str(problem.get("ctx", {}).get("error", "")) or expectation(problem["msg"])
    is_secret = any(word in variable for word in SECRETS) or "@" in str(text)
    return f"{variable}: got {'a value that is not shown' if is_secret else text}, expected {rule}"


def expectation(message: str) -> str:
    """Return what pydantic's message expects: "Input should be a valid integer, unable ..."."""
    return re.sub(r"^Input should be ", "", message).partition(", unable")[0]


def matching(pattern: str, rule: str) -> AfterValidator:
    """Return a validator of text that matches the whole `pattern`; `rule` says it in words."""
    regex = re.compile(pattern)

    def check(text: str) -> str:
        if not regex.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def check_folder(variable: str, path: Path) -> None:
    """Make the folder that a setting names. Raises SettingsError if files cannot be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise SettingsError(
            f"{variable}: {err.strerror}; got {path}, expected a folder that this user may write."
        ) from err


def exit_with_message(main: Callable[[], None]) -> None:
    """Run an entry point; end with a message instead of a traceback for errors outside the code.

    Status 2 for a setting, 1 for a file, an address or a full disk.
    """
    try:
        main()
    except SettingsError as err:
        print(f"settings:\n{err}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as err:
        print(err, file=sys.stderr)
        raise SystemExit(1) from None
