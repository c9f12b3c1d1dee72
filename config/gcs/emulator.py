"""Start the `gs://` emulator with a longer queue of connections: its own command's arguments.

The emulator queues five. A client that opens more at once, as gcsfs and MLflow do, has some dropped,
and the kernel tries those again after 1, 3, 7 ... seconds: fetching 44 files took 5 to 35 s.
"""

from http.server import HTTPServer

from gcp_storage_emulator.__main__ import main

HTTPServer.request_queue_size = 128

if __name__ == "__main__":
    main()
