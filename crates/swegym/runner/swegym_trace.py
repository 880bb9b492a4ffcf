"""Tells which functions of the codebase run (docs/design/validation.md).

Only for making tasks: nothing here is active in a graded run.
"""

import os
import sys
import threading

_TOOL = 2  # sys.monitoring.PROFILER_ID


class Tracer(object):
    """Collects the code objects that are entered between start and stop."""

    def __init__(self, root):
        self._root = root + os.sep
        self._codes = set()
        self._numbers = {}
        self._monitoring = getattr(sys, "monitoring", None)
        if self._monitoring is not None:
            self._monitoring.use_tool_id(_TOOL, "swegym")
            event = self._monitoring.events.PY_START
            self._monitoring.register_callback(_TOOL, event, self._on_start)

    def start(self):
        self._codes = set()
        if self._monitoring is not None:
            self._monitoring.restart_events()
            self._monitoring.set_events(_TOOL, self._monitoring.events.PY_START)
        else:
            threading.setprofile(self._on_event)
            sys.setprofile(self._on_event)

    def stop(self):
        """Functions not seen before, and the numbers of those entered."""
        if self._monitoring is not None:
            self._monitoring.set_events(_TOOL, 0)
        else:
            sys.setprofile(None)
            threading.setprofile(None)
        codes, self._codes = self._codes, set()
        new, hits = [], []
        for code in codes:
            number = self._numbers.get(code)
            if number is None:
                path = os.path.abspath(code.co_filename)
                if not path.startswith(self._root):
                    continue
                number = self._numbers[code] = len(self._numbers)
                new.append((path[len(self._root) :], code.co_firstlineno))
            hits.append(number)
        return new, sorted(hits)

    def _on_start(self, code, offset):
        self._codes.add(code)
        return self._monitoring.DISABLE

    def _on_event(self, frame, event, argument):
        if event == "call":
            self._codes.add(frame.f_code)
