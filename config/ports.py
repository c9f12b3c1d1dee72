"""Whether a server could listen on a port, so that one that is taken is named with its setting."""

import socket


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
