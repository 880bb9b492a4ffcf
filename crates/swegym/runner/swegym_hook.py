"""Start-up hook of the trusted test runner (docs/design/runner.md).

A `.pth` line calls `start` in every interpreter while the claim file exists.
The interpreter that is about to run the tests takes the claim, reports over
the private channel, and leaves the test command as it was recorded.
"""

import os
import sys

# All entries of now are the environment's, but for those of PYTHONPATH: a
# test command may name the codebase there. They come back when we are done.
_FOREIGN = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
_SEARCH = sys.path[:]
sys.path[:] = [p for p in _SEARCH if p and os.path.abspath(p) not in _FOREIGN]

import atexit
import fcntl
import pkgutil
import resource
import stat
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quote
from types import FunctionType

try:
    from _thread import allocate_lock
except ImportError:  # Python 2
    from thread import allocate_lock

# Captured before any code of the codebase can replace them.
_close, _getpid, _write = os.close, os.getpid, os.write

_PY2 = sys.version_info[0] == 2
_text = type(u"")

# What to import before the codebase can shadow it, per framework.
_PRELOAD = {
    "pytest": ("pytest",),
    "unittest": ("unittest", "unittest.main"),
    "django": ("unittest", "unittest.main"),
    "sympy": (),
    "setup.py": ("unittest",),
}

_SCRIPTS = {
    "pytest": "pytest",
    "py.test": "pytest",
    "unittest": "unittest",
    "unittest2": "unittest",
    "unit2": "unittest",
    "runtests": "django",
    "swegym_sympy_test": "sympy",
}


def start(claim_path):
    """Arms the hook; takes the claim at once where the command line already
    says that this interpreter runs the tests."""
    try:
        _start(claim_path)
    finally:
        sys.path[:] = _SEARCH


def _start(claim_path):
    framework = classify(_command_line())
    from swegym_pytest import install as pytest
    from swegym_sympy import install as sympy
    from swegym_trace import Tracer
    from swegym_unittest import install as unittest

    _forget()
    run = Run(claim_path, Tracer)
    after_import(
        {
            "_pytest.config": lambda module: pytest(module, run),
            "unittest.suite": lambda module: unittest(module, run),
            "sympy.testing.runtests": lambda module: sympy(module, run),
            "sympy.utilities.runtests": lambda module: sympy(module, run),
        }
    )
    if framework == "sympy":
        # Or sympy runs its tests in a child, for the sake of a random seed.
        os.environ.setdefault("PYTHONHASHSEED", "0")
    if framework is not None and run.open(framework):
        _preload(_PRELOAD[framework])


def _forget():
    """Takes the modules of the runner out of reach of `import`."""
    for name in ("hook", "pytest", "unittest", "sympy", "trace"):
        module = sys.modules.pop("swegym_" + name, None)
        if module is not None:
            # Python 2 clears the globals of a module that is freed.
            _KEPT.append(module)


_KEPT = []


def _preload(names):
    """Imports modules now, so that `-m` finds these and not the codebase's."""
    for name in names:
        try:
            __import__(name)
        except Exception:  # the command itself will say it better
            return
        if _PY2:
            sys.modules[name].__loader__ = pkgutil.find_loader(name)


# -- which framework ---------------------------------------------------------


def _command_line():
    try:
        with open("/proc/self/cmdline", "rb") as f:
            raw = f.read()
    except (IOError, OSError):
        return []
    if not _PY2:
        raw = raw.decode("utf-8", "surrogateescape")
    return raw.split("\0" if not _PY2 else b"\0")[1:-1]


def classify(arguments):
    """The framework that the arguments of an interpreter are sure to run,
    else None."""
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if argument == "-m" or (argument.startswith("-m") and argument[2:].isalnum()):
            module = argument[2:] or (arguments.pop(0) if arguments else "")
            return _program(module, arguments)
        if argument == "-c":
            code = arguments[0] if arguments else ""
            return "sympy" if "sympy" in code and "test(" in code else None
        if argument in ("-W", "-X", "-Q", "--check-hash-based-pycs"):
            arguments = arguments[1:]
        elif argument == "-" or not argument.startswith("-"):
            return _program(argument, arguments)
        elif argument[1:].isalpha() and argument[1] not in "WX" and argument.endswith("m"):
            # Grouped flags, such as -bbm.
            return _program(arguments.pop(0), arguments) if arguments else None
    return None


def _program(path, arguments):
    name = os.path.basename(path)
    name = name[:-3] if name.endswith(".py") else name
    if name in _SCRIPTS:
        return _SCRIPTS[name]
    if name in ("manage", "django", "django-admin"):
        return "django" if "test" in arguments[:1] else None
    if name == "setup":
        tests = {"test", "pytest", "ptr"} & set(arguments)
        return "setup.py" if tests else None
    if name == "coverage" and "run" in arguments[:1]:
        return classify(_without_coverage_options(arguments[1:]))
    if name == "test" and os.path.basename(os.path.dirname(os.path.abspath(path))) == "bin":
        return "sympy"
    return None


def _without_coverage_options(arguments):
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-m", "--module"):
        arguments = arguments[1:]
    if arguments[:1] == ["--module"]:
        arguments = ["-m"] + arguments[1:]
    return arguments


# -- the claim ---------------------------------------------------------------


class Run(object):
    """The one test run of this process, if it gets the claim."""

    def __init__(self, claim_path, tracer):
        self._claim_path = claim_path
        self._tracer = tracer
        self._report = None
        self._taken = False

    def open(self, framework):
        """Takes the claim and sends the start record."""
        claim = _take_claim(self._claim_path)
        if claim is not None:
            channel, key, modes = claim
            self._report = Report(channel, key)
            self._report.reverse = "reverse" in modes
            self._report.brief = _brief(modes)
            self._report.only = _only(modes)
            roots = _values(modes, "trace")
            self._report.tracer = self._tracer(roots[0]) if roots else None
            self._report.start(framework.replace("setup.py", "unittest"))
            atexit.register(self._report.end)
        return self._report

    def begin(self, framework):
        """The report, for the first framework that comes to run tests; None
        for every later one, such as a session started by a test."""
        if self._taken:
            return None
        self._taken = True
        if self._report is None and self.open(framework):
            self._report.flag("late_start", "claimed by %s, not from the command line" % framework)
        return self._report


def _take_claim(path):
    """(descriptor, key, modes) of the claim; whoever unlinks the file has it.

    Modes are for making tasks, never for grading: `reverse` runs the tests
    backwards, `trace:ROOT` tells what of a folder each of them runs,
    `only:NAMES` (lines, in hexadecimal) leaves out all others, `brief:N`
    explains so many failures of each test function: pytest takes longer over
    a traceback than over most tests."""
    try:
        with open(path) as f:
            words = f.read().split()
        number, key, modes = words[0], words[1], words[2:]
        os.unlink(path)
    except (IOError, OSError, IndexError):
        return None
    channel = _find_channel(int(number))
    if channel is None:
        return None
    return channel, bytes(bytearray.fromhex(key)), modes


def _values(modes, name):
    return [mode.partition(":")[2] for mode in modes if mode.startswith(name + ":")]


def _brief(modes):
    """How many failures of a test function to explain; None for all."""
    values = _values(modes, "brief")
    return int(values[0]) if values else None


def _only(modes):
    """Names of the tests to run; None for all."""
    values = _values(modes, "only")
    if not values:
        return None
    names = bytes(bytearray.fromhex(values[0])).decode("utf-8")
    return set(names.split("\n"))


def _find_channel(number):
    """A copy of the channel, from our own descriptors or those of an ancestor
    (tox and others close what they do not know)."""
    if _is_channel(number):
        copy = _hide(number)
        _close(number)
        return copy
    pid = os.getppid()
    while pid > 0:
        try:
            copy = os.open("/proc/%d/fd/%d" % (pid, number), os.O_WRONLY)
        except OSError:
            pid = _parent(pid)
            continue
        if not _is_channel(copy):
            _close(copy)
            return None
        hidden = _hide(copy)
        _close(copy)
        return hidden
    return None


def _is_channel(number):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _hide(number):
    """A duplicate that children do not get, above what tests usually close."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = max(min(soft, 4096) - 64, 3)
    copy = fcntl.fcntl(number, fcntl.F_DUPFD, least)
    fcntl.fcntl(copy, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return copy


def _parent(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return int(f.read().rpartition(")")[2].split()[1])
    except (IOError, OSError):
        return 0


# -- the report --------------------------------------------------------------


class Report(object):
    """Sends records over the channel, each one signed (core's `RunReport`)."""

    def __init__(self, channel, key):
        block = bytearray((key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0"))
        self._inner = sha256(bytes(bytearray(b ^ 0x36 for b in block)))
        self._outer = sha256(bytes(bytearray(b ^ 0x5C for b in block)))
        self._channel = channel
        self._pid = _getpid()
        self._lock = allocate_lock()
        self._sequence = 0
        self._tests = 0
        self._failed = False
        self._collected = set()
        self._flags = set()
        self._functions = {}
        self.exit = 1
        self.reverse = False
        self.brief = None
        self.only = None
        self.tracer = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._drop)

    def start(self, framework):
        version = "%d.%d.%d" % sys.version_info[:3]
        self._send("start", ("framework", framework), ("python", version))

    def collect(self, ids, digest):
        """Call once; `digest` comes from `code_digest`."""
        self._collected.update(ids)
        self._send("collect", ("ids", ids), ("digest", digest))

    def test(self, name, when, status, message="", expected=False):
        """`expected`: may be absent from the collection, as a subtest is."""
        if when == "call" and not expected and name not in self._collected:
            self.flag("uncollected", name)
        self._tests += 1
        self._failed = self._failed or status in ("FAILED", "ERROR")
        message = message.strip().split("\n")[0][:300]
        self._send("test", ("id", name), ("when", when), ("status", status), ("message", message))

    def entering(self):
        """A test begins, its fixtures included."""
        if self.tracer is not None:
            self.tracer.start()

    def leaving(self, name):
        """A test is over."""
        if self.tracer is not None:
            new, hits = self.tracer.stop()
            self._send("trace", ("id", name), ("new", new), ("hits", hits))

    def flag(self, name, detail):
        """Sends an advisory finding, once, and not without limit."""
        if (name, detail) in self._flags or len(self._flags) >= 200:
            return
        self._flags.add((name, detail))
        self._send("flag", ("name", name), ("detail", detail))

    def watch(self, *prefixes):
        """Remembers the functions that decide outcomes."""
        self._functions = functions(prefixes)

    def check(self):
        """Flags what has changed since `watch`."""
        for name, (function, code) in sorted(self._functions.items()):
            now = _resolve(name)
            if now is not function:
                self.flag("patched", name)
            elif _code(function) is not code:
                self.flag("patched", name + " (code)")
        for tracer in (sys.gettrace(), sys.getprofile()):
            if tracer is not None:
                self.flag("traced", getattr(tracer, "__module__", None) or type(tracer).__module__)

    def end(self):
        """The last record; runs after every exit handler of the codebase."""
        if _getpid() != self._pid or self._channel is None:
            return
        for name in _shadowed():
            self.flag("shadowed", name)
        if self._failed and self.exit == 0:
            self.flag("exit_disagrees", "tests failed, yet the exit status is 0")
        self._send("end", ("exit", self.exit), ("tests", self._tests))
        self._drop()

    def _drop(self):
        if self._channel is not None:
            _close(self._channel)
            self._channel = None

    def _send(self, kind, *fields):
        if self._channel is None or _getpid() != self._pid:
            return
        with self._lock:
            head = (("seq", self._sequence), ("kind", kind))
            body = "{%s}" % ", ".join('"%s": %s' % (k, _json(v)) for k, v in head + fields)
            body = body.encode("ascii")
            inner, outer = self._inner.copy(), self._outer.copy()
            inner.update(body)
            outer.update(inner.digest())
            line = outer.hexdigest().encode("ascii") + b" " + body + b"\n"
            self._sequence += 1
            try:
                while line:
                    line = line[_write(self._channel, line) :]
            except (IOError, OSError):
                self._channel = None


def _json(value):
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(_json(v) for v in value)
    if isinstance(value, int):
        return "%d" % value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif not isinstance(value, _text):
        value = _text(value)
    if not _PY2:
        # Lone surrogates are no valid JSON string.
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return str(_quote(value))


# -- digests and snapshots ---------------------------------------------------


def code_digest(tests):
    """Digest of (id, function) pairs; the same wherever the same tests run
    under the same interpreter."""
    total = sha256()
    for name, function in tests:
        total.update(_json(name).encode("ascii"))
        _hash_code(total, _code(_unwrapped(function)))
    return total.hexdigest()


def _unwrapped(function):
    for _ in range(32):
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    return getattr(function, "__func__", function)


def _code(function):
    return getattr(function, "__code__", None)


def _hash_code(total, code):
    if not hasattr(code, "co_code"):
        return
    total.update(code.co_code)
    total.update(repr((code.co_names, code.co_varnames)).encode("utf-8", "replace"))
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            _hash_code(total, constant)
        elif isinstance(constant, frozenset):
            total.update(repr(sorted(map(repr, constant))).encode("utf-8", "replace"))
        else:
            total.update(repr(constant).encode("utf-8", "replace"))


def functions(prefixes):
    """Functions and methods of the loaded modules, by `module:path`."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module is None or not module_name.split(".")[0] in prefixes:
            continue
        for name, value in list(vars(module).items()):
            label = "%s:%s" % (module_name, name)
            if isinstance(value, type) and value.__module__ == module_name:
                for attribute, member in list(vars(value).items()):
                    member = _plain(member)
                    if isinstance(member, FunctionType):
                        found["%s.%s" % (label, attribute)] = (member, member.__code__)
            elif isinstance(value, FunctionType):
                found[label] = (value, value.__code__)
    builtins = sys.modules["__builtin__" if _PY2 else "builtins"]
    for name, value in list(vars(builtins).items()):
        if callable(value):
            found["%s:%s" % (builtins.__name__, name)] = (value, None)
    return found


def _plain(member):
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member


def _resolve(label):
    module, _, path = label.partition(":")
    value = sys.modules.get(module)
    for name in path.split("."):
        value = getattr(value, "__dict__", {}).get(name)
    return _plain(value)


def _shadowed():
    """Loaded modules of the working directory that bear the name of a
    standard one."""
    library = os.path.dirname(os.__file__)
    try:
        here = os.getcwd() + os.sep
    except OSError:
        return
    for name, module in sorted(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if "." in name or not origin or not os.path.abspath(origin).startswith(here):
            continue
        path = os.path.join(library, name)
        if os.path.exists(path + ".py") or os.path.exists(os.path.join(path, "__init__.py")):
            yield name


# -- import hook -------------------------------------------------------------


def after_import(callbacks):
    """Calls `callbacks[name](module)` right after a module was imported."""
    for name in list(callbacks):
        if name in sys.modules:
            callbacks.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _Finder(callbacks))


class _Finder(object):
    def __init__(self, callbacks):
        self._callbacks = callbacks

    def find_spec(self, name, path=None, target=None):
        callback = self._callbacks.pop(name, None)
        if callback is None:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    _call_after(spec.loader, callback)
                    return spec
        return None

    if _PY2:

        def find_module(self, name, path=None):
            return self if name in self._callbacks else None

        def load_module(self, name):
            callback = self._callbacks.pop(name)
            __import__(name)
            callback(sys.modules[name])
            return sys.modules[name]


def _call_after(loader, callback):
    execute = loader.exec_module

    def exec_module(module):
        del loader.exec_module
        execute(module)
        callback(module)

    loader.exec_module = exec_module
