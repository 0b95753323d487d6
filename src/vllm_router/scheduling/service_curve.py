"""An engine's service curve, learned from the answers it gives.

While c windows are in service, one window takes about `intercept_s + slope_s * c` seconds: a batch
costs something by itself and something for each member. By Little's law the engine then finishes
c / (intercept + slope * c) = peak * c / (c + half_at) windows per second, with peak = 1 / slope and
half_at = intercept / slope. Both come from a straight line fitted through (c, seconds) of the
windows answered of late.

Descent. TCP Vegas (Brakmo and Peterson, 1995; as a limit for servers in Netflix's
concurrency-limits) compares the latency seen with the least latency ever seen and takes their ratio
for the part of the window that is not merely queueing. That ratio is here the elasticity of the
throughput: of one percent more windows in service, so many percent come out as more windows per
second. Vegas' weak spot is its base latency, the least ever seen: a batching engine has no flat
stretch to see it on, and an engine that slows down keeps the old one for ever. So the base is the
line's intercept, fitted with exponential forgetting, and there is no step size: the limit is where
the fitted elasticity falls to a given value.

Bounds: five sums and a handful of multiplications per answer.

Refuses to know: clocks (`now` is an argument), engines, what the limit is used for.
"""

import math
from typing import Final

# An answer is forgotten with this time constant: an engine that slows down is known for what it is
# well within a minute, and a quiet half minute does not erase what was learned.
_MEMORY_S: Final = 15.0
# So many answers weigh fully; more would only slow the fit down.
_MOST_ANSWERS: Final = 400.0
# The line is fitted anew after so many answers, so that the cost per answer stays small.
_ANSWERS_PER_FIT: Final = 8
# So many answers are needed before later ones can contradict them, by taking so many times as long,
# or as short, as expected; below that the fit follows by itself.
_KNOWN_ANSWERS: Final = 40.0
_ANOTHER: Final = 2.0
# A few answers do not say more than this.
_MOST_AT_ONCE: Final = 10.0
# Before anything is known: one H200 with large-v3 (measured; wire.local has the same figures).
PRIOR_HALF_AT: Final = 11.6
PRIOR_PEAK_PER_S: Final = 34.0
# How far off the assumed shape may be, relative, before there is evidence.
_PRIOR_SPREAD: Final = 0.5
# The number in service must have varied by this part of its mean, squared, to tell a shape. An
# engine that is always at its limit would else drift to any shape, and its limit with it.
_TELLING: Final = 0.02
_FEW: Final = 2.0
# How far one fit may change the shape, so that a passing disturbance does not.
_MOST_BEND: Final = 1.15
# The same while little is known: a CPU, which serves one window after the other, must not have an
# H200's shape for a hundred of its answers.
_FIRST_BEND: Final = 2.0
_LITTLE: Final = 10.0
# From a CPU that gains nothing by batching to a small model on a large GPU; a fit that is outside
# is noise.
_LEAST_HALF_AT: Final = 0.05
_MOST_HALF_AT: Final = 512.0
# While so few answers are known, one that took less than half of the expected time resets the
# speed: what was slow before was an engine that compiled or loaded.
_FIRST_ANSWERS: Final = 12.0
_QUICK: Final = 0.5
# The weights that have a curve. Whatever reads one bounds it more narrowly; beyond these the times
# end up as 0 or infinity, and a curve that cannot be computed must not be anybody's.
_LEAST_WEIGHT: Final = 1e-6
_MOST_WEIGHT: Final = 1e6
# Answers faster than this are a clock that stood still; the squares of far less would be 0.
_LEAST_MEAN_S: Final = 1e-6


class ServiceCurve:
    """What is known of how an engine serves many windows at once.

    Args:
        weight: Speed relative to the prior, before anything has been measured. Any number gives a
            curve: from a millionth to a million it counts as it is, beyond as the nearest of these.

    Attributes:
        intercept_s: Seconds of a window that do not depend on the others.
        slope_s: Seconds that each window in service adds to all of them.
        answers: Answers learned from, with forgetting.
        seen: Answers learned from, without forgetting.
        reached: The most windows in service with which an answer was given.
        stuck_at: The windows in service at which it has been all the time of late, so that nothing
            is learned of its shape; 0: it has not.
        is_count_rough: The windows in service that go with the answers are partly a guess, because
            other routers use the engine too. Then only its speed is learned, and its shape is the
            one last trusted: errors in the count would flatten the line.
    """

    __slots__ = (
        "_expected_s",
        "_fitted_at",
        "_seen_s",
        "_since_fit",
        "_sum_c",
        "_sum_cc",
        "_sum_ct",
        "_sum_t",
        "_sum_tt",
        "_trusted_half_at",
        "answers",
        "intercept_s",
        "is_count_rough",
        "reached",
        "seen",
        "slope_s",
        "stuck_at",
    )

    def __init__(self, weight: float = 1.0) -> None:
        if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
            # NaN counts as the least.
            weight = _MOST_WEIGHT if weight > _MOST_WEIGHT else _LEAST_WEIGHT
        self.slope_s = 1.0 / (PRIOR_PEAK_PER_S * weight)
        self.intercept_s = PRIOR_HALF_AT * self.slope_s
        self.answers = 0.0
        self.seen = 0
        self.reached = 0.0
        self.stuck_at = 0.0
        self._sum_c = self._sum_t = self._sum_cc = self._sum_ct = self._sum_tt = 0.0
        self._since_fit = 0
        self._expected_s = self._seen_s = 0.0
        self._fitted_at: float | None = None
        self.is_count_rough = False
        self._trusted_half_at = PRIOR_HALF_AT

    @property
    def peak_per_s(self) -> float:
        """Windows per second that are approached with very many in service."""
        return 1.0 / self.slope_s

    @property
    def half_at(self) -> float:
        """Windows in service at which half of the peak is reached."""
        return self.intercept_s / self.slope_s

    def window_s(self, windows: float) -> float:
        """Return the seconds one window takes while so many are in service."""
        return self.intercept_s + self.slope_s * windows

    def rate_at(self, windows: float) -> float:
        """Return windows per second while so many are in service."""
        return windows / self.window_s(windows) if windows > 0 else 0.0

    def limit_at(self, elasticity: float) -> float:
        """Return the windows in service at which the throughput's elasticity is this, in (0, 1)."""
        return self.half_at * (1.0 - elasticity) / elasticity

    def trust(self) -> None:
        """Take the shape learned so far for true: no other router has been on the engine."""
        self._trusted_half_at = self.half_at

    def learn(self, windows: float, seconds: float, now: float) -> bool:
        """Take an answer in.

        Args:
            windows: Windows in service on the engine, the mean over the answer's time.
            seconds: What the answer took.
            now: Monotonic seconds.

        Returns:
            True if the curve was fitted anew.
        """
        expected_s = self.intercept_s + self.slope_s * windows
        is_first = self.answers < _FIRST_ANSWERS and self.seen > 0
        if is_first and _LEAST_MEAN_S <= seconds < _QUICK * expected_s:
            self.rescale(seconds / expected_s)
            expected_s = seconds
        self.answers += 1.0
        self.seen += 1
        if windows > self.reached:
            self.reached = windows
        self._sum_c += windows
        self._sum_t += seconds
        self._sum_cc += windows * windows
        self._sum_ct += windows * seconds
        self._sum_tt += seconds * seconds
        self._expected_s += expected_s
        self._seen_s += seconds
        self._since_fit += 1
        if self._since_fit < min(_ANSWERS_PER_FIT, 0.5 * self.answers):
            return False
        ratio = self._is_another_speed()
        if ratio is not None:
            # Answers from before and after a change, mixed, would make a line of any slope. A GPU
            # that is throttled keeps its shape.
            self.rescale(ratio)
            return True
        self._fit()
        self._forget(now)
        return True

    def _is_another_speed(self) -> float | None:
        """Return how many times as long the latest answers took as expected, if it is many."""
        ratio = self._seen_s / self._expected_s if self._expected_s > 0.0 else 1.0
        self._expected_s = self._seen_s = 0.0
        if self.answers < _KNOWN_ANSWERS or 1.0 / _ANOTHER < ratio < _ANOTHER:
            return None
        return min(max(ratio, 1.0 / _MOST_AT_ONCE), _MOST_AT_ONCE)

    def assume(self, peak_per_s: float, half_at: float) -> None:
        """Take another engine's curve for this one's until it has answered; both above 0."""
        self.slope_s = 1.0 / peak_per_s
        self.intercept_s = half_at * self.slope_s
        self._trusted_half_at = half_at

    def rescale(self, factor: float) -> None:
        """Take the same shape at another speed for true, and measure anew.

        Args:
            factor: Of the seconds that a window takes, above 0.
        """
        self.slope_s *= factor
        self.intercept_s *= factor
        self.answers = 0.0
        self._sum_c = self._sum_t = self._sum_cc = self._sum_ct = self._sum_tt = 0.0
        self._since_fit = 0
        self._fitted_at = None

    def _fit(self) -> None:
        count = self.answers
        mean_c, mean_t = self._sum_c / count, self._sum_t / count
        if mean_t < _LEAST_MEAN_S:
            return
        half = self._trusted_half_at if self.is_count_rough else self.half_at
        var_c = max(0.0, self._sum_cc / count - mean_c * mean_c)
        cov = self._sum_ct / count - mean_c * mean_t
        var_t = max(0.0, self._sum_tt / count - mean_t * mean_t)
        # The same shape at another speed explains the mean; how much the slope seen may pull away
        # from it depends on how much the number in service has varied against the noise.
        assumed = mean_t / (mean_c + half)
        noise = max(var_t - (cov * cov / var_c if var_c > 0 else 0.0), (0.1 * mean_t) ** 2)
        pull = noise / (count * (_PRIOR_SPREAD * assumed) ** 2)
        slope = (cov + pull * assumed) / (var_c + pull)
        tells_shape = mean_c <= _FEW or var_c >= _TELLING * mean_c * mean_c
        self.stuck_at = 0.0 if tells_shape else mean_c
        if self.is_count_rough or not tells_shape:
            slope = assumed
        is_early = self.seen < _KNOWN_ANSWERS and mean_c < _LITTLE
        bend = _FIRST_BEND if is_early else _MOST_BEND
        least = mean_t / (mean_c + min(half * bend, _MOST_HALF_AT))
        most = mean_t / (mean_c + max(half / bend, _LEAST_HALF_AT))
        self.slope_s = min(max(slope, least), most)
        self.intercept_s = mean_t - self.slope_s * mean_c

    def _forget(self, now: float) -> None:
        if self._fitted_at is not None and now > self._fitted_at:
            keep = math.exp((self._fitted_at - now) / _MEMORY_S)
        else:
            keep = 1.0
        keep = min(keep, _MOST_ANSWERS / self.answers)
        self.answers *= keep
        self._sum_c *= keep
        self._sum_t *= keep
        self._sum_cc *= keep
        self._sum_ct *= keep
        self._sum_tt *= keep
        self._since_fit = 0
        self._fitted_at = now
