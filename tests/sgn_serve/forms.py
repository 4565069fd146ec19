"""Bodies of requests, written by hand."""


def multipart(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    """A form written by hand: (header, content) parts."""
    return b"".join(b"--edge\r\n%s\r\n\r\n%s\r\n" % (header.encode(), data) for header, data in parts) + end


IMAGE_HEADER = 'Content-Disposition: form-data; name="image"; filename="x.png"'
JSON = {"content-type": "application/json"}
PACKED = {"content-type": "image/png", "content-encoding": "gzip"}
