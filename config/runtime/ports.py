"""Whether a server could listen on a port, so that one that is taken is named with its setting."""

import socket
from typing import Any


def why_not(address: str, port: int) -> str | None:
    """Why nothing can listen there now, or None if something can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((address.strip("[]"), port))
        except OSError as err:
            return err.strerror
    return None


def warn_if_taken(arbiter: Any, setting: str) -> None:
    """Names the setting of a port that is taken: gunicorn tries it for 5 seconds and does not.

    It may be let go of meanwhile, as by workers whose arbiter was killed. A new arbiter that takes
    over from an old one (USR2) brings the socket with it.
    """
    if arbiter.master_pid:
        return
    for address, port in (one for one in arbiter.cfg.address if isinstance(one, tuple)):
        if reason := why_not(address, port):
            remedy = "end what listens there, or set another port"
            arbiter.log.warning("%s=%d: %s; %s", setting, port, reason, remedy)
