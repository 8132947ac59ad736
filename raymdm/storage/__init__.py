"""Where stages leave files for each other: a folder that all nodes see, or an object store."""

from raymdm.storage.cache import fetched
from raymdm.storage.refused import StorageError
from raymdm.storage.store import Storage

__all__ = ["Storage", "StorageError", "fetched"]
