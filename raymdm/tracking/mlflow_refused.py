"""What no later try will mend, told from an outage."""

import errno
import socket
from typing import Any

REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""MLflow's codes for what no later try will mend; anything else counts as an outage."""

_FORBIDDEN_CODES = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_FORBIDDEN = (401, 403)
_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT)


def is_final(error: Exception) -> bool:
    """Whether trying again will not log this artifact: its place refuses it, or the client for that place is missing.

    The store that takes numbers may be a server, a file or a database; files go to a folder or an object store, where
    a missing permission or package is no outage.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if _status(error) in _FORBIDDEN or isinstance(error, ImportError):
        return True
    if isinstance(error, MlflowException):
        return error.error_code in (*REFUSED, *_FORBIDDEN_CODES)
    if isinstance(error, RequestException | ConnectionError | TimeoutError | socket.gaierror):
        return False
    return isinstance(error, OSError) and error.errno not in _NETWORK


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an answer that an error, or the one behind it, is about; requests and botocore keep it."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if response is not None:
            return int(response.status_code)
        error = error.__context__
    return None
