"""Tests of the trusted runner, over the interpreters found here.

    python3 run_tests.py [-v] [TEST...]

Looks for CPython on PATH and under $PYENV_ROOT or ~/.pyenv, and makes virtual
environments from the package registry: in $SWEGYM_RUNNER_VENVS if set (kept),
else in a throw-away folder. What is missing is skipped by name.
"""

import atexit
import functools
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from collections import OrderedDict
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNNER = HERE.parent
CORPUS = HERE.parents[3] / "fixtures" / "integrity"
CHANNEL = 197

# Interpreter -> what its environment has.
MATRIX = OrderedDict(
    [
        ("2.7", ["pytest==4.6.11", "pytest-xdist==1.34.0"]),
        ("3.6", ["pytest==3.10.1", "attrs<20"]),
        ("3.7", ["pytest==5.4.3", "pytest-forked==1.6.0"]),
        ("3.8", ["pytest==6.2.5", "tox<4", "tox-current-env"]),
        ("3.9", ["pytest==8.3.3", "tox==4.16.0", "tox-current-env==0.0.11", "pytest-xdist", "coverage"]),
        ("3.11", ["pytest==8.3.3", "django==4.2.16", "setuptools==75.3.0"]),
        ("3.13", ["pytest==9.0.2", "pytest-subtests", "pytest-rerunfailures"]),
    ]
)


def scratch():
    folder = tempfile.mkdtemp(prefix="runner-tests-")
    atexit.register(shutil.rmtree, folder, True)
    return Path(folder)


def interpreter(version):
    """Path of a CPython, else None."""
    found = shutil.which("python" + version)
    if found and _works(found):
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(root.glob(version + ".*/bin/python"))
    return str(candidates[-1]) if candidates else None


def _works(python):
    return subprocess.run([python, "-V"], capture_output=True).returncode == 0


@functools.lru_cache(None)
def environment(version):
    """Path of a virtual environment with the runner's hook, else a reason."""
    python = interpreter(version)
    if python is None:
        return None, "no CPython " + version
    kept = os.environ.get("SWEGYM_RUNNER_VENVS")
    venv = (Path(kept) if kept else scratch()) / version
    if not (venv / "ready").exists():
        shutil.rmtree(venv, ignore_errors=True)
        made = _make(python, version, venv)
        if made.returncode:
            return None, "no environment for %s: %s" % (version, made.stderr.decode()[-300:])
        (venv / "ready").touch()
    site = next(venv.glob("lib/python*/site-packages"))
    hook = (RUNNER / "zzz_swegym.pth").read_text()
    hook = hook.replace("/opt/swegym/runner", str(RUNNER)).replace("/tmp/.swegym-claim", str(venv / "claim"))
    (site / "zzz_swegym.pth").write_text(hook)
    return venv, None


def _make(python, version, venv):
    if version == "2.7":
        tool = scratch()
        helper = interpreter("3.9") or sys.executable
        steps = [
            [helper, "-m", "venv", str(tool)],
            [str(tool / "bin/pip"), "install", "-q", "virtualenv<20.22"],
            [str(tool / "bin/virtualenv"), "-q", "-p", python, str(venv)],
        ]
    else:
        steps = [[python, "-m", "venv", str(venv)]]
    steps.append([str(venv / "bin/pip"), "install", "-q"] + MATRIX[version])
    for step in steps:
        done = subprocess.run(step, capture_output=True)
        if done.returncode:
            break
    return done


class Run:
    """A test command run the way the grader runs it."""

    def __init__(self, version, tree, command, modes=(), **env):
        venv, reason = environment(version)
        if venv is None:
            raise unittest.SkipTest(reason)
        self.key = os.urandom(32)
        read, write = os.pipe()
        chunks = []
        drain = threading.Thread(
            target=lambda: chunks.extend(iter(lambda: os.read(read, 1 << 16), b"")), daemon=True
        )
        drain.start()
        claim = "%s\n" % " ".join([str(CHANNEL), self.key.hex(), *modes])
        done = subprocess.run(
            ["/bin/bash", str(RUNNER / "launch.sh"), str(venv / "claim"), command],
            cwd=tree, input=claim.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            close_fds=False, preexec_fn=lambda: os.dup2(write, CHANNEL), timeout=300,
            env={
                "PATH": "%s/bin:/usr/bin:/bin" % venv, "HOME": str(venv), "LANG": "C.UTF-8",
                "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", **env,
            },
        )
        os.close(write)
        drain.join(10)
        os.close(read)
        self.exit, self.log = done.returncode, done.stdout.decode(errors="replace")
        self.claim_left = (venv / "claim").exists()
        self.defects = []
        self.records = list(self._decode(b"".join(chunks)))

    def _decode(self, raw):
        for number, line in enumerate(raw.split(b"\n")[:-1]):
            mac, _, body = line.partition(b" ")
            want = hmac.new(self.key, body, hashlib.sha256).hexdigest()
            if mac.decode(errors="replace") != want:
                self.defects.append("line %d is not signed" % number)
                return
            record = json.loads(body)
            if record["seq"] != number:
                self.defects.append("line %d has number %d" % (number, record["seq"]))
            yield record

    def of(self, kind):
        return [r for r in self.records if r["kind"] == kind]

    def statuses(self):
        """Id -> status, as a log would have it: the worst phase counts."""
        found = {}
        for record in self.of("test"):
            if record["when"] in ("setup", "teardown") and record["status"] == "PASSED":
                continue
            found[record["id"]] = record["status"]
        return found

    def flags(self):
        return {flag["name"] for flag in self.of("flag")}

    def complete(self):
        end = self.of("end")
        return not self.defects and bool(end) and self.records[-1] is end[0] and end[0]["exit"] == self.exit

    def resolves(self, task):
        """Strict grading on the runner's word alone."""
        found = self.statuses()
        return self.complete() and all(
            found.get(test) == task["gold_status"][test]
            for test in task["FAIL_TO_PASS"] + task["PASS_TO_PASS"]
        )


PYTEST_KINDS = '''# -*- coding: utf-8 -*-
import os, subprocess, sys, unittest, pytest
@pytest.fixture
def broken(): raise ValueError("setup broke")
@pytest.fixture
def leaky():
    yield
    raise ValueError("teardown broke")
def test_pass(): assert "PYTEST_CURRENT_TEST" not in os.environ
def test_fail(): assert 1 == 2
def test_setup(broken): pass
def test_teardown(leaky): pass
def test_skip(): pytest.skip("why")
@pytest.mark.skipif(True, reason="cond")
def test_skipif(): pass
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_xstrict(): pass
def test_xfail_call(): pytest.xfail("imperative")
@pytest.mark.xfail(run=False)
def test_norun(): assert 0
@pytest.mark.parametrize("x", ["a b", u"\\xe9", "::", "[", "\\x1b[31m"])
def test_param(x): pass
def test_skiptest(): raise unittest.SkipTest("unittest's")
class TestU(unittest.TestCase):
    def test_ok(self): assert "PYTEST_CURRENT_TEST" not in os.environ
    def test_no(self): self.assertEqual(1, 2)
    def test_sk(self): self.skipTest("x")
    @unittest.expectedFailure
    def test_ef(self): self.fail()
'''
PYTEST_EXPECTED = {
    "test_pass": "PASSED", "test_fail": "FAILED", "test_setup": "ERROR", "test_teardown": "ERROR",
    "test_skip": "SKIPPED", "test_skipif": "SKIPPED", "test_xfail": "XFAIL", "test_xpass": "XPASS",
    "test_xstrict": "FAILED", "test_xfail_call": "XFAIL", "test_norun": "XFAIL",
    "test_param[a b]": "PASSED", "test_param[\\xe9]": "PASSED", "test_param[::]": "PASSED",
    "test_param[[]": "PASSED", "test_param[\\x1b[31m]": "PASSED", "test_skiptest": "SKIPPED",
    "TestU::test_ok": "PASSED", "TestU::test_no": "FAILED", "TestU::test_sk": "SKIPPED",
    "TestU::test_ef": "XFAIL",
}

UNITTEST_KINDS = '''
import unittest
class K(unittest.TestCase):
    def test_doc(self):
        """Doc line.

        more"""
    def test_skip(self): self.skipTest("x")
    @unittest.skip("d")
    def test_skipd(self): pass
    @unittest.expectedFailure
    def test_ef(self): self.fail()
    @unittest.expectedFailure
    def test_us(self): pass
    def test_fail(self): self.assertEqual(1, 2)
    def test_err(self): raise ValueError("x")
    def tearDown(self):
        if self._testMethodName == "test_td": raise KeyError(1)
    def test_td(self): pass
    def test_nested(self):
        inner = unittest.TestSuite([unittest.FunctionTestCase(lambda: 1 / 0)])
        unittest.TextTestRunner(stream=open("/dev/null", "w")).run(inner)
class Bad(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ValueError("cls")
    def test_a(self): pass
'''
UNITTEST_EXPECTED = {
    "Doc line.": "PASSED", "test_skip (K)": "SKIPPED", "test_skipd (K)": "SKIPPED",
    "test_ef (K)": "XFAIL", "test_us (K)": "XPASS", "test_fail (K)": "FAILED", "test_err (K)": "ERROR",
    "test_td (K)": "ERROR", "test_nested (K)": "PASSED", "setUpClass (kinds.Bad)": "ERROR",
}


def tree(**files):
    root = scratch()
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path = path.with_suffix("." + ("ini" if path.name == "tox" else "py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def each_version(test):
    @functools.wraps(test)
    def run(self):
        for version in MATRIX:
            with self.subTest(python=version):
                test(self, version)

    return run


class PytestTests(unittest.TestCase):
    maxDiff = None

    @each_version
    def test_statuses(self, version):
        run = Run(version, tree(tests__test_kinds=PYTEST_KINDS), "pytest -rA tests/test_kinds.py")
        expected = {"tests/test_kinds.py::" + k: v for k, v in PYTEST_EXPECTED.items()}
        if version == "3.6":  # pytest before 4 names the instance
            expected = {k.replace("TestU::()::", "TestU::"): v for k, v in expected.items()}
        self.assertEqual(run.statuses(), expected, run.log)
        self.assertEqual(set(run.of("collect")[0]["ids"]), set(expected))
        self.assertEqual(run.exit, 1)
        self.assertTrue(run.complete(), run.defects)
        self.assertFalse(run.claim_left)
        self.assertEqual(run.records[0]["framework"], "pytest")
        self.assertEqual(run.of("end")[0]["tests"], len(run.of("test")))

    @each_version
    def test_only_some(self, version):
        names = "tests/test_kinds.py::test_param\ntests/test_kinds.py::TestU::test_no"
        only = "only:" + names.encode().hex()
        run = Run(version, tree(tests__test_kinds=PYTEST_KINDS), "pytest tests", modes=[only])
        expected = {"tests/test_kinds.py::" + k: v for k, v in PYTEST_EXPECTED.items()}
        expected = {k: v for k, v in expected.items() if k.partition("[")[0] in names.split("\n")}
        self.assertEqual(run.statuses(), expected, run.log)
        self.assertEqual(set(run.of("collect")[0]["ids"]), set(expected))
        self.assertTrue(run.complete(), run.defects)

    @each_version
    def test_few_explanations(self, version):
        text = (
            "import pytest\n"
            "@pytest.mark.parametrize('x', range(3))\n"
            "def test_a(x): assert x == 'a'\n"
            "def test_b(): assert 'the last line' == 'b\\\\nc'\n"
        )
        runs = [
            Run(version, tree(test_a=text), "pytest", modes=modes)
            for modes in ([], ["brief:1"], ["brief:0"])
        ]
        shown = [(r.log.count("def test_a"), r.log.count("def test_b")) for r in runs]
        self.assertEqual(shown, [(3, 1), (1, 1), (0, 0)], runs[1].log)
        for run in runs[1:]:
            self.assertEqual(run.statuses(), runs[0].statuses())
            messages = [[t["message"] for t in r.of("test")] for r in (run, runs[0])]
            self.assertEqual(*messages)
            self.assertIn("the last line", run.log)
            self.assertNotIn("INTERNALERROR", run.log)
            self.assertTrue(run.complete(), run.defects)
            self.assertEqual(run.exit, 1)

    @each_version
    def test_ids_of_the_summary(self, version):
        if version in ("2.7", "3.6"):
            return  # no -rA, or another summary
        run = Run(version, tree(tests__test_kinds=PYTEST_KINDS), "pytest -rA --tb=no tests")
        printed = set(re.findall(r"^(?:PASSED|FAILED|XPASS) (\S+::\S+)", run.log, re.M))
        reported = {i.split()[0] for i, s in run.statuses().items() if s in ("PASSED", "FAILED", "XPASS")}
        reported.add("tests/test_kinds.py::test_teardown")
        self.assertEqual(printed, reported)

    @each_version
    def test_collection(self, version):
        files = tree(
            test_broken="import nosuchmodule\n",
            test_skipped="import pytest\npytest.importorskip('nosuchmodule')\n",
        )
        run = Run(version, files, "pytest")
        self.assertEqual(run.statuses(), {"test_broken.py": "ERROR", "test_skipped.py": "SKIPPED"})
        self.assertEqual({r["when"] for r in run.of("test")}, {"collect"})
        self.assertTrue(run.complete())

    @each_version
    def test_broken_conftest(self, version):
        run = Run(version, tree(conftest="import nosuchmodule\n", test_a="def test_a(): pass\n"), "pytest")
        self.assertEqual([r["kind"] for r in run.records], ["start", "end"])
        self.assertTrue(run.complete(), (run.exit, run.records))

    @each_version
    def test_no_shadow_before_start(self, version):
        shadow = "import os\nos._exit(0)\n"
        files = tree(pytest=shadow, json=shadow, test_a="def test_a(): pass\n")
        for command in ("python -m pytest", "PYTHONPATH=. pytest"):
            run = Run(version, files, command + " -p no:cacheprovider test_a.py")
            self.assertEqual(run.records[0]["kind"], "start")
        run = Run(version, tree(pytest=shadow, test_a="def test_a(): pass\n"), "python -m pytest test_a.py")
        self.assertEqual(run.statuses(), {"test_a.py::test_a": "PASSED"}, run.log)

    @each_version
    def test_nothing_is_inherited(self, version):
        files = tree(test_a='''
import os, re, subprocess, sys
def test_descriptor():
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[-1])"
    mine = [int(n) for n in os.listdir("/proc/self/fd") if n.isdigit()]
    theirs = subprocess.check_output([sys.executable, "-c", code], close_fds=False)
    assert max(mine) > 900 and int(theirs) < 900
def test_secret():
    pid, seen = os.getpid(), 0
    while pid > 1:
        for name in ("environ", "cmdline"):
            with open("/proc/%d/%s" % (pid, name), "rb") as f:
                assert not re.search(b"[0-9a-f]{64}", f.read())
        with open("/proc/%d/stat" % pid) as f:
            pid = int(f.read().rpartition(")")[2].split()[1])
        seen += 1
        if seen == 3:
            break
def test_fork():
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
''')
        run = Run(version, files, "pytest -rA test_a.py")
        self.assertEqual(set(run.statuses().values()), {"PASSED"}, run.log)
        self.assertTrue(run.complete(), run.defects)

    @each_version
    def test_sessions_inside_tests(self, version):
        files = tree(test_a="pytest_plugins = 'pytester'\n" '''
def test_inner(request):
    inner = request.getfixturevalue("testdir")
    inner.makepyfile("import os\\ndef test_x(): assert os.environ['PYTEST_CURRENT_TEST']\\ndef test_y(): assert 0")
    inner.inline_run().assertoutcome(passed=1, failed=1)
''')
        run = Run(version, files, "pytest test_a.py")
        self.assertEqual(run.statuses(), {"test_a.py::test_inner": "PASSED"}, run.log)
        self.assertTrue(run.complete())

    def test_distributed(self):
        for version in ("2.7", "3.9"):
            with self.subTest(python=version):
                run = Run(version, tree(tests__test_kinds=PYTEST_KINDS), "pytest -n2 tests")
                self.assertEqual(len(run.of("collect")), 1)
                self.assertEqual(run.statuses()["tests/test_kinds.py::test_xfail"], "XFAIL")
                self.assertEqual(len(run.statuses()), len(PYTEST_EXPECTED))
                self.assertTrue(run.complete())

    def test_subtests_and_reruns(self):
        files = tree(test_a='''
import pytest
state = []
@pytest.mark.flaky(reruns=2)
def test_flaky():
    state.append(0)
    assert len(state) == 2
def test_sub(subtests):
    with subtests.test("one"):
        pass
''')
        run = Run("3.13", files, "pytest test_a.py")
        self.assertEqual(run.statuses(), {"test_a.py::test_flaky": "PASSED", "test_a.py::test_sub": "PASSED"})
        self.assertTrue(run.complete())

    @each_version
    def test_quiet_when_honest(self, version):
        run = Run(version, tree(test_a="import pytest\ndef test_a(tmpdir): pass\n"), "pytest")
        self.assertEqual(run.flags() - {"patched"}, set())
        details = {f["detail"] for f in run.of("flag")}
        # pytest-subtests patches this one itself, in gold runs too.
        self.assertLessEqual(details, {"_pytest.unittest:TestCaseFunction.addSkip"})


class UnittestTests(unittest.TestCase):
    maxDiff = None

    @each_version
    def test_statuses(self, version):
        run = Run(version, tree(kinds=UNITTEST_KINDS), "python -m unittest -v kinds")
        new = tuple(map(int, version.split("."))) >= (3, 11)
        expected = {
            re.sub(r"^(\w+) \(K\)$", r"\1 (kinds.K.\1)" if new else r"\1 (kinds.K)", k): v
            for k, v in UNITTEST_EXPECTED.items()
        }
        self.assertEqual(run.statuses(), expected, run.log)
        self.assertTrue(run.complete(), run.defects)
        self.assertEqual(run.records[0]["framework"], "unittest")

    @each_version
    def test_only_some(self, version):
        every = Run(version, tree(kinds=UNITTEST_KINDS), "python -m unittest -v kinds").statuses()
        some = [name for name in every if name.startswith(("test_fail", "test_skip ", "Doc"))]
        only = "only:" + "\n".join(some).encode().hex()
        run = Run(version, tree(kinds=UNITTEST_KINDS), "python -m unittest -v kinds", modes=[only])
        self.assertEqual(run.statuses(), {name: every[name] for name in some})
        self.assertEqual(set(run.of("collect")[0]["ids"]), set(some))
        self.assertTrue(run.complete(), run.defects)

    @each_version
    def test_subtests(self, version):
        if version == "2.7":
            return
        run = Run(version, tree(kinds='''
import unittest
class K(unittest.TestCase):
    def test_sub(self):
        for i in range(3):
            with self.subTest(i=i): self.assertNotEqual(i, 1)
    def test_ok(self):
        with self.subTest(i=0): pass
'''), "python -m unittest -v kinds")
        statuses = {i.split(" ")[0] + ("*" if "(i=" in i else ""): s for i, s in run.statuses().items()}
        self.assertEqual(statuses, {"test_sub": "FAILED", "test_sub*": "FAILED", "test_ok": "PASSED"})
        self.assertTrue(run.complete())

    @each_version
    def test_shadow(self, version):
        files = tree(unittest="import os\nos._exit(0)\n", kinds=UNITTEST_KINDS)
        run = Run(version, files, "python -m unittest -v kinds")
        self.assertIn("Doc line.", run.statuses(), run.log)

    def test_late_start_is_flagged(self):
        files = tree(everything=UNITTEST_KINDS.replace("class Bad", "class _Bad") + "\nunittest.main()\n")
        run = Run("3.11", files, "python everything.py")
        self.assertIn("late_start", run.flags())
        self.assertEqual(run.statuses()["Doc line."], "PASSED")


class CommandTests(unittest.TestCase):
    """Commands that reach the tests through other programs."""

    def test_tox(self):
        for version, name in (("3.8", "py38"), ("3.9", "py39")):
            with self.subTest(python=version):
                files = tree(
                    test_a="def test_a(): pass\n",
                    tox="[tox]\nskipsdist=true\n[testenv]\ncommands = python -X dev -m pytest -rA {posargs}\n",
                )
                venv, reason = environment(version)
                if venv is None:
                    self.skipTest(reason)
                if version == "3.9":
                    # What the environment build leaves for tox-current-env
                    # (docs/design/runner.md).
                    python = files / ".tox" / name / "bin" / "python"
                    python.parent.mkdir(parents=True)
                    python.write_text('#!/bin/sh\nexec "%s/bin/python" "$@"\n' % venv)
                    python.chmod(0o755)
                    command = "tox --current-env -e%s -v -- test_a.py" % name
                else:
                    command = "tox -c tox.ini --current-env -e%s -v -- test_a.py" % name
                run = Run(version, files, command)
                if version == "3.8" and "No module named pytest" in run.log:
                    self.skipTest("tox-current-env for tox 3 replaces the interpreter by a bare link")
                self.assertEqual(run.statuses(), {"test_a.py::test_a": "PASSED"}, run.log)
                self.assertTrue(run.complete())

    def test_coverage(self):
        run = Run("3.9", tree(test_a="def test_a(): pass\n"), "coverage run --branch -m pytest test_a.py")
        self.assertEqual(run.statuses(), {"test_a.py::test_a": "PASSED"}, run.log)
        self.assertNotIn("late_start", run.flags())

    def test_setup_py(self):
        files = tree(setup="import unittest, sys\nsys.argv[1:] = ['kinds']\nunittest.main(module=None)\n", kinds=UNITTEST_KINDS)
        run = Run("3.9", files, "python setup.py test")
        self.assertNotIn("late_start", run.flags())
        self.assertEqual(run.statuses()["Doc line."], "PASSED")

    def test_other_programs(self):
        run = Run("3.11", tree(test_a="def test_a(): pass\n"), "python -c 'print(1)' && true | pytest test_a.py")
        self.assertTrue(run.complete())

    def test_no_tests_at_all(self):
        run = Run("3.11", tree(a=""), "python -c 'print(1)'")
        self.assertEqual(run.records, [])
        self.assertTrue(run.claim_left)


class ChannelTests(unittest.TestCase):
    def test_forged_line_is_a_defect(self):
        files = tree(test_a="import os\ndef test_a(): os.write(max(int(f) for f in os.listdir('/proc/self/fd') if int(f) > 900), b'x\\n')\n")
        run = Run("3.11", files, "pytest test_a.py")
        self.assertTrue(run.defects)
        self.assertFalse(run.complete())

    def test_digest(self):
        def digest(body):
            run = Run("3.11", tree(test_a="def test_a():\n    assert %s\n" % body), "pytest test_a.py")
            return run.of("collect")[0]["digest"]

        self.assertEqual(digest("1 in {1, 2, 'a'}"), digest("1 in {1, 2, 'a'}"))
        self.assertNotEqual(digest("1 in {1, 2}"), digest("1 in {1, 3}"))

    def test_odd_ids(self):
        files = tree(test_a='''
import pytest
@pytest.mark.parametrize("x", [1], ids=["\\ud800 \\n \\x00"])
def test_a(x): pass
''')
        run = Run("3.11", files, "pytest test_a.py")
        self.assertEqual(len(run.of("collect")[0]["ids"]), 1)
        self.assertTrue(run.complete(), run.log)

    def test_lost_descriptor_is_no_end(self):
        run = Run("3.11", tree(test_a="import os\ndef test_a(): os.closerange(3, 65536)\n"), "pytest test_a.py")
        self.assertFalse(run.complete())


class CorpusTests(unittest.TestCase):
    """The integrity corpus, on the runner's word alone: hidden tests are put
    in place, nothing else is protected."""

    def setUp(self):
        if not CORPUS.is_dir():
            self.skipTest("no integrity corpus at %s" % CORPUS)
        self.tasks = {p.parent.name: json.loads(p.read_text()) for p in CORPUS.glob("tasks/*/task.json")}

    def checkout(self, task, diff):
        root = scratch() / "testbed"
        shutil.copytree(CORPUS / task["repo"], root, symlinks=True)
        env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")
        git = functools.partial(subprocess.run, cwd=root, env=env, check=True, capture_output=True)
        git(["git", "init", "-q"])
        git(["git", "add", "-A", "-f"])
        git(["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "base"])
        if diff.read_bytes().strip():
            for tool in (["git", "apply"], ["patch", "--batch", "-p1", "-i"]):
                if subprocess.run(tool + [str(diff)], cwd=root, env=env, capture_output=True).returncode == 0:
                    break
        for path in task["test_files_modified"]:
            git(["git", "checkout", "HEAD", "--", path])
        for path in task["test_files_added"]:
            where = root / path
            if where.is_symlink() or where.is_file():
                where.unlink()
            elif where.is_dir():
                shutil.rmtree(where)
        git(["git", "apply", str(CORPUS / "tasks" / task["instance_id"] / "test.diff")])
        return root

    def grade(self, task, diff):
        return Run("3.11", self.checkout(task, diff), task["test_command"])

    def test_gold(self):
        for name, task in sorted(self.tasks.items()):
            with self.subTest(task=name):
                run = self.grade(task, CORPUS / "tasks" / name / "gold.diff")
                found = run.statuses()
                self.assertEqual({t: found.get(t) for t in task["gold_status"]}, task["gold_status"], run.log)
                self.assertTrue(run.resolves(task))
                self.assertLessEqual(run.flags(), {"patched"})

    def test_mutants(self):
        for name, task in sorted(self.tasks.items()):
            with self.subTest(task=name):
                root = self.checkout(task, CORPUS / "tasks" / name / "gold.diff")
                for path, text in task["mutants"]["files"].items():
                    (root / path).write_text(text)
                run = Run("3.11", root, task["test_command"])
                for test in task["mutants"]["must_fail"]:
                    records = [r for r in run.of("test") if r["id"] == test and r["when"] == "call"]
                    # Subtests may bear the same docstring.
                    self.assertTrue(records, test)
                    self.assertLessEqual({r["status"] for r in records}, {"FAILED", "ERROR"}, test)

    def cases(self, kind):
        for path in sorted(CORPUS.glob(kind + "/*/case.json")):
            case = json.loads(path.read_text())
            if case.get("applies", True) and not case.get("hostile"):
                yield case, path.parent / "patch.diff"

    def test_honest(self):
        for case, diff in self.cases("honest"):
            if case["name"] == "diff_no_final_newline":
                continue  # needs a better patch reader than git's
            with self.subTest(case=case["name"]):
                run = self.grade(self.tasks[case["task"]], diff)
                self.assertEqual(run.resolves(self.tasks[case["task"]]), case["must_resolve"], run.log)

    def test_cheats_that_the_runner_or_the_statuses_stop(self):
        for case, diff in self.cases("cheats"):
            if case["stopped_by"] not in ("runner", "exact status"):
                continue
            with self.subTest(case=case["name"]):
                run = self.grade(self.tasks[case["task"]], diff)
                self.assertFalse(run.resolves(self.tasks[case["task"]]), run.log)


class ClassifyTests(unittest.TestCase):
    def test_command_lines(self):
        sys.path.insert(0, str(RUNNER))
        before = sys.path[:]
        try:
            from swegym_hook import classify
        finally:
            sys.path[:] = before[1:]
        for line, want in [
            ("/v/bin/pytest -rA tests", "pytest"),
            ("-m pytest", "pytest"),
            ("-X dev -m pytest x", "pytest"),
            ("-bbm pytest x", "pytest"),
            ("-W error -m unittest -v a", "unittest"),
            ("./tests/runtests.py --verbosity 2", "django"),
            ("manage.py test -v 2", "django"),
            ("manage.py migrate", None),
            ("bin/test -C --verbose x", "sympy"),
            ("/opt/x/swegym_sympy_test.py -C", "sympy"),
            ("setup.py test", "setup.py"),
            ("setup.py build", None),
            ("/v/bin/coverage run --branch -m pytest", "pytest"),
            ("/v/bin/tox -e py39 -- pytest", None),
            ("script.py pytest", None),
            ("-c import(sys)", None),
            ("", None),
        ]:
            self.assertEqual(classify(line.split()), want, line)


if __name__ == "__main__":
    unittest.main()
