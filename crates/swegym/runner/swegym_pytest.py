"""Reports a pytest session (2.8 to 9).

Outcomes are observed twice: around the test function and around the phase.
What the session reports is believed as long as it is no better than that.
"""

import os
import sys
import unittest

from swegym_hook import code_digest

_MODULES = ("_pytest", "pluggy", "pytest", "unittest")


def install(config, run):
    """Hands the plugin to the first session, and to no later one: pytest's
    own suite, among others, starts sessions inside tests."""
    prepare = config._prepareconfig

    def prepareconfig(args=None, plugins=None, *more, **named):
        config._prepareconfig = prepare
        report = run.begin("pytest")
        if report is None:
            return prepare(args, plugins, *more, **named)
        plugins = [make_plugin(config.hookimpl, report)] + list(plugins or ())
        try:
            return prepare(args, plugins, *more, **named)
        except Exception as error:
            report.exit = _exit_of(error)
            raise

    config._prepareconfig = prepareconfig


def _exit_of(error):
    """Exit status that `pytest.main` makes of an error before the session."""
    return {"ConftestImportFailure": 4, "UsageError": 4, "PluginImportFailure": 3}.get(
        type(error).__name__, 1
    )


def make_plugin(hookimpl, report):
    outer = hookimpl(hookwrapper=True, tryfirst=True)
    first = hookimpl(tryfirst=True)

    class Plugin(object):
        """Instances are handed to pytest; there is no module to import."""

        def __init__(self):
            self._observed = {}
            self._entered = set()
            self._name = None
            self._distributed = False
            self._explained = {}

        def pytest_load_initial_conftests(self, early_config):
            # After the plugins of the environment, before any conftest file.
            self._name = early_config.cwd_relative_nodeid
            _hide_current_test(early_config)
            report.watch(*_MODULES)

        @outer
        def pytest_cmdline_main(self, config):
            outcome = yield
            try:
                report.exit = int(outcome.get_result() or 0)
            except BaseException as error:
                report.exit = _exit_of(error)

        # -- collection

        @first
        def pytest_sessionstart(self, session):
            self._distributed = session.config.pluginmanager.hasplugin("dsession")

        @first
        def pytest_collectreport(self, report):
            self._collect_report(report)

        def _collect_report(self, outcome):
            if outcome.failed:
                report.test(self._name(outcome.nodeid), "collect", "ERROR", _message(outcome))
            elif outcome.skipped:
                report.test(self._name(outcome.nodeid), "collect", "SKIPPED", _message(outcome))

        @outer
        def pytest_collection_finish(self, session):
            yield
            tests = [
                (self._name(i.nodeid), getattr(i, "function", None))
                for i in getattr(session, "items", ())
            ]
            if not self._distributed:
                report.collect([name for name, _ in tests], code_digest(tests))
            for origin in _plugins_of_codebase(session.config):
                report.flag("codebase_plugin", origin)
            report.check()

        @hookimpl(optionalhook=True)
        def pytest_xdist_node_collection_finished(self, node, ids):
            if self._distributed == "collected":
                return
            self._distributed = "collected"
            names = [self._name(i) for i in ids]
            report.collect(names, code_digest([(name, None) for name in names]))

        # -- phases

        @hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, items):
            if report.only is not None:
                items[:] = [i for i in items if _function(self._name(i.nodeid)) in report.only]
            if report.reverse:
                items.reverse()

        @outer
        def pytest_runtest_protocol(self, item, nextitem):
            report.entering()
            yield
            report.leaving(self._name(item.nodeid))

        @outer
        def pytest_runtest_makereport(self, item, call):
            brief = report.brief is not None and self._is_enough(item, call.excinfo)
            option = item.config.option
            style = option.tbstyle
            if brief:
                option.tbstyle = "native"
            outcome = yield
            option.tbstyle = style
            if brief:
                _shorten(outcome.get_result())

        def _is_enough(self, item, excinfo):
            """Whether as many failures of this function have been explained
            as are wanted."""
            name = _function(item.nodeid)
            if excinfo is not None:
                self._explained[name] = self._explained.get(name, 0) + 1
            return self._explained.get(name, 0) > report.brief

        @outer
        def pytest_runtest_setup(self, item):
            self._observe(item, "setup", (yield))

        @outer
        def pytest_runtest_call(self, item):
            self._entered.discard(item)
            outcome = yield
            if outcome.excinfo is None and _must_enter(item) and item not in self._entered:
                report.flag("body_not_run", item.nodeid)
                self._observed[item.nodeid, "call"] = "failed"
            else:
                self._observe(item, "call", outcome)

        @outer
        def pytest_pyfunc_call(self, pyfuncitem):
            outcome = yield
            self._entered.add(pyfuncitem)
            self._observe(pyfuncitem, "body", outcome)

        @outer
        def pytest_runtest_teardown(self, item):
            self._observe(item, "teardown", (yield))

        def _observe(self, item, when, outcome):
            self._observed[item.nodeid, when] = _kind(outcome.excinfo)

        @first
        def pytest_runtest_logreport(self, report):
            self._log_report(report)

        def _log_report(self, outcome):
            if outcome.outcome not in ("passed", "failed", "skipped") or hasattr(outcome, "context"):
                return  # a rerun, or a subtest
            word = _word(outcome)
            observed = self._observation(outcome)
            if observed is None and not self._distributed:
                report.flag("unobserved", outcome.nodeid)
            if not _credible(word, observed):
                report.flag("outcome_changed", "%s: %s reported as %s" % (outcome.nodeid, observed, word))
                word = "FAILED" if outcome.when == "call" else "ERROR"
            report.test(self._name(outcome.nodeid), outcome.when, word, _message(outcome))

        def _observation(self, outcome):
            seen = self._observed.pop((outcome.nodeid, outcome.when), None)
            if outcome.when != "call":
                return seen
            body = self._observed.pop((outcome.nodeid, "body"), None)
            return "failed" if "failed" in (seen, body) else seen

        @outer
        def pytest_sessionfinish(self, session):
            # Not later: after this pytest takes back patches of its own.
            report.check()
            yield

    return Plugin()


def _function(name):
    """A test's id without its parameters."""
    return name.partition("[")[0]


def _shorten(outcome):
    """Leaves the last line of a traceback in Python's own style."""
    traceback = getattr(outcome.longrepr, "reprtraceback", None)
    for entry in getattr(traceback, "reprentries", ()):
        entry.lines = entry.lines[-1:]


def _hide_current_test(config):
    """PYTEST_CURRENT_TEST tells the codebase which test calls it; it stays
    for fixtures, where conftest files use it."""
    runner = sys.modules["_pytest.runner"]
    update = getattr(runner, "_update_current_test_var", None)
    if update is None:
        return

    def update_current_test_var(item, when):
        if when == "call" and item.config is config:
            os.environ.pop("PYTEST_CURRENT_TEST", None)
        else:
            update(item, when)

    runner._update_current_test_var = update_current_test_var


def _must_enter(item):
    """Whether the call of a test that passed went through pytest_pyfunc_call."""
    return type(item) is sys.modules["_pytest.python"].Function


def _kind(excinfo):
    """How a phase ended, from what it raised."""
    if excinfo is None:
        return "passed"
    kind = excinfo[0]
    if issubclass(kind, unittest.SkipTest) or kind.__name__ in ("Skipped", "SkipTest"):
        return "skipped"
    return "failed"


def _credible(word, observed):
    """Whether a status can come from what was observed. That a failure was
    expected is up to marks, which are checked against the gold run."""
    if observed == "failed":
        return word in ("FAILED", "ERROR", "XFAIL")
    if observed == "skipped":
        return word not in ("PASSED", "XPASS")
    return True


def _word(report):
    """The status as the short summary prints it."""
    if hasattr(report, "wasxfail"):
        return "XFAIL" if report.skipped else "XPASS"
    if report.passed:
        return "PASSED"
    if report.skipped:
        return "SKIPPED"
    return "FAILED" if report.when == "call" else "ERROR"


def _message(report):
    longrepr = getattr(report, "longrepr", None)
    if isinstance(longrepr, tuple) and len(longrepr) == 3:
        return "%s:%s: %s" % longrepr
    crash = getattr(longrepr, "reprcrash", None)
    if crash is not None:
        return crash.message
    if longrepr is not None:
        lines = [line for line in str(longrepr).splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return getattr(report, "wasxfail", "")


def _plugins_of_codebase(config):
    """Plugins whose files lie in the working directory: there should be none
    but conftest files and those the gold run has too."""
    here = os.getcwd() + os.sep
    for _, plugin in config.pluginmanager.list_name_plugin():
        origin = getattr(plugin, "__file__", None) or ""
        if origin.startswith(here) and not origin.startswith(sys.prefix + os.sep):
            if os.path.basename(origin) not in ("conftest.py", "conftest.pyc"):
                yield os.path.relpath(origin, here)
