"""Replace this process with a command that ends when its parent does, optionally as another user.

Run by path as a script, `python -I -S die_with_parent.py PARENT SIGNAL UID GID UMASK --
command...`, so that nothing of ours is imported and the start costs a few milliseconds. It is a
program of its own, and not a function run between fork and exec, because forking a process that
has threads and then running Python in the child can deadlock; and it changes the user itself,
because the interpreter may live where only root can read (a virtualenv under a 0700 home), while
the command does not.

On Linux the kernel sends SIGNAL to the command when the thread that started it ends (the kernel
clears that wish when the user changes, so it is made afterwards; it survives the exec). Elsewhere
nothing
does: what is left is found and stopped at the sandbox's next start.

Arguments: PARENT the process that must still be the parent; SIGNAL a number, 0 for none; UID and
GID numbers, -1 to stay who we are; UMASK octal. Exit status: 125 the parent has died already; 126
the command or the user change was refused; 127 there is no such command. Otherwise the command's
own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
EXIT_PARENT_DIED, EXIT_REFUSED, EXIT_NOT_FOUND = 125, 126, 127
# An interpreter ignores the first two, a shell's background job may ignore the others; what is
# ignored stays so across an exec, and a server that inherits it would not hear its stop signal.
DEFAULTED_SIGNALS = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGCHLD")


def _death_signal_setter() -> Callable[[int], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # only here: it takes a third of this program's time

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_death_signal(number: int) -> None:
        if prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")

    return set_death_signal


def _become(uid: int, gid: int) -> None:
    if uid < 0:
        return
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(arguments: list[str]) -> int:
    """Become the user, tie our life to the parent's, and turn into the command."""
    parent, number, uid, gid = (int(argument) for argument in arguments[:4])
    umask = int(arguments[4], 8)
    command = arguments[6:]
    try:
        # Loaded before the user changes: afterwards the interpreter's files may be out of reach.
        set_death_signal = _death_signal_setter() if number else None
        _become(uid, gid)
        if set_death_signal is not None:
            set_death_signal(number)
        # The parent may have died before the wish was made; then nobody would ever send the signal.
        if number and os.getppid() != parent:
            return EXIT_PARENT_DIED
        os.umask(umask)
        for name in DEFAULTED_SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.execv(command[0], command)
    except FileNotFoundError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return EXIT_NOT_FOUND
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
