"""What the fake has seen: for whoever asks while it runs, and as JSON lines in a file."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from channels.sms.fake.faults import Recorder
from channels.wecom.fake.timers import MovableClock

KF_SENDS: Final = 1_000_000
"""Sends to customers of customer service that are kept, and as many of what people wrote; the
oldest go. 200 MB each."""
SENT: Final = 20_000
"""Other messages kept for whoever asks, newest last."""
TIMES: Final = 100_000
"""Durations of each kind that are kept, newest last."""


class Book:
    """Counts, and the messages that were taken."""

    def __init__(self, clock: MovableClock, recorder: Recorder) -> None:
        self.counts: dict[str, int] = {}
        """How often each thing has happened."""
        self.apis: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        """By "<api> <errcode>"."""
        self.violations: dict[str, int] = {}
        """Limits that somebody did not keep to, and how often."""
        self.sends: dict[str, dict[str, int]] = {}
        """kind → address → messages taken for it."""
        self.kf: deque[dict[str, Any]] = deque(maxlen=KF_SENDS)
        self.sent: deque[dict[str, Any]] = deque(maxlen=SENT)
        self.said: deque[dict[str, Any]] = deque(maxlen=KF_SENDS)
        self._times: dict[str, deque[float]] = {}
        self._clock = clock
        self._recorder = recorder

    def count(self, what: str, number: int = 1) -> None:
        """It has happened."""
        self.counts[what] = self.counts.get(what, 0) + number

    def called(self, api: str, errcode: int) -> None:
        """A call, and what it was answered with."""
        self.apis[api] = self.apis.get(api, 0) + 1
        if errcode:
            name = f"{api} {errcode}"
            self.errors[name] = self.errors.get(name, 0) + 1

    def violated(self, limit: str, number: int = 1) -> None:
        """Somebody did not keep to a limit."""
        self.violations[limit] = self.violations.get(limit, 0) + number

    def lasted(self, what: str, ms: float) -> None:
        """`callback_ms`: until a callback was answered with 200; `welcome_ms`: from a customer's
        coming to her welcome message; `kf_reply_ms`: from her message to the first answer."""
        self._times.setdefault(what, deque(maxlen=TIMES)).append(ms)

    def took(self, kind: str, to: str, corp: str, **fact: Any) -> None:
        """A message for one address is on its way; `kind`: app, appchat, kf, kf_event, mass,
        mass_group, moment or welcome."""
        of_kind = self.sends.setdefault(kind, {})
        of_kind[to] = of_kind.get(to, 0) + 1
        line = {"at": self._clock.now_ms(), "kind": kind, "corp": corp, "to": to, **fact}
        (self.kf if kind == "kf" else self.sent).append(line)
        self._recorder.write(line)

    def hears(self, kind: str, sender: str, corp: str, **fact: Any) -> None:
        """Somebody on the other side did something; `kind`: wrote, or came (with a code that is
        good for one answer until `until`, Unix ms)."""
        line = {"at": self._clock.now_ms(), "kind": kind, "corp": corp, "from": sender, **fact}
        self.said.append(line)
        self._recorder.write(line)

    def told(self, since: int = 0, limit: int = 10_000) -> dict[str, Any]:
        """All of it; of the sends to customers of customer service, and of what was said to us,
        `limit` from number `since` on, of the others the last `limit`."""
        kf = list(self.kf)[since : since + limit]
        said = list(self.said)[since : since + limit]
        return {
            "counts": self.counts,
            "apis": self.apis,
            "errors": self.errors,
            "violations": self.violations,
            "sends": self.sends,
            "kf": kf,
            "kf_total": len(self.kf),
            "said": said,
            "said_total": len(self.said),
            "sent": list(self.sent)[-limit:],
            "times": {name: _spread(sorted(times)) for name, times in self._times.items()},
        }


def _spread(ordered: list[float]) -> dict[str, float]:
    return {
        "count": len(ordered),
        "p50": _at(ordered, 0.50),
        "p99": _at(ordered, 0.99),
        "max": ordered[-1],
    }


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
