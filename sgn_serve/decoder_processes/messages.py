"""Messages between the service, the fork server and the decoder processes: fixed heads, and texts of known length."""

from enum import IntEnum
from struct import Struct

ORDER = Struct("<cI?")
"""The service to the fork server: FORK or KILL, number of the process, and whether it is for large pictures.

Two file descriptors come with FORK: the process's end of its socket, and the memory that it shares with the service.
"""
FORK, KILL = b"F", b"K"

ENDED = Struct("<Ii")
"""The fork server to the service: number of a process that has ended, and its status as os.waitpid returns it."""

NO_MEMORY_STATUS = 12
"""Exit status of a decoder process that had not even the memory to tell so."""

HELLO = Struct("<II??")
"""A decoder process to the service, first: its process id, then the fields of confinement.Confinement."""

TASK = Struct("<IId")
"""The service to a decoder process: length of the file in the shared memory, and the limits of pixels and of seconds of
CPU time."""

ANSWER = Struct("<B?I")
"""A decoder process to the service: an Outcome, whether the process ends now, and length of the text that follows."""
LONGEST_TEXT = 4096


class Outcome(IntEnum):
    """The outcome of decoding a picture, as the decoder process reports it."""

    PIXELS = 0
    """RGB from 0 to 255 is in the shared memory."""
    REFUSED = 1
    """The text is JSON: the code and the message of a PictureRefused."""
    LARGE = 2
    """The picture was not decoded, since it has more pixels than it may have. The text is their number."""
    NO_MEMORY = 3
    """Decoding takes more memory than this process may have. The process ends."""
    FAILED = 4
    """Decoding raised an exception that should not occur; the text describes it."""
