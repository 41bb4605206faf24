"""Runs a user's Python file apart from everything: bubblewrap, no network, no home, little memory and time. Fails closed. No torch here.

Without bubblewrap, or where it cannot start, nothing is run. The file is never imported into our own process: what comes
back is JSON of bounded size. Layers of defence, each enough alone against most of what could be tried: namespaces (processes,
network, users, files), a root of system libraries that cannot be written, a filter of system calls, limits on resources.
"""
from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morphogen.errors import NotPermitted, ResourceError, UsageError

SOURCE = 1 << 20  # bytes a user's file may have
INPUT = 4 << 20  # bytes of JSON that go in
PYTHON = "/python/bin/python3"  # where the interpreter lies inside


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a call may use."""

    seconds: float = 10.0
    "Wall time; of processor time as much, rounded up."
    memory: int = 256 << 20
    "Bytes of address space."
    disk: int = 64 << 20
    "Bytes in /tmp, the only place that can be written."
    processes: int = 32
    "Threads, where the kernel counts them (not for root: there memory bounds them). On x86-64 and ARM no second process starts."
    output: int = 1 << 20
    "Bytes of JSON that come back."
    errors: int = 16 << 10
    "Bytes of what it printed that are kept for messages."


# Runs inside: limits first, then the user's file as a module; what it prints goes to stderr, the answer to a descriptor of its own.
RUNNER = """
import json, os, sys
answer = os.dup(1)
os.dup2(2, 1)
task = json.load(sys.stdin)
import resource
for name, value in task["limits"]:
    resource.setrlimit(getattr(resource, name), (value, value))
import importlib.util
def reply(**what):
    data = json.dumps(what, allow_nan=False).encode()
    while data:
        data = data[os.write(answer, data):]
    sys.stdout.flush()
    os._exit(0)
try:
    spec = importlib.util.spec_from_file_location("checker", "/checker.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["checker"] = module
    spec.loader.exec_module(module)
    function = getattr(module, task["function"], None)
    if not callable(function):
        reply(error="it has no function " + task["function"])
    result = function(*task["arguments"])
    reply(result=result)
except MemoryError:
    reply(error="it ran out of memory")
except BaseException as error:
    reply(error=(type(error).__name__ + ": " + str(error))[:500])
"""


def call(file: Path, function: str, arguments: Sequence[Any], limits: Limits | None = None) -> Any:
    """What `function(*arguments)` of a user's Python file returns, arguments and result as JSON. Only the standard library is there.

    Raises NotPermitted when there is no sandbox, ResourceError when a limit was hit, UsageError when the file fails or is none.
    """
    limits, file = limits or Limits(), Path(file).resolve()
    if not file.is_file():
        raise UsageError("no such file", where=file, remedy="name a Python file")
    if file.stat().st_size > SOURCE:
        raise UsageError("the file is larger than 1 MiB", where=file, remedy="give a smaller one")
    task = json.dumps({"function": function, "arguments": list(arguments), "limits": _rlimits(limits)}, allow_nan=False).encode()
    if len(task) > INPUT:
        raise ResourceError(f"{len(task):,} bytes are too much for the sandbox", where=file, remedy="hand over less")
    out, errors, code, over = _run(file, task, limits)
    if over:
        raise ResourceError(f"the file was stopped: {over}", where=file, remedy="make it quicker or smaller")
    said = errors.decode("utf-8", "replace").strip()
    if not out:
        if said.startswith("bwrap:"):
            raise NotPermitted(f"the sandbox cannot start ({said.splitlines()[0][7:]})", where=file,
                               remedy="allow user namespaces, or run outside of a container; user code is never run without it")
        last = said.splitlines()[-1][:200] if said else f"exit status {code}"
        raise ResourceError(f"the file was stopped without an answer ({last})", where=file, remedy="it may need too much memory or time")
    return _answer(out, file)


def available() -> bool:
    """Whether a trivial call works here."""
    return not _reason()


def _reason() -> str:
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or not bwrap:
        return "bubblewrap (bwrap) is not installed" if sys.platform == "linux" else "it needs Linux and bubblewrap"
    try:
        with _filter() as pipe:
            done = subprocess.run([bwrap, *_walls(Limits(), pipe), "--", PYTHON, "-I", "-S", "-c", ""], capture_output=True, timeout=20,
                                  pass_fds=[pipe] if pipe >= 0 else [], stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip()[:200] or "it does not start"


def _answer(out: bytes, file: Path) -> Any:
    try:
        found = json.loads(out, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise UsageError("what the file answered is not JSON", where=file, remedy="return plain lists, dicts, strings, numbers") from None
    if "error" in found:
        raise UsageError(f"the file failed ({found['error']})", where=file, remedy="mend it")
    return found.get("result")


def _no_number(name: str) -> None:
    raise ValueError(name)


# ------------------------------------------------------------------ the walls
def _walls(limits: Limits, pipe: int) -> list[str]:
    """bubblewrap's arguments: new namespaces, system libraries and Python's own read-only, a small /tmp, nothing else."""
    out = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534",
           "--hostname", "sandbox", "--clearenv", "--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8"]
    for name in ("lib", "lib64", "lib32"):
        for path in (Path("/", name), Path("/usr", name)):
            if path.is_symlink():
                out += ["--symlink", os.readlink(path), str(path)]
            elif path.is_dir():
                out += ["--ro-bind", str(path), str(path)]
    # Python gets a place of its own, for it may be installed in somebody's home
    base, version = Path(sys.base_prefix).resolve(), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    out += ["--ro-bind", os.path.realpath(sys.executable), PYTHON, "--ro-bind", str(base / "lib" / version), f"/python/lib/{version}"]
    for library in sorted((base / "lib").glob("libpython*.so*")):
        out += ["--ro-bind", str(library.resolve()), f"/python/lib/{library.name}"]
    cache = Path("/etc/ld.so.cache")
    out += ["--ro-bind", str(cache), str(cache)] if cache.is_file() else []
    out += ["--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    for device in ("null", "urandom"):
        out += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    out += ["--size", str(limits.disk), "--tmpfs", "/tmp", "--setenv", "HOME", "/tmp", "--chdir", "/tmp"]
    return [*out, *(["--seccomp", str(pipe)] if pipe >= 0 else [])]


def _rlimits(limits: Limits) -> list[tuple[str, int]]:
    return [("RLIMIT_CPU", int(limits.seconds) + 1), ("RLIMIT_AS", limits.memory), ("RLIMIT_FSIZE", limits.disk), ("RLIMIT_CORE", 0),
            ("RLIMIT_NPROC", limits.processes), ("RLIMIT_NOFILE", 64), ("RLIMIT_MEMLOCK", 0), ("RLIMIT_MSGQUEUE", 0)]


# system calls by number: (x86-64, ARM 64); -1 = there is none
FORBIDDEN = {
    "fork": (57, -1), "vfork": (58, -1), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "socket": (41, 198), "socketpair": (53, 199), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "pidfd_getfd": (438, 438), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "clock_settime": (227, 112), "settimeofday": (164, 170), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116), "personality": (135, 92), "modify_ldt": (154, -1), "iopl": (172, -1), "ioperm": (173, -1),
}
CLONE, CLONE3 = (56, 220), (435, 435)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE_THREAD, EPERM, ENOSYS, X32 = 0x00010000, 1, 38, 0x40000000


def filter_program(machine: str) -> bytes:
    """A seccomp filter (classic BPF) that refuses FORBIDDEN with EPERM and any new process; b"" for machines it does not know.

    clone3 answers "no such call", so that libraries fall back to clone, whose flags a filter can see: threads only.
    """
    if machine not in ARCHITECTURES:
        return b""
    column, audit = ARCHITECTURES[machine]
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06  # LD W ABS, JEQ, JGE, JSET, RET with a constant each
    refuse, missing, kill, allow = 0x00050000 | EPERM, 0x00050000 | ENOSYS, 0x80000000, 0x7FFF0000
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, X32), (give, 0, 0, refuse)] if column == 0 else []
    code += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, missing)]
    code += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (bits, 1, 0, CLONE_THREAD), (give, 0, 0, refuse), (give, 0, 0, allow)]
    for numbers in FORBIDDEN.values():
        if numbers[column] >= 0:
            code += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


@contextlib.contextmanager
def _filter() -> Iterator[int]:
    """A descriptor from which bubblewrap reads the filter; -1 where there is none for this machine."""
    program = filter_program(platform.machine())
    if not program:
        yield -1
        return
    reader, writer = os.pipe()  # the program is far smaller than a pipe holds
    try:
        os.write(writer, program)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


# ------------------------------------------------------------------ running
def _run(file: Path, task: bytes, limits: Limits) -> tuple[bytes, bytes, int, str]:
    """(answer, end of what was printed, exit status, which limit was hit or "")."""
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or not bwrap:
        raise NotPermitted("user code runs only in a sandbox, and there is none here", where=file,
                           remedy="install bubblewrap (apt install bubblewrap); it needs Linux")
    with _filter() as pipe:
        # the root itself is a tmpfs without a limit: nothing may be written there, once everything is in place
        walls = [*_walls(limits, pipe), "--ro-bind", str(file), "/checker.py", "--remount-ro", "/"]
        try:
            child = subprocess.Popen([bwrap, *walls, "--", PYTHON, "-I", "-S", "-B", "-c", RUNNER], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[pipe] if pipe >= 0 else [],
                                     start_new_session=True, env={"PATH": "/usr/bin:/bin"})
        except OSError as error:
            raise NotPermitted(f"the sandbox cannot start ({error})", where=file, remedy="check that bwrap runs") from None
    try:
        out, errors, over = _exchange(child, task, limits)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # the namespace dies with its first process, and all in it
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        code = child.wait()
    return out, errors, code, over


def _exchange(child: subprocess.Popen[bytes], task: bytes, limits: Limits) -> tuple[bytes, bytes, str]:
    """Hand over the task and collect what comes, within time and size."""
    assert child.stdin and child.stdout and child.stderr
    until, out, errors, left = time.monotonic() + limits.seconds, b"", b"", memoryview(task)
    with selectors.DefaultSelector() as waiting:
        for stream in (child.stdin, child.stdout, child.stderr):
            os.set_blocking(stream.fileno(), False)
            waiting.register(stream, selectors.EVENT_WRITE if stream is child.stdin else selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(0.0, until - time.monotonic()))
            if time.monotonic() >= until:
                return out, errors, f"{limits.seconds:g} seconds are over"
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    try:
                        left = left[os.write(child.stdin.fileno(), left[:65536]):]
                    except BlockingIOError:
                        continue
                    except OSError:
                        left = left[:0]
                    if not left:
                        waiting.unregister(child.stdin)
                        child.stdin.close()
                    continue
                data = os.read(key.fd, 65536)
                if not data:
                    waiting.unregister(key.fileobj)
                    if key.fileobj is child.stdout:  # nothing more can be answered: what is printed after does not matter
                        return out, errors + _rest(child.stderr.fileno(), child), ""
                elif key.fileobj is child.stdout:
                    out += data
                    if len(out) > limits.output:
                        return b"", errors, f"it answered more than {limits.output:,} bytes"
                else:
                    errors = (errors + data)[-limits.errors:]
    return out, errors, ""


def _rest(descriptor: int, child: subprocess.Popen[bytes]) -> bytes:
    """What is left to read of the errors, without waiting for more than a moment."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.5)
    try:
        return os.read(descriptor, 16384)
    except OSError:
        return b""
