"""Take from this process what it does not need, so that a fault in it stays in it.

Three layers, each used where the system has it:

- resource limits, which every Unix has: memory, processor time, open files, new processes, core files;
- Landlock, Linux 5.13 or later: no file of the file system, no TCP, no signals to other processes;
- a seccomp filter, Linux on x86-64 and arm64: only the system calls that arithmetic on memory needs.

None of them needs privileges, namespaces or a setting of the container. They are called by ctypes: no maintained
package with wheels binds Landlock and seccomp for Python. Source: https://docs.kernel.org/userspace-api/landlock.html
and https://docs.kernel.org/userspace-api/seccomp_filter.html, and GNOME's glycin, which confines image loaders alike.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_OOM_SCORE = Path("/proc/self/oom_score_adj")

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
"""Landlock's system calls, whose numbers are the same on every machine."""
_RULESET_VERSION = 1
_FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
"""Landlock's version, and how many rights over files it knows. The first bit is the first right."""
_NETWORK_VERSION, _NETWORK_RIGHTS = 4, 0b11
"""Bind and connect, of TCP."""
_SCOPE_VERSION, _SCOPES = 6, 0b11
"""Abstract Unix sockets and signals, of processes outside."""


@dataclass(frozen=True)
class _Machine:
    """Numbers that a seccomp filter needs.

    Attributes:
        audit: Number of the architecture, AUDIT_ARCH_*.
        allowed: System calls that are allowed.
        clone: The system call that starts a thread or a process, as its first argument says.
        set_robust_list: The system call that every thread begins with.
        protecting: mmap and mprotect, whose third argument says whether memory becomes executable.
    """

    audit: int
    allowed: tuple[int, ...]
    clone: int
    set_robust_list: int
    protecting: tuple[int, int]


# read, write, close, fstat, lseek, poll or ppoll, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn, pread64,
# writev, sched_yield, mremap, madvise, getpid, sendto, recvfrom, exit, getrusage, setitimer, sigaltstack, gettid,
# futex, clock_gettime, restart_syscall, exit_group, rseq, getrandom
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        (
            *(0, 1, 3, 5, 8, 7, 11, 12, 13, 14, 15, 17, 20, 24, 25, 28, 39, 44, 45, 60, 98, 38, 131, 186, 202, 228),
            *(219, 231, 334, 318),
        ),
        56,
        273,
        (9, 10),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        (
            *(63, 64, 57, 80, 62, 73, 215, 214, 134, 135, 139, 67, 66, 124, 216, 233, 172, 206, 207, 93, 165, 103),
            *(132, 178, 98, 113, 128, 94, 293, 278),
        ),
        220,
        99,
        (222, 226),
    ),
}
_PROT_EXEC = 4
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
"""Instructions of the classic Berkeley packet filter: BPF_LD|W|ABS, BPF_JMP|JEQ and JSET, BPF_RET."""
_Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand. They have 2, 1, 1 and 4 bytes."""
_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
_NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
_CLONE3, _CLONE_THREAD = 435, 0x10000
"""clone3 has its flags in memory, where no filter sees them. Without it, libraries use clone."""
_NUMBER, _ARCHITECTURE, _FLAGS, _PROTECTION = 0, 4, 16, 16 + 8 * 2
"""Offsets in struct seccomp_data of what a filter looks at. Arguments have 8 bytes, the low half first."""


@dataclass(frozen=True)
class Confinement:
    """Tell what a process has been confined by.

    Attributes:
        landlock: Version of the kernel's Landlock ABI, 0 where there is none.
        seccomp: Whether a filter of system calls is active.
        memory: Whether the system enforces a limit of memory.
    """

    landlock: int
    seccomp: bool
    memory: bool

    def means(self) -> list[str]:
        """Return the names of what is active."""
        active = {"landlock": self.landlock > 0, "seccomp": self.seccomp, "memory": self.memory}
        return [name for name, is_active in active.items() if is_active]

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        landlock = f"Landlock (ABI {self.landlock})" if self.landlock else "no Landlock"
        seccomp = "seccomp" if self.seccomp else "no seccomp"
        return f"{landlock}, {seccomp}, {'a limit' if self.memory else 'no limit'} of memory"


def confine(memory_bytes: int | None, threads: bool = False) -> Confinement:
    """Confine this process for good: to the memory and the open files that it has, and to a little more memory.

    Afterwards it opens no file, makes no socket, starts no process and no thread, and sends no signal. Import whatever
    may be needed before. Files that are open stay open. An attempt gives an OSError or, where only resource limits are
    there, may succeed: see Confinement.

    Args:
        memory_bytes: Address space beyond what the process has now, None for no limit.
        threads: Whether it may start threads all the same. Its time and memory are those of all together.

    Returns:
        The confinement that is active now.
    """
    memory = memory_bytes is not None and limit_memory(memory_bytes)  # /proc can still be read
    landlock = 0
    if sys.platform.startswith("linux"):
        _drop_capabilities()
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        landlock = deny_files_and_network()  # it opens a file for itself
    # A limit of 0 files leaves those that are open, and lets none be opened: no file, no socket, no pipe.
    limits = [resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE]
    if not threads:
        limits.append(resource.RLIMIT_NPROC)
    for limit in limits:
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))
    return Confinement(landlock, filter_system_calls(threads), memory)


def limit_memory(more_bytes: int) -> bool:
    """Limit this process's address space to what it has now and some more. It cannot be undone.

    Args:
        more_bytes: Bytes beyond the present size.

    Returns:
        Whether the system enforces it. macOS does not.
    """
    try:
        pages = int(_STATM.read_text().split()[0])
        limit = pages * resource.getpagesize() + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (OSError, ValueError):
        return False
    return True


def bound_resources(cpu_seconds: int, more_bytes: int | None) -> None:
    """Bound what this process takes, and have the kernel end it before others where memory runs out.

    Args:
        cpu_seconds: CPU time of the whole process. A lower limit that it has stays.
        more_bytes: Address space beyond what the process has now, None for no limit.
    """
    limit_processor_time(cpu_seconds)
    _lower(resource.RLIMIT_CORE, 0)
    be_ended_first()
    if more_bytes is not None:
        limit_memory(more_bytes)


def be_ended_first() -> None:
    """Have the kernel end this process before others where memory runs out. Linux only."""
    with suppress(OSError):
        _OOM_SCORE.write_text("1000")


def limit_processor_time(seconds: int) -> None:
    """Have the kernel end this process when it has taken so much processor time, whatever signals it blocks.

    Args:
        seconds: CPU time of the whole life of the process. A lower limit that it has stays.
    """
    _lower(resource.RLIMIT_CPU, seconds)


def close_other_files(keep: tuple[int, ...]) -> None:
    """Close every open file of this process but standard input, output and error, and some more.

    Args:
        keep: File descriptors that stay open.
    """
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for number in [int(name) for name in os.listdir(folder)]:
        if number > 2 and number not in keep:
            with suppress(OSError):
                os.close(number)


def deny_files_and_network() -> int:
    """Have Landlock deny all that it knows to this process, which must have set PR_SET_NO_NEW_PRIVS.

    Returns:
        Version of the kernel's Landlock ABI, 0 where there is none or it cannot be used.
    """
    version = landlock_version()
    if not version:
        return 0
    files = max(count for since, count in _FILE_RIGHTS if since <= version)
    rules = struct.pack(
        "=QQQ",
        (1 << files) - 1,
        _NETWORK_RIGHTS if version >= _NETWORK_VERSION else 0,
        _SCOPES if version >= _SCOPE_VERSION else 0,
    )
    ruleset = _system_call(_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return 0
    refused = _system_call(_RESTRICT_SELF, ruleset, 0, 0) < 0
    os.close(ruleset)
    return 0 if refused else version


def landlock_version() -> int:
    """Return the version of the kernel's Landlock ABI, 0 where there is none or it is switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _system_call(_CREATE_RULESET, None, 0, _RULESET_VERSION))


def filter_system_calls(threads: bool = False) -> bool:
    """Allow this process only the system calls that arithmetic needs; the others give EPERM.

    The process must have set PR_SET_NO_NEW_PRIVS. It is the last step: it takes away what the others need.

    Args:
        threads: Whether to allow the start of threads.

    Returns:
        Whether the filter is active.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or not sys.platform.startswith("linux") or sys.byteorder != "little":
        return False
    return _install(_filter(machine, threads))


def _install(instructions: list[_Instruction]) -> bool:
    """Activate a filter for good, and return whether it is active."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(program))  # struct sock_fprog
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header, len(header)))


def _filter(machine: _Machine, threads: bool) -> list[_Instruction]:
    """Return a filter's instructions."""
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number in machine.protecting:  # none of them may make memory executable
        instructions += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _PROTECTION),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    if threads:
        instructions += [
            (_EQUAL, 0, 1, _CLONE3),
            (_RETURN, 0, 0, _NO_SUCH_CALL),
            (_EQUAL, 0, 4, machine.clone),
            (_LOAD, 0, 0, _FLAGS),
            (_ANY_BIT, 0, 1, _CLONE_THREAD),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
            (_EQUAL, 0, 1, machine.set_robust_list),
            (_RETURN, 0, 0, _ALLOW),
        ]
    for number in machine.allowed:
        instructions += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    instructions.append((_RETURN, 0, 0, _REFUSE))
    return instructions


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(kind, (limit, limit))


def _drop_capabilities() -> None:
    """Give up what root may do beyond others, such as raising its own limits."""
    number = _CAPSET.get(platform.machine())
    if number is not None:
        _system_call(number, struct.pack("=II", _CAPABILITY_VERSION_3, 0), bytes(24))


def _prctl(option: int, *arguments: object) -> bool:
    padded = [*arguments, *[0] * (4 - len(arguments))]
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in padded]
    return bool(_libc().prctl(option, *values) == 0)


def _system_call(number: int, *arguments: object) -> int:
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    return int(_libc().syscall(ctypes.c_long(number), *values))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
