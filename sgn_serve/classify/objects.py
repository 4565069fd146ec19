"""Read pictures from object stores, S3 and Google Cloud Storage, by pyarrow's file systems."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sgn_serve.classify.errors import ClassifyError, needs_pyarrow_for
from sgn_serve.classify.items import Item, item_of_file, shown
from sgn_serve.pictures.files import SUFFIXES
from sgn_serve.pictures.folders import Reason, Skipped, skipped_folder
from sgn_serve.refusals import one_line

_SCHEMES = (b"s3://", b"gs://")
AT_A_TIME = 16
"""Objects that are read at a time. Each takes some round trips, in which nothing else could be done."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Variables that Amazon's own programs read. pyarrow knows those of the credentials by itself."""


class ObjectMissing(Exception):
    """There is no such object, or it may not be read. The message says which."""


class ObjectTooLarge(Exception):
    """The object has more bytes than allowed.

    Attributes:
        length: Its bytes.
    """

    def __init__(self, length: int):
        super().__init__(length)
        self.length = length


def is_object(path: bytes) -> bool:
    """Return whether a path is the address of an object, such as s3://bucket/name."""
    return path.startswith(_SCHEMES)


def object_items(address: str, skipped: Skipped) -> Iterator[Item]:
    """Yield the item of an object, or those of the pictures below a name, in the order in which a folder is walked.

    Args:
        address: An address such as s3://bucket/name. All names below it are in memory together.
        skipped: Gets what is passed over.

    Raises:
        ClassifyError: There is no such object and no such folder, it may not be read, or the store does not answer.
    """
    scheme, _, path = address.partition("://")
    path = path.rstrip("/")
    if not path:
        raise ClassifyError(f"{address}: it names no bucket; write it behind the slashes")
    try:
        from pyarrow import fs

        store = _open_store(address.encode())
        found = store.get_file_info(path)
        names = []
        if found.type == fs.FileType.Directory:
            below = store.get_file_info(fs.FileSelector(path, recursive=True))
            names = [one.path for one in below if one.type == fs.FileType.File]
    except ModuleNotFoundError:
        raise needs_pyarrow_for(address) from None
    except ClassifyError:
        raise
    except ValueError as error:  # pyarrow's ArrowInvalid, and that of a name that is not UTF-8
        raise ClassifyError(f"{address}: it is no address of an object ({one_line(error)}); correct it") from None
    except Exception as error:  # pyarrow's, and the system's
        if _is_denied(error):
            raise ClassifyError(f"{address}: access is denied; set credentials that may read and list it") from None
        raise _unanswered(address, error) from None
    if found.type == fs.FileType.File:
        yield item_of_file(address)
    elif found.type != fs.FileType.Directory:
        raise ClassifyError(f"{address}: there is no such object or folder; correct the address")
    folders: set[PurePosixPath] = set()
    for name in sorted(names, key=lambda name: name.split("/")):  # the order in which a folder is walked
        if not _is_passed_over(PurePosixPath(name).relative_to(path), folders, skipped):
            yield item_of_file(f"{scheme}://{name}")


def _is_passed_over(name: PurePosixPath, folders: set[PurePosixPath], skipped: Skipped) -> bool:
    """Return whether an object is passed over, and count it: each folder of its kind once, and keep it in folders."""
    for folder in list(name.parents)[-2::-1]:  # the top comes first; "." is left out
        reason = skipped_folder(folder.name)
        if reason is not None:
            if folder not in folders:
                skipped.add(reason, folder.name)
            folders.add(folder)
            return True
    if name.name.startswith("."):
        skipped.add(Reason.HIDDEN_FILE, name.name)
    elif name.suffix.lower() not in SUFFIXES:
        skipped.add(Reason.OTHER_SUFFIX, name.name)
    else:
        return False
    return True


class ObjectReader:
    """Reads objects, several at a time.

    Args:
        max_bytes: Largest object.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._stores: dict[bytes, Any] = {}
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._coming: dict[bytes, Future[bytes]] = {}

    def begin(self, addresses: Sequence[bytes]) -> None:
        """Begin to read objects that are wanted next, AT_A_TIME at most. Each must be asked for later."""
        for address in addresses:
            if address not in self._coming:
                self._threads = self._threads or ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="objects")
                self._coming[address] = self._threads.submit(self._fetch, address)

    def read(self, address: bytes) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissing: There is no such object, or it may not be read.
            ObjectTooLarge: It is too large.
            ClassifyError: The store does not answer. A row with an error would blame the picture.
        """
        self.begin([address])
        return self._coming.pop(address).result()

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._coming.clear()

    def _fetch(self, address: bytes) -> bytes:
        try:
            bucket, _, key = address.partition(b"://")[2].decode().partition("/")
            if not bucket or not key or key.endswith("/"):
                raise ObjectMissing("it names no object")
            store = self._store_of(address)
            with store.open_input_file(f"{bucket}/{key}") as file:
                length = file.size()
                if length > self._max_bytes:
                    raise ObjectTooLarge(length)
                return file.read()
        except (ObjectMissing, ObjectTooLarge, ClassifyError):
            raise
        except ModuleNotFoundError:
            raise needs_pyarrow_for(shown(address)) from None
        except FileNotFoundError:
            raise ObjectMissing("there is no such object") from None
        except UnicodeDecodeError:
            raise ObjectMissing("its name is not UTF-8") from None
        except ValueError as error:  # pyarrow's ArrowInvalid: the name has an empty part
            raise ObjectMissing(f"it names no object ({one_line(error)})") from None
        except Exception as error:  # pyarrow's, and the system's
            if _is_denied(error):
                raise ObjectMissing("access is denied") from None
            raise _unanswered(shown(address), error) from None

    def _store_of(self, address: bytes) -> Any:
        bucket = b"/".join(address.split(b"/")[:3])
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = _open_store(bucket)
            return self._stores[bucket]


def _open_store(address: bytes) -> Any:
    """Return the file system of an address.

    Raises:
        ClassifyError: The address of the server is none.
        OSError: The region of the bucket cannot be found out.
    """
    from pyarrow import fs

    if address.startswith(b"gs://"):
        return fs.GcsFileSystem()
    endpoint = _endpoint()
    region = next((os.environ[name] for name in _REGIONS if os.environ.get(name)), None)
    if endpoint is not None:
        return fs.S3FileSystem(endpoint_override=endpoint.netloc, scheme=endpoint.scheme, region=region or "us-east-1")
    return fs.S3FileSystem(region=region or fs.resolve_s3_region(urlsplit(address.decode()).netloc))


def _endpoint() -> SplitResult | None:
    """Return the address of the S3 server, None for Amazon's.

    Raises:
        ClassifyError: The variable holds no such address.
    """
    variable = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if variable is None:
        return None
    with suppress(ValueError):  # half an address of version 6
        endpoint = urlsplit(os.environ[variable])
        if endpoint.scheme in ("http", "https") and endpoint.hostname:
            return endpoint
    raise ClassifyError(f"{variable}={os.environ[variable]}: this is no server; write it as https://HOST:PORT")


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error)


def _unanswered(address: str, error: Exception) -> ClassifyError:
    return ClassifyError(
        f"{address}: the object store does not answer ({one_line(error)}); once it does, the same command with "
        "--resume goes on"
    )
