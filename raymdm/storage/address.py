"""What a storage address may be, and the filesystem behind a remote one."""

import string
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from pyarrow import fs

from raymdm.errors import UserError
from raymdm.storage.refused import told

OPTIONS = {"s3": ("region", "endpoint_override", "scheme"), "gs": ("endpoint_override", "scheme")}
"""What may follow the question mark of an address. Credentials come from the environment or an instance role."""

RETRIES = 8
"""Further tries of a request to S3, 0.05, 0.1, ... 3.2 s apart: a server may be away for 6 s. One that is reached and
keeps silent is given up after 9 times 3 s; pyarrow's own setting would wait 99 s and try a busy server only once."""

GS_SECONDS = 15
"""How long Google's client goes on trying, plus up to its longest pause; its own setting is 15 minutes."""


def local_path(uri: str) -> Path | None:
    """The absolute path of a local folder or file; None for an address elsewhere."""
    if "://" not in uri:
        try:
            return Path(uri).expanduser().absolute()
        except RuntimeError:
            raise UserError(f"cannot use {uri} as storage: `~` names no home folder. Write the whole path") from None
    scheme, rest = uri.split("://", 1)
    if scheme != "file":
        return None
    if not rest.startswith("/"):
        raise UserError(f"cannot use {uri} as storage: write file:///folder, with three slashes, or the folder's path")
    return Path(unquote(rest)).absolute()


def without_last_slash(uri: str) -> str:
    scheme, rest = uri.split("://", 1)
    place, mark, query = rest.partition("?")
    return f"{scheme}://{place.rstrip('/')}{mark}{query}"


def parsed(uri: str) -> SplitResult:
    """The parts of a remote address that both raymdm and pyarrow read alike. Raises UserError for any other."""
    scheme, rest = uri.split("://", 1)
    if scheme not in OPTIONS:
        raise UserError(
            f"cannot use {scheme}:// as storage: give a folder's path, file:///folder, s3://bucket/folder or "
            "gs://bucket/folder"
        )
    address, _, query = uri.partition("?")
    bucket = rest.partition("?")[0].partition("/")[0].removeprefix("anonymous@" if scheme == "gs" else "")
    if "@" in bucket or ":" in bucket or "@" in unquote(query):
        raise UserError(
            f"cannot use a {scheme}:// address with credentials: it is written into logs and recipes. Give them by the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS) or a role"
        )
    encoded = quote(address, safe=string.punctuation.replace("#", ""))
    if address != encoded:
        raise UserError(f"cannot use {address} as storage: write it percent-encoded, {encoded}")
    if any(part in ("", ".", "..") for part in unquote(rest.partition("?")[0]).split("/")):
        raise UserError(f"cannot use {address} as storage: a bucket or folder has an empty name, `.` or `..`")
    unknown = [name for name, _ in parse_qsl(query, keep_blank_values=True) if name not in OPTIONS[scheme]]
    if unknown:
        raise UserError(
            f"cannot use {address} as storage: after the question mark only {', '.join(OPTIONS[scheme])} may be set, "
            f"not {unknown[0]}"
        )
    return urlsplit(uri)


def opened(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a remote address, with raymdm's patience, and the path on it."""
    parts = parsed(uri)
    with told("reach", uri.partition("?")[0]):
        try:
            if parts.scheme == "gs":
                uri += ("&" if parts.query else "?") + f"retry_limit_seconds={GS_SECONDS}"
            plain, root = fs.FileSystem.from_uri(uri)
            if parts.scheme == "gs":
                return plain, root
            _, (chosen,) = plain.__reduce__()  # pyarrow takes more from the environment, and asks for a bucket's region
            options = {name: chosen[name] for name in OPTIONS["s3"]}
            again = fs.AwsDefaultS3RetryStrategy(max_attempts=RETRIES)
            return fs.S3FileSystem(**options, allow_delayed_open=True, retry_strategy=again), root
        except ValueError as error:
            raise UserError(f"cannot use {uri.partition('?')[0]} as storage: {error}") from None
