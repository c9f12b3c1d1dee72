"""Files in a folder or a bucket, through fsspec: for Prefect, and for scoring.

A bucket is gs://NAME/...; STORAGE_EMULATOR_HOST names an emulator in its place.
"""

import os
from typing import Any

from fsspec import AbstractFileSystem as FileSystem
from fsspec import url_to_fs

__all__ = ["FileSystem", "GCSFS", "open_address", "storage_options"]

# Else gcsfs asks over gRPC which kind each bucket is, and waits for it a minute in each process
# where an emulator, which has no such service, stands in for the bucket.
GCSFS = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


def storage_options() -> dict[str, Any]:
    """Return what gcsfs is opened with: an emulator asks for no credentials."""
    return {"token": "anon"} if os.environ.get("STORAGE_EMULATOR_HOST") else {}


def open_address(address: str) -> tuple[FileSystem, str]:
    """The file system of a folder's path or a gs:// address, and the path in it."""
    os.environ.update(GCSFS)
    options = storage_options() if address.startswith("gs://") else {"auto_mkdir": True}
    filesystem, path = url_to_fs(address, **options)
    return filesystem, path.rstrip("/")
