"""Check whether a server can listen on a port, so that an error names the setting to change."""

import socket
from typing import Any


def bind_error(address: str, port: int) -> str | None:
    """Return why nothing can listen on a port now, or None."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((address.strip("[]"), port))
        except OSError as err:
            return err.strerror
    return None


def warn_if_in_use(arbiter: Any, setting: str) -> None:
    """Log the setting of each port that is in use; gunicorn itself retries for 5 seconds.

    A warning, because the port may become free meanwhile, as when workers outlive their arbiter. An
    arbiter that replaces an older one (USR2) inherits the socket.
    """
    if arbiter.master_pid:
        return
    for address, port in (one for one in arbiter.cfg.address if isinstance(one, tuple)):
        if reason := bind_error(address, port):
            remedy = "Stop the process that uses it, or set another port."
            arbiter.log.warning("%s: %s; got %d. %s", setting, reason, port, remedy)
