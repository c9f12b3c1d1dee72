"""Start the `gs://` emulator with a longer connection queue, and with its own arguments.

Its own queue holds five connections. gcsfs and MLflow open more, and the emulator drops the rest. The
kernel retries after 1, 3, 7 ... seconds, so a download of 44 files took 5 to 35 s.
"""

from http.server import HTTPServer

from gcp_storage_emulator.__main__ import main

HTTPServer.request_queue_size = 128

if __name__ == "__main__":
    main()
