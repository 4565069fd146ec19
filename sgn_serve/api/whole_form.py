"""Read small multipart forms that are written as nearly every client writes them, in a fraction of the time.

A form of any other shape is left to the general parser, which decides what it means or why it is refused. So this one
never refuses, and what it returns is what the general one would: tests compare the two.
"""

import re
from io import BytesIO

from starlette.datastructures import FormData, UploadFile

_MAX_PARTS = 5
"""Most parts of a form. More may be too many, which the general parser refuses."""
_LONGEST_VALUE = 1024
_CONTENT_TYPE = re.compile(r"multipart/form-data; ?boundary=([A-Za-z0-9_-]{1,70})")
_HEAD = re.compile(
    rb'Content-Disposition: form-data; name="([A-Za-z0-9_]{1,40})"(?:; filename="([A-Za-z0-9_. ()-]{0,200})")?'
    rb"(?:\r\nContent-Type: [A-Za-z0-9/.+-]{1,100})?\r\n\r\n",
    re.IGNORECASE,
)
_VALUE = re.compile(rb"[ -~]*")


def first_line(content_type: str) -> bytes | None:
    """Return what a form of that Content-Type must begin with, None where it may not be a plain one."""
    match = _CONTENT_TYPE.fullmatch(content_type)
    return b"--%s\r\n" % match[1].encode("ascii") if match else None


def read_whole_form(first: bytes, body: bytes, file_field: str) -> FormData | None:
    """Return a form, or None where it is not a plain one.

    Args:
        first: Result of first_line.
        body: The whole body.
        file_field: Field that holds files. A part of it that has no file name is not plain.
    """
    delimiter = b"\r\n" + first[:-2]
    end = len(body) - 2 if body.endswith(b"\r\n") else len(body)
    last = delimiter + b"--"
    if not body.startswith(first) or not body.endswith(last, 0, end):
        return None
    parts = body[len(first) : end - len(last)].split(delimiter, _MAX_PARTS)
    if len(parts) > _MAX_PARTS:
        return None
    items: list[tuple[str, str | UploadFile]] = []
    for number, whole in enumerate(parts):
        part = whole
        if number:  # a delimiter must be a line of its own; otherwise the form is not plain
            if not whole.startswith(b"\r\n"):
                return None
            part = whole[2:]
        head = _HEAD.match(part)
        if head is None:
            return None
        name, content = head[1].decode("ascii"), part[head.end() :]
        if head[2] is not None:
            items.append((name, UploadFile(BytesIO(content), size=len(content), filename=head[2].decode("ascii"))))
        elif name == file_field or len(content) > _LONGEST_VALUE or not _VALUE.fullmatch(content):
            return None
        else:
            items.append((name, content.decode("ascii")))
    return FormData(items)
