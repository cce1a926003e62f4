"""Runs a command under the system call filter of a systemd unit, as systemd would.

    tests/unit_filter.py UNIT COMMAND ...

It reads SystemCallFilter, RestrictAddressFamilies and MemoryDenyWriteExecute. A test runner has no systemd that could
start the unit itself.
"""

import errno
import os
import socket
import subprocess
import sys

from seccomp import ALLOW, EQ, ERRNO, MASKED_EQ, Arg, Attr, SyscallFilter

PROT_WRITE, PROT_EXEC = 2, 4


def values(unit, key):
    """Returns the words of each line of a key."""
    lines = (line.strip() for line in open(unit))
    return [line.partition("=")[2].split() for line in lines if line.startswith(key + "=")]


def system_calls(name):
    """Returns the system calls of a name or of a set such as @system-service."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], check=True, capture_output=True, text=True
    )
    entries = [line.split()[0] for line in listed.stdout.splitlines()[1:] if line.strip() and line.split()[0] != "#"]
    return set().union(*(system_calls(entry) for entry in entries))


def allowed(unit):
    """Returns the system calls that the lines of SystemCallFilter allow together."""
    calls = set()
    for words in values(unit, "SystemCallFilter"):
        denied = words[0].startswith("~")
        named = set().union(*(system_calls(word.lstrip("~")) for word in words))
        calls = calls - named if denied else calls | named
    return calls


def build(unit):
    """Returns the filter of the unit."""
    denied = ERRNO(errno.EPERM)
    # What is not named is denied. The child has to be executed once.
    result = SyscallFilter(defaction=denied)
    result.set_attr(Attr.CTL_NNP, True)
    special = {"socket", "mmap", "mprotect", "pkey_mprotect"}
    for call in allowed(unit) - special:
        try:
            result.add_rule(ALLOW, call)
        except (RuntimeError, ValueError, OSError):
            pass  # not a call of this processor
    for family in values(unit, "RestrictAddressFamilies")[0]:
        result.add_rule(ALLOW, "socket", Arg(0, EQ, getattr(socket, family)))
    assert values(unit, "MemoryDenyWriteExecute") == [["yes"]]
    # No memory is writable and executable at once, and none becomes executable later.
    for protection in (0, PROT_WRITE, PROT_EXEC):
        result.add_rule(ALLOW, "mmap", Arg(2, MASKED_EQ, PROT_WRITE | PROT_EXEC, protection))
    result.add_rule(ALLOW, "mprotect", Arg(2, MASKED_EQ, PROT_EXEC, 0))
    return result


def main():
    unit, *command = sys.argv[1:]
    filter_ = build(unit)
    filter_.load()
    for family in (socket.AF_NETLINK, socket.AF_PACKET):
        try:
            socket.socket(family, socket.SOCK_RAW)
        except PermissionError:
            continue
        raise SystemExit("the filter has no effect")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
