"""What MLflow imports to reach files of runs in a cloud's storage."""

from __future__ import annotations

from importlib.util import find_spec

from ..core.errors import UserError

# By the beginning of an address: the module, and the file in requirements/ that asks for it.
_CLIENTS = {
    "s3": ("boto3", "aws.in"),
    "wasbs": ("azure.storage.blob", "azure.in"),
    "abfss": ("azure.storage.filedatalake", "azure.in"),
    "gs": ("google.cloud.storage", "gcp.in"),
}


def require_client(address: str) -> None:
    """Refuse an address of files whose client is not installed, before there is work to lose.

    Raises:
        UserError: It is not.
    """
    scheme = address.partition("://")[0]
    if scheme not in _CLIENTS:
        return
    module, file = _CLIENTS[scheme]
    if not _is_installed(module):
        message = f"MLflow needs {module} for files at {address}, and it is not installed."
        remedy = f"Add `{file}` to PROJECT in noxfile.py, and run `lock`."
        raise UserError(message, remedy)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what holds it
        return False
