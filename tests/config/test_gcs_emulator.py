"""The `gs://` emulator, as the stack starts it."""

import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.conftest import gcs_emulator


def test_the_emulator_queues_as_many_connections_as_clients_open_at_once(tmp_path):
    """The emulator once dropped most of the 44 connections that gcsfs opened for a flow's code.

    A run then waited 35 s.
    """
    with gcs_emulator(tmp_path) as address:
        url = urlsplit(address)
        server = int(subprocess.check_output(["pgrep", "-f", f"emulator.py.*{url.port}"]))
        os.kill(server, signal.SIGSTOP)  # so that it accepts no connection
        try:
            with ExitStack() as clients:
                for _ in range(64):
                    clients.enter_context(socket.create_connection((url.hostname, url.port), 0.5))
        finally:
            os.kill(server, signal.SIGCONT)
