"""Read pictures from object stores, S3 and Google Cloud Storage, by pyarrow's file systems."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sgn_serve.classify.background import BackgroundCall
from sgn_serve.classify.errors import ClassifyError, needs_pyarrow_for
from sgn_serve.classify.items import Item, item_of_file, shown
from sgn_serve.common.error_text import one_line
from sgn_serve.common.termination import Terminated
from sgn_serve.pictures.files import SUFFIXES
from sgn_serve.pictures.folders import Reason, Skipped, skipped_folder

_GOOGLE = b"gs://"
_SCHEMES = (b"s3://", _GOOGLE)
AT_A_TIME = 16
"""Objects that are read at a time. Each takes some round trips, in which nothing else could be done."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Variables that Amazon's own programs read. pyarrow knows those of the credentials by itself."""
_GOOGLE_ENDPOINTS = ("CLOUD_STORAGE_EMULATOR_ENDPOINT", "STORAGE_EMULATOR_HOST")
"""Variables that Google's clients read: that in pyarrow the first, before any option, and most others the second."""
GCS_RETRIES = timedelta(seconds=10)
"""Time for which Google's client repeats what fails. Its own limit is 15 minutes, even without credentials."""
_GCS_PART_BYTES = 2**20


class ObjectMissing(Exception):
    """There is no such object or bucket, or it may not be read. The message says which."""


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


def _is_google(address: bytes) -> bool:
    """Return whether an address is that of an object in Google Cloud Storage."""
    return address.startswith(_GOOGLE)


def object_items(address: str, skipped: Skipped) -> Iterator[Item]:
    """Yield the item of an object, or those of the pictures below a name, in the order in which a folder is walked.

    Args:
        address: An address such as s3://bucket/name. All names below it are in memory together.
        skipped: Gets what is passed over.

    Raises:
        ClassifyError: There is no such object, folder or bucket, it may not be read, or the store does not answer.
    """
    scheme, _, path = address.partition("://")
    path = path.rstrip("/")
    if not path:
        raise ClassifyError(f"{address}: it names no bucket; write it behind the slashes")
    names = BackgroundCall(_names_below, address, path).result()
    if names is None:
        yield item_of_file(address)
        return
    folders: set[PurePosixPath] = set()
    for name in sorted(names, key=lambda name: name.split("/")):  # the order in which a folder is walked
        if not _is_passed_over(PurePosixPath(name).relative_to(path), folders, skipped):
            yield item_of_file(f"{scheme}://{name}")


def _names_below(address: str, path: str) -> list[str] | None:
    """Return the names of all objects below a folder, None where the address is that of an object.

    Args:
        address: The address.
        path: The same without its scheme: the bucket and the name in it.

    Raises:
        ClassifyError: See object_items.
    """
    try:
        from pyarrow import fs

        store = _open_store(address.encode())
        bucket = path.partition("/")[0]
        # Google may let a user list the objects of a bucket, and not ask about the bucket itself.
        listed = path == bucket and _is_google(address.encode())
        found = fs.FileType.Directory if listed else store.get_file_info(path).type
        if found == fs.FileType.File:
            return None
        if found == fs.FileType.Directory:
            below = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            if below or _is_bucket(store, bucket):
                return [one.path for one in below if one.type == fs.FileType.File]
        missing = "object or folder" if _is_bucket(store, bucket) else "bucket"
        raise ClassifyError(f"{address}: there is no such {missing}; correct the address")
    except ModuleNotFoundError:
        raise needs_pyarrow_for(address) from None
    except ClassifyError:
        raise
    except ObjectMissing as error:
        raise ClassifyError(f"{address}: {error}; correct the address") from None
    except Exception as error:  # pyarrow's, and the system's
        if _lacks_credentials(error):
            raise _no_credentials(address, error) from None
        if isinstance(error, ValueError):  # pyarrow's ArrowInvalid, and that of a name that is not UTF-8
            raise ClassifyError(f"{address}: it is no address of an object ({one_line(error)}); correct it") from None
        if _is_denied(error):
            raise ClassifyError(f"{address}: access is denied; set credentials that may read and list it") from None
        raise _unanswered(address, error) from None


def _is_bucket(store: Any, name: str) -> bool:
    """Return whether there is such a bucket. One that may not be asked about is taken for one."""
    from pyarrow import fs

    try:
        found: bool = store.get_file_info(name).type != fs.FileType.NotFound
    except OSError as error:
        if _is_denied(error):
            return True
        raise
    return found


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
        self._opening = threading.Lock()
        self._coming: dict[bytes, BackgroundCall[bytes]] = {}
        self._beginning = threading.Lock()
        self._ended = False

    def begin(self, addresses: Sequence[bytes]) -> None:
        """Begin to read objects that are wanted next, AT_A_TIME at most. Each must be asked for later.

        Raises:
            CancelledError: The reads were given up.
        """
        for address in addresses:
            with self._beginning:
                if self._ended:
                    raise CancelledError
                if address not in self._coming:
                    self._coming[address] = BackgroundCall(self._fetch, address)

    def read(self, address: bytes) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissing: There is no such object or bucket, or it may not be read.
            ObjectTooLarge: It is too large.
            ClassifyError: The store does not answer. A row with an error would blame the picture.
            CancelledError: The reads were given up.
        """
        self.begin([address])
        try:
            return self._coming[address].result()
        finally:
            if not self._ended:
                del self._coming[address]

    def give_up(self) -> None:
        """End all waits for reads, at once. Any thread may call it."""
        with self._beginning:
            self._ended = True
            for call in list(self._coming.values()):
                call.give_up()

    def close(self) -> None:
        """Give up the reads, and wait until they have ended. After Ctrl-C or SIGTERM, nothing is waited for."""
        self.give_up()
        if not isinstance(sys.exception(), KeyboardInterrupt | Terminated):
            for call in self._coming.values():
                call.join()
        self._coming.clear()

    def _fetch(self, address: bytes) -> bytes:
        try:
            bucket, _, key = address.partition(b"://")[2].decode().partition("/")
            if not bucket or not key or key.endswith("/"):
                raise ObjectMissing("it names no object")
            store = self._store_of(address)
            if _is_google(address):
                return _read_google(store, f"{bucket}/{key}", self._max_bytes)
            with store.open_input_file(f"{bucket}/{key}") as file:
                length = file.size()
                if length > self._max_bytes:
                    raise ObjectTooLarge(length)
                return file.read()
        except (ObjectMissing, ObjectTooLarge, ClassifyError, CancelledError):
            raise
        except ModuleNotFoundError:
            raise needs_pyarrow_for(shown(address)) from None
        except FileNotFoundError:
            raise ObjectMissing("there is no such object") from None
        except UnicodeDecodeError:
            raise ObjectMissing("its name is not UTF-8") from None
        except Exception as error:  # pyarrow's, and the system's
            if _lacks_credentials(error):
                raise _no_credentials(shown(address), error) from None
            if isinstance(error, ValueError):  # pyarrow's ArrowInvalid: the name has an empty part
                raise ObjectMissing(f"it names no object ({one_line(error)})") from None
            if _is_denied(error):
                raise ObjectMissing("access is denied") from None
            raise _unanswered(shown(address), error) from None

    def _store_of(self, address: bytes) -> Any:
        bucket = b"/".join(address.split(b"/")[:3])
        with self._opening:
            if self._ended:
                raise CancelledError
            if bucket not in self._stores:
                try:
                    self._stores[bucket] = _open_store(bucket)
                except ObjectMissing as error:  # each object of a bucket that is not there would ask again
                    self._stores[bucket] = error
            store = self._stores[bucket]
        if isinstance(store, ObjectMissing):
            raise ObjectMissing(*store.args)
        return store


def _read_google(store: Any, name: str, max_bytes: int) -> bytes:
    """Return the content of an object of Google's.

    It is read as a stream, in one request. pyarrow's file asks for the content in its property `closed`, and keeps
    Python's lock: no thread runs, and Ctrl-C does nothing, until the server answers. Source: measured, pyarrow 26.0.1.

    Args:
        store: The file system.
        name: The bucket and the name in it.
        max_bytes: Largest object.

    Raises:
        ObjectTooLarge: It is larger.
        OSError: It cannot be read.
    """
    parts: list[bytes] = []
    with store.open_input_stream(name, compression=None) as stream:
        read = 0
        while read <= max_bytes and (part := stream.read(_GCS_PART_BYTES)):
            parts.append(part)
            read += len(part)
    if read > max_bytes:
        raise ObjectTooLarge(store.get_file_info(name).size)
    return b"".join(parts)


def _open_store(address: bytes) -> Any:
    """Return the file system of an address.

    Raises:
        ClassifyError: The address of the server is none.
        ObjectMissing: There is no such bucket. Only Amazon's is asked about it here.
        OSError: The region of the bucket cannot be found out.
    """
    from pyarrow import fs

    if _is_google(address):
        endpoint = _endpoint(_GOOGLE_ENDPOINTS)
        if endpoint is None:
            return fs.GcsFileSystem(retry_time_limit=GCS_RETRIES)
        return fs.GcsFileSystem(
            anonymous=endpoint.scheme == "http",  # an emulator has no accounts, and others could read along
            endpoint_override=endpoint.netloc,
            scheme=endpoint.scheme,
            retry_time_limit=GCS_RETRIES,
        )
    endpoint = _endpoint(_ENDPOINTS)
    region = next((os.environ[name] for name in _REGIONS if os.environ.get(name)), None)
    if endpoint is not None:
        return fs.S3FileSystem(endpoint_override=endpoint.netloc, scheme=endpoint.scheme, region=region or "us-east-1")
    return fs.S3FileSystem(region=_region_of(urlsplit(address.decode()).netloc, region))


def _region_of(bucket: str, otherwise: str | None) -> str:
    """Return the region of a bucket of Amazon's.

    A variable names the region of a person's other work. A bucket elsewhere answers it with a redirection for ever.

    Args:
        bucket: The bucket.
        otherwise: The region of the variables. It counts where the bucket's own cannot be found out: without a way to
            the public server, and in China and in GovCloud, whose buckets that server does not know.

    Raises:
        ObjectMissing: There is no such bucket.
        OSError: The region cannot be found out.
    """
    from pyarrow import fs

    try:
        region: str = fs.resolve_s3_region(bucket)
    except OSError as error:
        if otherwise is not None:
            return otherwise
        if str(error).startswith(f"Bucket '{bucket}' not found"):
            raise ObjectMissing("there is no such bucket") from None
        raise
    return region


def _endpoint(variables: Sequence[str]) -> SplitResult | None:
    """Return the address of the server that the first variable which is set names, None for Amazon's or Google's own.

    Raises:
        ClassifyError: The variable holds no such address.
    """
    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None:
        return None
    with suppress(ValueError):  # half an address of version 6
        endpoint = urlsplit(os.environ[variable])
        if endpoint.scheme in ("http", "https") and endpoint.hostname:
            return endpoint
    raise ClassifyError(f"{variable}={os.environ[variable]}: this is no server; write it as https://HOST:PORT")


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error)


def _lacks_credentials(error: Exception) -> bool:
    """Return whether an error says that Google's credentials are missing or refused. It may be of any type."""
    return "Could not create a OAuth2 access token" in str(error)


def _no_credentials(address: str, error: Exception) -> ClassifyError:
    reason = _reason(error).rpartition("The underlying error message was: ")[2]
    return ClassifyError(
        f"{address}: Google gives no access to it ({reason[:300]}); let GOOGLE_APPLICATION_CREDENTIALS name a file of "
        "credentials, or run gcloud auth application-default login; then --resume goes on"
    )


def _unanswered(address: str, error: Exception) -> ClassifyError:
    return ClassifyError(
        f"{address}: the object store does not answer ({_reason(error)[:300]}); once it does, the same command with "
        "--resume goes on"
    )


def _reason(error: Exception) -> str:
    """Return an error's message on one line. Google's client repeats it behind error_info=, which is left out."""
    return one_line(error, limit=2000).partition(" error_info=")[0]
