"""Reports a run of sympy's own test runner, which is part of the codebase."""

import functools

from swegym_hook import code_digest


def install(runtests, run):
    """Observes the reporter class of the runner."""
    reporter = runtests.PyTestReporter
    recorders = []

    def record(event):
        def wrap(method):
            @functools.wraps(method)
            def observed(self, *args, **kwargs):
                if not recorders:
                    report = run.begin("sympy")
                    recorders.append(Recorder(report) if report else None)
                outcome = method(self, *args, **kwargs)
                if recorders[0] is not None:
                    event(recorders[0], outcome, *args, **kwargs)
                return outcome

            return observed

        return wrap

    for name, event in EVENTS.items():
        if name in vars(reporter):
            setattr(reporter, name, record(event)(vars(reporter)[name]))


class Recorder(object):
    """Turns the calls of the reporter into records. Tests are bare function
    names, as in the log."""

    def __init__(self, report):
        self.report = report
        self.functions = []

    def entering_test(self, _, function):
        self.leave()
        self.functions.append((function.__name__, function))
        self.report.entering()

    def leave(self):
        if self.functions:
            self.report.leaving(self.functions[-1][0])

    def outcome(self, status, message=""):
        self.report.test(self.functions[-1][0], "call", status, message, expected=True)

    def import_error(self, _, filename, exc_info):
        self.report.test(filename, "collect", "ERROR", _message(exc_info))

    def finish(self, ok):
        self.leave()
        names = [name for name, _ in self.functions]
        self.report.collect(names, code_digest(self.functions))
        self.report.exit = 0 if ok else 1


EVENTS = {
    "entering_test": Recorder.entering_test,
    "test_pass": lambda r, _, char=".": r.outcome("PASSED"),
    "test_fail": lambda r, _, exc_info: r.outcome("FAILED", _message(exc_info)),
    "test_exception": lambda r, _, exc_info: r.outcome("ERROR", _message(exc_info)),
    "test_skip": lambda r, _, v=None: r.outcome("SKIPPED", str(v or "")),
    "test_xfail": lambda r, _, *args: r.outcome("XFAIL"),
    "test_xpass": lambda r, _, v=None: r.outcome("XPASS", str(v or "")),
    "import_error": Recorder.import_error,
    "finish": Recorder.finish,
}


def _message(exc_info):
    return "%s: %s" % (exc_info[0].__name__, exc_info[1])
