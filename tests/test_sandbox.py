"""The sandbox: what it lets through, what it stops, and that nothing runs where it is missing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import struct
import time
from pathlib import Path

import pytest

from morphogen import sandbox
from morphogen.errors import NotPermitted, ResourceError, UsageError
from morphogen.sandbox import Limits, call

WORKS = sandbox.available()
walled = pytest.mark.skipif(not WORKS, reason="bubblewrap cannot start here")


@pytest.fixture
def run(tmp_path: Path):
    """Runs the body of `check(x)` in the sandbox."""

    def inner(body: str, *arguments, limits: Limits | None = None):
        file = tmp_path / "checker.py"
        lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
        file.write_text(f"import os, sys, json, ctypes\ndef check(*args):\n{lines}")
        return call(file, "check", arguments, limits or Limits(seconds=5))

    return inner


# ------------------------------------------------------------------ what works
@walled
def test_answers_come_back_as_json(run) -> None:
    assert run("print('chatter'); return {'ok': len(args[0]) == 2, 'é': [1, 2.5, None]}", ["##", "# "]) == {"ok": True, "é": [1, 2.5, None]}


@walled
def test_the_standard_library_is_there_and_nothing_else(run) -> None:
    assert run("import heapq, collections, itertools, math, re, random\nreturn math.floor(2.5)") == 2
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        run("import numpy")
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        run("import morphogen")


@walled
def test_it_may_write_in_its_own_tmp_and_nothing_stays(run) -> None:
    assert run("open('/tmp/a', 'w').write('x')\nreturn os.listdir('/tmp')") == ["a"]
    assert run("return os.listdir('/tmp')") == []


@walled
def test_threads_work(run) -> None:
    assert run("import threading\nout = []\nt = threading.Thread(target=out.append, args=(1,))\nt.start(); t.join()\nreturn out") == [1]


@walled
@pytest.mark.parametrize(("body", "said"), [
    ("raise ValueError('no\\nlevel')", "ValueError: no level"), ("sys.exit(3)", "SystemExit"), ("return {1, 2}", "TypeError"),
    ("return float('nan')", "ValueError"), ("return check", "TypeError"),
])
def test_faults_of_the_file_are_one_line(run, body: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        run(body)
    assert said in error.value.line() and "\n" not in error.value.line()


@walled
def test_a_file_without_the_function_or_with_wrong_syntax(tmp_path: Path) -> None:
    file = tmp_path / "c.py"
    file.write_text("def other(): pass")
    with pytest.raises(UsageError, match="no function check"):
        call(file, "check", [])
    file.write_text("def check(:")
    with pytest.raises(UsageError, match="SyntaxError"):
        call(file, "check", [])


# ------------------------------------------------------------------ what is asked before anything runs
def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        call(tmp_path / "absent.py", "check", [])
    (tmp_path / "big.py").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="larger"):
        call(tmp_path / "big.py", "check", [])
    (tmp_path / "a.py").write_text("def check(x): return x")
    with pytest.raises(ResourceError, match="too much"):
        call(tmp_path / "a.py", "check", ["x" * (5 << 20)])


def test_sec_without_bubblewrap_nothing_runs(tmp_path: Path, monkeypatch) -> None:
    """Fails closed: never skipped."""
    canary = tmp_path / "canary"
    file = tmp_path / "c.py"
    file.write_text(f"open({str(canary)!r}, 'w')\ndef check(): return 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotPermitted) as error:
        call(file, "check", [])
    assert error.value.exit_code == 6 and "bubblewrap" in error.value.line() and not canary.exists()
    assert not sandbox.available()


def test_sec_where_bubblewrap_cannot_start_nothing_runs(tmp_path: Path, monkeypatch) -> None:
    """As in containers without user namespaces: never skipped."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    canary = tmp_path / "canary"
    file = tmp_path / "c.py"
    file.write_text(f"open({str(canary)!r}, 'w')\ndef check(): return 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NotPermitted, match="No permissions"):
        call(file, "check", [])
    assert not canary.exists() and not sandbox.available()


def test_sec_the_filter_refuses_what_it_lists() -> None:
    """The program is run by hand: refused calls, new processes, foreign architectures; the rest passes."""
    program = [struct.unpack("<HBBI", sandbox.filter_program("x86_64")[i : i + 8]) for i in range(0, 8 * 1000, 8)
               if i < len(sandbox.filter_program("x86_64"))]

    def verdict(number: int, flags: int = 0, audit: int = 0xC000003E) -> int:
        data, a, at = {0: number, 4: audit, 16: flags}, 0, 0
        while True:
            code, yes, no, k = program[at]
            at += 1
            if code == 0x20:
                a = data[k]
            elif code == 0x06:
                return k
            else:
                at += yes if {0x15: a == k, 0x35: a >= k, 0x45: bool(a & k)}[code] else no

    allow, refuse = 0x7FFF0000, 0x00050001
    for name, (number, _) in sandbox.FORBIDDEN.items():
        assert verdict(number) == refuse, name
    assert verdict(56, 0x00010000) == allow and verdict(56, 0x11) == refuse and verdict(435) == 0x00050000 | 38
    assert all(verdict(number) == allow for number in (0, 1, 2, 9, 12, 59, 231, 257)) and verdict(0x40000001) == refuse
    assert verdict(0, audit=0x40000003) == 0x80000000
    assert sandbox.filter_program("riscv64") == b""


# ------------------------------------------------------------------ escapes: each must fail, or be stopped
SECRET = "a secret beside the checker"
ESCAPES = {
    "read /etc/shadow": "return open('/etc/shadow').read()",
    "read /etc/passwd": "return open('/etc/passwd').read()",
    "read the home folder": "return os.listdir(HOME)",
    "read the folder of the file": "return open(FOLDER + '/secret.txt').read()",
    "list /proc": "return os.listdir('/proc')",
    "read the environment of process 1": "return open('/proc/1/environ').read()",
    "list /sys": "return os.listdir('/sys')",
    "list /home": "return os.listdir('/home')",
    "list the host's root": "assert set(os.listdir('/')) - {'lib', 'lib64', 'lib32', 'usr', 'etc', 'dev', 'tmp', 'checker.py', 'python'}",
    "a link out of /tmp": "os.symlink('/etc/shadow', '/tmp/s')\nreturn open('/tmp/s').read()",
    "up and out": "return open('/tmp/../../../../etc/shadow').read()",
    "a device": "os.mknod('/tmp/d', 0o60666, os.makedev(8, 0))",
    "write to the root": "open('/evil', 'w').write('x')",
    "write to a system library": "open('/usr/lib/evil', 'w').write('x')",
    "write to itself": "open('/checker.py', 'a').write('x')",
    "write beside devices": "open('/dev/evil', 'w').write('x')",
    "a socket": "import socket\nsocket.socket().connect(('127.0.0.1', 22))",
    "a unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "a name look-up": "import socket\nreturn socket.getaddrinfo('example.org', 80)",
    "a shell": "assert os.system('true') == 0",
    "a subprocess": "import subprocess\nreturn subprocess.run(['/usr/bin/env']).returncode",
    "fork": "os.fork()",
    "multiprocessing": "import multiprocessing\np = multiprocessing.Process(target=print)\np.start(); p.join(); assert p.exitcode == 0",
    "fork through ctypes": "assert ctypes.CDLL(None).fork() >= 0",
    "vfork by number": "assert ctypes.CDLL(None).syscall(58) >= 0",
    "ptrace through ctypes": "assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "mount through ctypes": "assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "new namespaces": "assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "become root": "os.setuid(0)",
    "raise a limit": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "kill outsiders": "os.kill(OUTSIDER, 0)",
    "io_uring": "assert ctypes.CDLL(None).syscall(425, 4, 0) >= 0",
    "the format walk to os": "return '{0.__globals__[os].environ[SECRET]}'.format(check)",
    "the subclass walk to a file": "c = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'FileLoader'][0]\n"
                                   "return c('x', '/etc/shadow').get_data('/etc/shadow').decode()",
    "our environment": "return os.environ['SECRET']",
    "a handle left open": "return os.read(int(HANDLE), 100).decode()",
    "too much memory": "return len(bytearray(1 << 30))",
    "too much memory by mmap": "import mmap\nm = mmap.mmap(-1, 1 << 30)\nm[::4096] = b'x' * (1 << 18)",
    "fill the disk": "for i in range(200):\n    open('/tmp/%d' % i, 'wb').write(b'x' * (1 << 20))",
    "one huge file": "with open('/tmp/x', 'wb') as f:\n    f.truncate(1 << 30)",
    "fill shared memory": "open('/dev/shm/x', 'wb').write(b'x')",
    "too long an answer": "return 'x' * (2 << 20)",
    "an answer forged as NaN": "os.write(int(3), b'NaN'); os._exit(0)",
    # files and folders of the host
    "read ssh keys": "return os.listdir(HOME + '/.ssh')",
    "read the machine's name": "return open('/etc/hostname').read()",
    "read the resolver": "return open('/etc/resolv.conf').read()",
    "read our own process": "return open('/proc/self/maps').read()",
    "read by descriptor of /proc": "return os.listdir('/proc/self/fd')",
    "read the root of process 1": "return os.listdir('/proc/1/root')",
    "write kernel settings": "open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')",
    "list /root": "return os.listdir('/root')",
    "list /var": "return os.listdir('/var/log')",
    "list /run": "return os.listdir('/run')",
    "list /mnt": "return os.listdir('/mnt')",
    "the docker socket": "return os.stat('/var/run/docker.sock').st_mode",
    "read a disk": "return len(open('/dev/sda', 'rb').read(512))",
    "read memory": "return len(open('/dev/mem', 'rb').read(16))",
    "type on the terminal": "os.open('/dev/tty', os.O_RDWR)",
    "inject into the terminal": "import fcntl, termios\nfcntl.ioctl(2, termios.TIOCSTI, b'x')",
    "a hard link": "os.link('/checker.py', '/tmp/h')\nopen('/tmp/h', 'a').write('x')",
    "rename a library": "os.rename('/usr/lib', '/usr/evil')",
    "make a folder in the root": "os.mkdir('/evil')",
    "change rights of the root": "os.chmod('/', 0o777)\nopen('/evil', 'w')",
    "give a file away": "open('/tmp/a', 'w')\nos.chown('/tmp/a', 0, 0)",
    "change Python itself": "open('/python/bin/python3', 'ab').write(b'x')",
    "plant a module": "open('/python/lib/evil.py', 'w')",
    "leave the root by chroot": "os.chroot('/tmp')",
    "leave by an open folder": "d = os.open('/', os.O_RDONLY)\nos.chdir('..')\nreturn os.listdir(d).index('home')",
    "set a user bit": "open('/tmp/s', 'w')\nos.chmod('/tmp/s', 0o4755)\nassert os.system('/tmp/s') == 0",
    # the network
    "a raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "a netlink socket": "import socket\nsocket.socket(16, socket.SOCK_RAW, 0)",
    "a packet socket": "import socket\nsocket.socket(17, socket.SOCK_RAW, 3)",
    "a pair of sockets": "import socket\nsocket.socketpair()",
    "an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')",
    "vsock": "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
    "a web request": "import urllib.request\nreturn urllib.request.urlopen('http://127.0.0.1:80', timeout=1).status",
    "a server": "import http.server\nhttp.server.HTTPServer(('127.0.0.1', 0), None)",
    "asyncio": "import asyncio\nasyncio.new_event_loop()",
    # system calls
    "execve a program": "os.execv('/usr/bin/env', ['env'])",
    "execveat": "assert ctypes.CDLL(None).syscall(322, -100, b'/python/bin/python3', 0, 0, 0) == 0",
    "posix_spawn": "os.posix_spawn('/python/bin/python3', ['p', '-c', ''], {})",
    "clone by number": "assert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0",
    "clone3 by number": "assert ctypes.CDLL(None).syscall(435, 0, 0) >= 0",
    "a call of the x32 kind": "assert ctypes.CDLL(None).syscall(0x40000000 | 57) >= 0",
    "setns": "assert ctypes.CDLL(None).syscall(308, 0, 0) == 0",
    "pivot_root": "assert ctypes.CDLL(None).syscall(165, b'/', b'/', 0, 0, 0) == 0",
    "read another process's memory": "assert ctypes.CDLL(None).syscall(310, OUTSIDER, 0, 0, 0, 0, 0) >= 0",
    "bpf": "assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
    "perf": "assert ctypes.CDLL(None).syscall(298, 0, 0, -1, -1, 0) >= 0",
    "userfaultfd": "assert ctypes.CDLL(None).syscall(323, 0) >= 0",
    "keys of the kernel": "assert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "a kernel module": "assert ctypes.CDLL(None).syscall(175, 0, 0, 0) == 0",
    "a file without a name": "os.memfd_create('x')",
    "set the clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)",
    "reboot": "assert ctypes.CDLL(None).syscall(169, 0xfee1dead, 672274793, 0x1234567, 0) == 0",
    "shared memory of old": "assert ctypes.CDLL(None).syscall(29, 0, 4096, 0o1600) >= 0",
    "a message queue": "assert ctypes.CDLL(None).syscall(68, 0, 0o1600) >= 0",
    "open by handle": "assert ctypes.CDLL(None).syscall(304, -100, 0, 0) >= 0",
    "all capabilities": "assert any(ctypes.CDLL(None).prctl(23, c, 0, 0, 0) == 1 and os.getuid() == 0 for c in range(40))",
    "become group root": "os.setgid(0)",
    "set groups": "os.setgroups([0])",
    "be quicker than others": "os.setpriority(os.PRIO_PROCESS, 0, -20)",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    "kill everybody": "os.kill(OUTSIDER, 9)",
    "kill the parent": "assert os.getppid() in (0, 1)\nos.kill(OUTSIDER - 1, 9)",
    # Python
    "the frames of the caller": "return sys._getframe(2).f_globals['SECRET']",
    "what the collector knows": "import gc\nreturn [o['SECRET'] for o in gc.get_objects() if isinstance(o, dict) and 'SECRET' in o][0]",
    "a pickle": "import pickle\nassert pickle.loads(b'cos\\nsystem\\n(S\"true\"\\ntR.') == 0",
    "modules of ours": "import site\nreturn __import__('torch').__file__",
    "a path of modules": "sys.path.insert(0, FOLDER)\nreturn __import__('secret')",
    # resources
    "many open files": "keep = [open('/tmp/%d' % i, 'w') for i in range(1000)]",
    "many folders": "for i in range(10**7):\n    os.mkdir('/tmp/%d' % i)",
    "an endless list": "x = []\nwhile True:\n    x.append(bytes(1 << 20))",
    "an endless number": "return len(str(10 ** 10 ** 8))",
    "recursion": "return check(check)",
    "a deep answer": "x = []\nfor i in range(100000):\n    x = [x]\nreturn x",
    "stack by threads": "import threading\nthreading.stack_size(512 << 20)\nthreading.Thread(target=print).start()",
    "lock memory": "assert ctypes.CDLL(None).mlockall(3) == 0",
    "crash": "ctypes.string_at(0)",
    "end without a word": "os._exit(0)",
}


@pytest.fixture(scope="module", autouse=True)
def as_found():
    """No process, no shared memory and no file in the home stays behind."""
    look = lambda: (_children(), sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else [], sorted(os.listdir(Path.home())))
    before = look()
    yield
    time.sleep(0.2)
    assert look()[0] <= before[0] and look()[2] == before[2]
    assert not [n for n in set(look()[1]) - set(before[1]) if n == "x"]


def test_there_are_a_hundred() -> None:
    assert len(ESCAPES) >= 100


@walled
@pytest.mark.parametrize("name", ESCAPES)
def test_sec_escapes_fail(run, tmp_path: Path, monkeypatch, name: str) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    monkeypatch.setenv("SECRET", SECRET)
    handle = os.open(tmp_path / "secret.txt", os.O_RDONLY)
    os.set_inheritable(handle, True)
    known = {"HOME": str(Path.home()), "FOLDER": str(tmp_path), "OUTSIDER": os.getpid(), "HANDLE": handle}
    body = "\n".join([f"{k} = {v!r}" for k, v in known.items()]) + "\n" + ESCAPES[name]
    try:
        with pytest.raises((UsageError, ResourceError)) as error:
            run(body)
        assert SECRET not in error.value.line() and "root:" not in error.value.line()
    finally:
        os.close(handle)


@walled
@pytest.mark.parametrize("body", [
    "import time\ntime.sleep(60)", "while True: pass", "sys.stderr.write('x' * (1 << 22)); sys.stderr.flush()\nimport time\ntime.sleep(60)",
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", "while True: print('x' * 1000)",
])
def test_sec_time_is_bounded(run, body: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ResourceError, match="seconds are over"):
        run(body, limits=Limits(seconds=0.7))
    assert time.monotonic() - begun < 3


@walled
def test_sec_a_bomb_of_threads_leaves_nothing_behind(run) -> None:
    body = "import threading, time\nthreading.stack_size(32768)\nn = 0\ntry:\n    while n < 100000:\n"
    body += "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\nexcept RuntimeError:\n    pass\nreturn n"
    before = _children()
    with contextlib.suppress(ResourceError):
        assert run(body, limits=Limits(seconds=3)) < 20000
    assert _children() == before


def _children() -> int:
    """Processes below us."""
    me = str(os.getpid())
    parents = [p.read_text().rsplit(")", 1)[1].split()[1] for p in Path("/proc").glob("[0-9]*/stat") if _exists(p)]
    return parents.count(me)


def _exists(path: Path) -> bool:
    try:
        path.read_text()
        return True
    except OSError:
        return False


@walled
def test_printing_is_kept_short(run) -> None:
    with pytest.raises(UsageError) as error:
        run("print('x' * 1000000)\nraise ValueError('y' * 10000)")
    assert len(error.value.line()) < 2000


@walled
def test_answers_are_the_same_each_time(run) -> None:
    assert [run("return [args, {}.get(1)]", json.loads("[1]")) for _ in range(2)] == [[[[1]], None]] * 2


def test_the_machine_is_known_where_tests_run() -> None:
    assert platform.machine() not in ("x86_64", "aarch64") or sandbox.filter_program(platform.machine())
