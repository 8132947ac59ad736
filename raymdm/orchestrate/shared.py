"""Folders of the driver's machine that all nodes must read."""

import hashlib
from pathlib import Path

from raymdm.config.schema import Recipe
from raymdm.storage import Storage

COMPLETE = ".complete"


def location(recipe: Recipe, folder: Path) -> str:
    """Where all nodes find a local folder that never changes: itself, or its copy under `storage_path`.

    The copy is made once, and named by the folder's name and by its files' names, sizes and times.
    """
    if not recipe.storage_path:
        return str(folder.absolute())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    described = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    name = f"{folder.name}-{hashlib.sha256(repr(described).encode()).hexdigest()[:12]}"
    cache = Storage(recipe.storage_path).child("cache")
    if not cache.exists(f"{name}/{COMPLETE}"):
        cache.put(folder, name)
        cache.write(f"{name}/{COMPLETE}", b"")
    return cache.child(name).uri
