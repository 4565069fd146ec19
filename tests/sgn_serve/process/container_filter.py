"""Confine this process as Docker's default seccomp profile does, without capabilities. Linux on x86-64 only.

Source: https://github.com/moby/moby/blob/master/profiles/seccomp/default.json (commit 00f3d18). The profile lists what
is allowed; here are the calls of x86-64 that are not, without any capability. Later calls are refused too.
"""

import ctypes

from sgn_serve.process import confinement

_REFUSED = (
    *(103, 134, 136, 139, 153, 155, 156, 161),  # syslog, uselib, ustat, sysfs, vhangup, pivot_root, _sysctl, chroot
    *range(163, 184),  # acct, settimeofday, mount, umount2, swapon, ..., init_module, ..., quotactl, ..., afs_syscall
    *(184, 185, 212, 214, 215, 227, 236),  # tuxcall, security, lookup_dcookie, epoll_*_old, clock_settime, vserver
    *(237, 238, 239, 246, 248, 249, 250),  # mbind, set_mempolicy, get_mempolicy, kexec_load, add_key, ..., keyctl
    *(256, 272, 279, 298, 300, 304, 308),  # migrate_pages, unshare, move_pages, perf_event_open, ..., setns
    *(312, 313, 320, 321, 323),  # kcmp, finit_module, kexec_file_load, bpf, userfaultfd
    *(428, 429, 430, 431, 432, 433, 438, 440, 442, 443),  # open_tree, move_mount, fsopen, ..., mount_setattr, ...
)
_FIRST_UNKNOWN = 450
_CLONE = confinement._MACHINES["x86_64"].clone
_NAMESPACES = 0x7E020000
_AT_LEAST = 0x35


def confine_as_a_container() -> None:
    """Install the filter for good, for this process and all that it starts, and give up every capability."""
    refuse, allow = confinement._REFUSE, confinement._ALLOW
    load, equal, any_bit, give = confinement._LOAD, confinement._EQUAL, confinement._ANY_BIT, confinement._RETURN
    instructions = [
        (load, 0, 0, confinement._NUMBER),
        (equal, 0, 1, confinement._CLONE3),
        (give, 0, 0, confinement._NO_SUCH_CALL),
        (_AT_LEAST, 0, 1, _FIRST_UNKNOWN),
        (give, 0, 0, refuse),
        (equal, 0, 4, _CLONE),
        (load, 0, 0, confinement._FLAGS),
        (any_bit, 0, 1, _NAMESPACES),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    for number in _REFUSED:
        instructions += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    instructions.append((give, 0, 0, allow))
    confinement._drop_capabilities()
    assert confinement._prctl(confinement._PR_SET_NO_NEW_PRIVS, 1)
    assert confinement._install(instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x10000000) == -1, "a namespace of users"
    assert ctypes.get_errno() == 1
