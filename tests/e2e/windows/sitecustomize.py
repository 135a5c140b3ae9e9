"""Python runs this file at its start when its directory is on PYTHONPATH: MiniGPT's own modules see what Windows has.

The modules that Windows lacks cannot be imported by them, `os`, `signal` and `subprocess` have only the names that are
there, and Ctrl-Break exists, as SIGUSR1. Other packages, which have a Windows version of their own, see Linux.
"""

import builtins
import signal
import types

MISSING = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "posix", "readline", "curses"}
NAMES = {
    "os": "getuid geteuid getgid getegid nice getpriority setpriority PRIO_PROCESS killpg getpgid setpgid setsid fork "
          "forkpty waitpid wait sched_getaffinity sched_setaffinity sysconf statvfs mkfifo chown uname getloadavg "
          "O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG register_at_fork posix_fadvise pread pwrite",
    "signal": "SIGHUP SIGKILL SIGBUS SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGQUIT SIGSTOP SIGCONT alarm pause "
              "setitimer pthread_sigmask sigwait",
    "subprocess": "",
}  # fmt: skip
ADDED = {
    "signal": {"SIGBREAK": signal.SIGUSR1, "CTRL_BREAK_EVENT": signal.SIGUSR1, "CTRL_C_EVENT": signal.SIGINT},
    "subprocess": {"CREATE_NEW_PROCESS_GROUP": 0},
}
right, seen = builtins.__import__, {}


class Seen(types.ModuleType):
    """A module without some of its names and with others."""

    def __init__(self, module, missing, added):
        super().__init__(module.__name__)
        self.__dict__.update(added, _module=module, _missing=missing)

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._module, name)


def import_(name, globals=None, locals=None, fromlist=(), level=0):
    ours = str((globals or {}).get("__name__", "")).partition(".")[0] in ("minigpt", "backends")
    if ours and level == 0 and name.partition(".")[0] in MISSING:
        raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
    module = right(name, globals, locals, fromlist, level)
    if not ours or level or name not in NAMES:
        return module
    if name not in seen:
        seen[name] = Seen(module, frozenset(NAMES[name].split()), ADDED.get(name, {}))
    return seen[name]


builtins.__import__ = import_
