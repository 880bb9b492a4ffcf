"""Reports a unittest run: plain, Django's, or of any other runner that calls
a suite with a result object."""

import functools
import sys

from swegym_hook import code_digest

_EVENTS = (
    "startTest",
    "stopTest",
    "addSuccess",
    "addError",
    "addFailure",
    "addSkip",
    "addExpectedFailure",
    "addUnexpectedSuccess",
    "addSubTest",
)

# A test may have several outcomes, such as those of its subtests; worst last.
_SEVERITY = ("PASSED", "XFAIL", "SKIPPED", "XPASS", "FAILED", "ERROR")


def install(suite, run):
    """Observes the outermost suites of the process, and none that a test
    runs."""
    call = suite.BaseTestSuite.__call__
    recorders = []
    running = []

    def observed_call(self, *args, **kwargs):
        result = args[0] if args else kwargs.get("result")
        if running or result is None:
            return call(self, *args, **kwargs)
        if not recorders:
            report = run.begin("unittest")
            recorders.append(Recorder(report) if report else None)
        if recorders[0] is None:
            return call(self, *args, **kwargs)
        running.append(self)
        try:
            recorders[0].enter(self, result)
            outcome = call(self, *args, **kwargs)
            recorders[0].leave()
            return outcome
        finally:
            running.pop()

    suite.BaseTestSuite.__call__ = observed_call


class Recorder(object):
    """Turns the events of result objects into one record per test."""

    def __init__(self, report):
        self._report = report
        self._describe = str
        self._observe_bodies = True
        self._running = {}
        self._started = 0
        self._bad = False
        report.watch("unittest")

    def enter(self, suite, result):
        self._report.exit = 1
        self._describe = getattr(result, "getDescription", str)
        # A parallel suite replays the events of other processes.
        self._observe_bodies = not hasattr(suite, "subsuites")
        if self._report.only is not None:
            _keep(suite, lambda test: self._name(test) in self._report.only)
        if self._report.reverse:
            _reverse(suite)
        tests = [(self._name(test), _method(test)) for test in _flatten(suite)]
        self._report.collect([name for name, _ in tests], code_digest(tests))
        self._report.check()
        for event in _EVENTS:
            if hasattr(result, event):
                setattr(result, event, _before(getattr(self, event), getattr(result, event)))

    def leave(self):
        self._report.check()
        no_tests = self._started == 0 and sys.version_info >= (3, 12)
        self._report.exit = 5 if no_tests else int(self._bad)

    def _name(self, test):
        """The last line of the description: what a verbose log has before
        ` ... ok`."""
        try:
            return str(self._describe(test)).split("\n")[-1]
        except Exception as error:  # the description is the codebase's
            return "%s (%s)" % (type(test).__name__, error)

    # -- events

    def startTest(self, test):
        self._started += 1
        self._running[id(test)] = _Running(test, self._observe_bodies)
        self._report.entering()

    def stopTest(self, test):
        self._report.leaving(self._name(test))
        running = self._running.pop(id(test), None)
        if running is None:
            return
        running.release()
        if not running.statuses:
            return
        status = max(running.statuses, key=_SEVERITY.index)
        name = self._name(test)
        if status == "PASSED" and running.finding():
            self._report.flag(running.finding(), name)
            status = "FAILED"
        self._send(name, _phase(test), status, running.message)

    def addSuccess(self, test):
        self._add(test, "PASSED")

    def addError(self, test, err):
        self._add(test, "ERROR", _message(err))

    def addFailure(self, test, err):
        self._add(test, "FAILED", _message(err))

    def addSkip(self, test, reason):
        self._add(test, "SKIPPED", reason)

    def addExpectedFailure(self, test, err):
        self._add(test, "XFAIL", _message(err))

    def addUnexpectedSuccess(self, test):
        self._add(test, "XPASS")

    def addSubTest(self, test, subtest, err):
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self._add(subtest, "FAILED" if failed else "ERROR", _message(err))

    def _add(self, test, status, message=""):
        parent = getattr(test, "test_case", test)
        running = self._running.get(id(parent))
        if running is not None:
            running.statuses.append(status)
            running.message = message
        if running is None or parent is not test:
            # A subtest, or a fixture of a class or module.
            self._send(self._name(test), _phase(test), status, message, expected=True)

    def _send(self, name, when, status, message, expected=False):
        self._bad = self._bad or status in ("FAILED", "ERROR", "XPASS")
        self._report.test(name, when, status, message, expected)


class _Running(object):
    """A test between its start and its stop, with its method watched."""

    def __init__(self, test, observe):
        self.statuses = []
        self.message = ""
        self._test = test
        self._method = None
        self._entered = self._raised = False
        if observe:
            self._watch(getattr(test, "_testMethodName", None))

    def _watch(self, name):
        method = getattr(self._test, name, None) if name else None
        if method is None or not hasattr(method, "__name__"):
            return

        @functools.wraps(method)
        def watched(*args, **kwargs):
            self._entered = True
            try:
                return method(*args, **kwargs)
            except BaseException:
                self._raised = True
                raise

        self._method = name
        self._before = vars(self._test).get(name)
        setattr(self._test, name, watched)

    def release(self):
        if self._method is None:
            return
        if self._before is None:
            vars(self._test).pop(self._method, None)
        else:
            setattr(self._test, self._method, self._before)

    def finding(self):
        """Name of the flag if the test cannot have passed, else None."""
        if self._method is None:
            return None
        if not self._entered:
            return "body_not_run"
        return "outcome_changed" if self._raised else None


def _before(record, method):
    @functools.wraps(method)
    def event(*args, **kwargs):
        record(*args, **kwargs)
        return method(*args, **kwargs)

    return event


def _flatten(suite):
    try:
        members = list(suite)
    except TypeError:
        return [suite]
    return [test for member in members for test in _flatten(member) if test is not None]


def _reverse(suite):
    members = getattr(suite, "_tests", None)
    if isinstance(members, list):
        members.reverse()
        for member in members:
            _reverse(member)


def _keep(suite, wanted):
    members = getattr(suite, "_tests", None)
    if isinstance(members, list):
        members[:] = [m for m in members if m is not None and (hasattr(m, "_tests") or wanted(m))]
        for member in members:
            _keep(member, wanted)


def _method(test):
    return getattr(test, getattr(test, "_testMethodName", None) or "runTest", None)


def _phase(test):
    """Class and module fixtures, and modules that failed to import, come as
    stand-ins for a test."""
    kind = type(test).__name__
    if kind in ("_FailedTest", "ModuleImportFailure", "LoadTestsFailure"):
        return "collect"
    if kind == "_ErrorHolder":
        return "teardown" if test.id().startswith("tearDown") else "setup"
    return "call"


def _message(err):
    try:
        return "%s: %s" % (err[0].__name__, err[1])
    except Exception:  # the exception is the codebase's
        return ""
