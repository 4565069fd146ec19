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
from sgn_serve.pictures.files import SUFFIXES
from sgn_serve.pictures.folders import Reason, Skipped, skipped_folder
from sgn_serve.refusals import one_line
from sgn_serve.termination import Terminated

_SCHEMES = (b"s3://", b"gs://")
AT_A_TIME = 16
"""Objects that are read at a time. Each takes some round trips, in which nothing else could be done."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Variables that Amazon's own programs read. pyarrow knows those of the credentials by itself."""
GCS_RETRIES = timedelta(seconds=10)
"""How long Google's client repeats what fails. Its own limit is 15 minutes, also where there are no credentials."""


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
        found = store.get_file_info(path)
        if found.type == fs.FileType.File:
            return None
        if found.type == fs.FileType.Directory:
            below = store.get_file_info(fs.FileSelector(path, recursive=True))
            return [one.path for one in below if one.type == fs.FileType.File]
        bucket = store.get_file_info(path.partition("/")[0])
        missing = "bucket" if bucket.type == fs.FileType.NotFound else "object or folder"
        raise ClassifyError(f"{address}: there is no such {missing}; correct the address")
    except ModuleNotFoundError:
        raise needs_pyarrow_for(address) from None
    except ClassifyError:
        raise
    except ObjectMissing as error:
        raise ClassifyError(f"{address}: {error}; correct the address") from None
    except ValueError as error:  # pyarrow's ArrowInvalid, and that of a name that is not UTF-8
        raise ClassifyError(f"{address}: it is no address of an object ({one_line(error)}); correct it") from None
    except Exception as error:  # pyarrow's, and the system's
        if _is_denied(error):
            raise ClassifyError(f"{address}: access is denied; set credentials that may read and list it") from None
        raise _unanswered(address, error) from None


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
        except ValueError as error:  # pyarrow's ArrowInvalid: the name has an empty part
            raise ObjectMissing(f"it names no object ({one_line(error)})") from None
        except Exception as error:  # pyarrow's, and the system's
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


def _open_store(address: bytes) -> Any:
    """Return the file system of an address.

    Raises:
        ClassifyError: The address of the server is none.
        ObjectMissing: There is no such bucket. Only Amazon's is asked about it here.
        OSError: The region of the bucket cannot be found out.
    """
    from pyarrow import fs

    if address.startswith(b"gs://"):
        return fs.GcsFileSystem(retry_time_limit=GCS_RETRIES)
    endpoint = _endpoint()
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
