"""Long work beside gevent's loop, which would otherwise stop every other request of the worker."""

from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.monkey import is_module_patched

T = TypeVar("T")


def in_native_thread(function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise its error.

    It is called in a native thread where gevent runs this process, as in a worker of gunicorn.
    """
    if not is_module_patched("threading"):
        return function()
    result, err = gevent.get_hub().threadpool.apply(attempt, [function])
    if err is not None:
        raise err
    return result


def attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return the result or the error: gevent prints a traceback for an error in its threads."""
    try:
        return function(), None
    except Exception as err:  # pylint: disable=broad-exception-caught  # raised in the caller
        return None, err
