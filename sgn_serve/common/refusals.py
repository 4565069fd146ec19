"""Base classes of everything that the service refuses for a reason that people can put right. Nothing here knows HTTP.

A Refusal is answered to a client (sgn_serve/http/errors.py maps its code to a status). A ServingError keeps the service
from starting, or a new model from being served; its message is for whoever runs the service.
"""

from types import MappingProxyType
from typing import ClassVar

from sgn_serve.common.error_text import say

CODES = MappingProxyType(
    {
        "bad_http": "the connection carries no HTTP request, or a damaged one",
        "head_too_large": "the request's head has too many bytes or too many headers",
        "no_websocket": "the request is the handshake of a WebSocket, and the server speaks none",
        "too_slow_request": "the request's head or body took too long to arrive",
        "too_many_connections": "too many connections are open",
        "shutting_down": "the server is about to end and takes no new connections",
        "no_token": "the request carries no bearer token, and the service wants one",
        "wrong_token": "the request's bearer token is not one of the server's",
        "admin_closed": "the path is closed while the service has no token",
        "rate_limited": "this client made too many requests",
        "cross_origin_refused": "the request comes from a page of a site that is not allowed",
        "host_refused": "a browser asks for a host name that is not the server's, and the service has no token",
        "body_too_large": "the request's body is larger than allowed",
        "overloaded": "too many pictures or request bodies are waiting",
        "not_ready": "the network does not answer, or the server is about to end",
        "timeout": "there was no answer in time",
        "internal_error": "the server failed; nothing that a client sends should lead to it",
        "not_found": "there is nothing at this path",
        "method_not_allowed": "the path does not take this method",
        "unknown_model": "there is no model of this name and version",
        "no_examples": "there are no example pictures beside the served graph",
        "model_refused": "a reload found a model that cannot be served; the old one still is",
        "wrong_content_type": "the body is neither a multipart form, nor a picture, nor JSON",
        "unsupported_encoding": "the body is compressed, and not with gzip",
        "damaged_encoding": "the body is sent as gzip and cannot be unpacked",
        "empty_body": "the request has no body",
        "bad_form": "the multipart form cannot be read",
        "bad_json": "the JSON body cannot be read, or a picture in it is no base64",
        "unknown_field": "the form has a field that is not known",
        "unknown_parameter": "the query has a parameter that is not known",
        "no_image": "the form has no picture",
        "not_a_file": "the form has text where a file is expected",
        "empty_file": "the picture's file is empty",
        "too_many_images": "the form has more pictures than allowed",
        "bad_flag": "the switch of the block is none of true, false and auto",
        "bad_top_k": "the number of classes to list is out of range",
        "bad_tensor_request": "the inference request is not as the Open Inference Protocol and the graph want it",
        "no_block": "the served network has no self-gradient block",
        "no_auto": "the served network has no threshold for self_gradient=auto",
        "no_gradient": "the served graph has no self-gradient among its outputs",
        "not_an_image": "the file is a picture in none of the accepted formats",
        "unsupported_pixels": "the picture's pixels have no known place between black and white",
        "damaged_image": "the picture is truncated or damaged",
        "too_many_pixels": "the picture has more pixels than allowed, or decoding it takes too much memory",
        "too_slow_to_decode": "the picture takes too long to decode",
        "decoder_crashed": "the picture has crashed the process that decoded it",
    }
)
"""Every code that an error answer may carry, with its meaning. The documentation is generated from it."""


class Refusal(Exception):
    """Base of everything that the service refuses for a reason that people can put right.

    Args:
        code: A constant for programs, one of CODES.
        message: A sentence for people: what is wrong, and the fix where there is one.
        retry_after: Seconds to wait before another try may succeed, 1 or more. None where waiting does not help.

    Raises:
        LookupError: The code is not one of CODES, so no documentation would list it.
    """

    # The constructor's arguments stay in `args`, so that a refusal can be sent from one process to another.
    def __init__(self, code: str, message: str, retry_after: int | None = None):
        if code not in CODES:
            raise LookupError(f"the code {code!r} is missing from sgn_serve.common.refusals.CODES")
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return the message."""
        return self.message


class Overloaded(Refusal):
    """Tell that there is no room for more pictures.

    Args:
        retry_after: Seconds, 1 or more, after which those accepted now should be answered.
        waiting: Plural noun: what there are too many of.
    """

    def __init__(self, retry_after: int, waiting: str = "pictures"):
        super().__init__("overloaded", f"too many {waiting} are waiting; try again in {retry_after} s", retry_after)


class ServingError(Exception):
    """Base of what keeps a model from being served: a setting, a graph's file, an engine.

    The message is one line that names the fix. Command lines print it and end with `exit_status`.
    """

    exit_status: ClassVar[int] = 1
    """docs/explanation/service.md promises 1 of a server that cannot start, so that 2 means a wrong command line."""


def refused(error: ServingError, told: str | None = None) -> int:
    """Print why a command ends, in one line on standard error, and return its exit status.

    Args:
        error: Why.
        told: The message in the words of the command line. None for the error's own.
    """
    say(f"error: {told or error}")
    return error.exit_status
