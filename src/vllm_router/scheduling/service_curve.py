"""An engine's service curve, learned from its responses.

While c windows are in service, one window takes about `intercept_s + slope_s * c` seconds: a batch
has a fixed cost and a cost per member. By Little's law the engine then finishes
c / (intercept + slope * c) = peak * c / (c + half_at) windows per second, with peak = 1 / slope and
half_at = intercept / slope. Both come from a straight line fitted through (c, seconds) of the
windows recently answered.

Origin. TCP Vegas (Brakmo and Peterson, 1995; used as a server limit in Netflix's
concurrency-limits) compares the observed latency with the lowest ever observed. It takes their
ratio as the part of the window that is not merely queueing. Here, that ratio is the elasticity of
the throughput: the percentage by which throughput rises with one percent more windows in service.
The weakness of Vegas is its base latency, the lowest ever observed: a batching engine has no flat
section on which to observe it, and an engine that slows down keeps the old value forever. So the
base is the line's intercept, fitted with exponential decay. There is no step size: the limit is
where the fitted elasticity falls to a given value.

Bounds: five sums and a handful of multiplications per response.

Refuses to know: clocks (`now` is an argument), engines, and what the limit is used for.
"""

import math
from typing import Final

# Time constant of the decay: an engine that slows down is recognized well within a minute, and a
# quiet half minute does not erase the curve.
_MEMORY_S: Final = 15.0
# Upper bound on the effective number of responses; more would only slow the fit down.
_MOST_ANSWERS: Final = 400.0
# Responses between two fits, so that the cost per response stays low.
_ANSWERS_PER_FIT: Final = 8
# After this many responses, later ones can contradict them by taking this many times as long, or as
# short, as expected; before that, the fit adapts by itself.
_KNOWN_ANSWERS: Final = 40.0
_ANOTHER: Final = 2.0
# A few responses are not trusted beyond this factor.
_MOST_AT_ONCE: Final = 10.0
# Prior: one H200 with large-v3 (measured).
PRIOR_HALF_AT: Final = 11.6
PRIOR_PEAK_PER_S: Final = 34.0
# Relative uncertainty of the assumed shape before there is evidence.
_PRIOR_SPREAD: Final = 0.5
# The number in service must have varied by this share of its mean, squared, to reveal the shape. An
# engine always at its limit would otherwise drift to any shape, and its limit with it.
_TELLING: Final = 0.02
_FEW: Final = 2.0
# Largest change of the shape in one fit, so that a brief disturbance does not change it.
_MOST_BEND: Final = 1.15
# The same while little is known: a CPU serves one window after another and must not keep an H200's
# shape for a hundred responses.
_FIRST_BEND: Final = 2.0
_LITTLE: Final = 10.0
# From a CPU that gains nothing from batching to a small model on a large GPU. A fit outside this
# range is noise.
_LEAST_HALF_AT: Final = 0.05
_MOST_HALF_AT: Final = 512.0
# Within the first responses, one that took less than half of the expected time resets the speed:
# the engine was compiling or loading before.
_FIRST_ANSWERS: Final = 12.0
_QUICK: Final = 0.5
# Range of weights with a computable curve; callers use a narrower one. Beyond it, times become 0 or
# infinity.
_LEAST_WEIGHT: Final = 1e-6
_MOST_WEIGHT: Final = 1e6
# Responses faster than this mean a stopped clock; the squares of far smaller values would be 0.
_LEAST_MEAN_S: Final = 1e-6


class ServiceCurve:
    """How an engine's time per window depends on its load.

    Args:
        weight: Speed relative to the prior until it is measured. Any number gives a curve: values
            are clamped to between a millionth and a million.

    Attributes:
        intercept_s: Load-independent part of a window's time, in seconds.
        slope_s: Seconds that each window in service adds to the time of a window.
        answers: Responses learned from, with decay.
        seen: Responses learned from, without decay.
        reached: Most windows in service during any response.
        stuck_at: The constant number of windows recently in service, from which no shape can be
            learned; 0 if the number has varied.
        is_count_rough: Whether the number of windows in service is partly a guess, because other
            routers use the engine too. Then only the speed is learned and the last trusted shape is
            kept: errors in the count would flatten the line.
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
            # NaN counts as the lowest weight.
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
        """Throughput approached with very many windows in service, in windows per second."""
        return 1.0 / self.slope_s

    @property
    def half_at(self) -> float:
        """Windows in service at which half of the peak is reached."""
        return self.intercept_s / self.slope_s

    def window_s(self, windows: float) -> float:
        """Return the time of one window with this many in service, in seconds."""
        return self.intercept_s + self.slope_s * windows

    def rate_at(self, windows: float) -> float:
        """Return the throughput with this many windows in service, in windows per second."""
        return windows / self.window_s(windows) if windows > 0 else 0.0

    def limit_at(self, elasticity: float) -> float:
        """Return the windows in service at which the throughput has this elasticity, in (0, 1)."""
        return self.half_at * (1.0 - elasticity) / elasticity

    def trust(self) -> None:
        """Trust the shape learned so far: no other router has used the engine."""
        self._trusted_half_at = self.half_at

    def learn(self, windows: float, seconds: float, now: float) -> bool:
        """Learn from a response.

        Args:
            windows: Mean windows in service on the engine during the response.
            seconds: Duration of the response.
            now: Monotonic seconds.

        Returns:
            True if the curve was fitted again.
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
            # Mixing responses from before and after a change would fit a line of any slope. A
            # throttled GPU keeps its shape.
            self.rescale(ratio)
            return True
        self._fit()
        self._forget(now)
        return True

    def _is_another_speed(self) -> float | None:
        """Return the ratio of recent to expected times if it is large, else None."""
        ratio = self._seen_s / self._expected_s if self._expected_s > 0.0 else 1.0
        self._expected_s = self._seen_s = 0.0
        if self.answers < _KNOWN_ANSWERS or 1.0 / _ANOTHER < ratio < _ANOTHER:
            return None
        return min(max(ratio, 1.0 / _MOST_AT_ONCE), _MOST_AT_ONCE)

    def assume(self, peak_per_s: float, half_at: float) -> None:
        """Use another engine's curve until this engine has answered; both arguments above 0."""
        self.slope_s = 1.0 / peak_per_s
        self.intercept_s = half_at * self.slope_s
        self._trusted_half_at = half_at

    def rescale(self, factor: float) -> None:
        """Keep the shape, change the speed, and measure again.

        Args:
            factor: Multiplies the time of a window; above 0.
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
        # The same shape at another speed explains the mean. How far the observed slope may pull the
        # fit away from it depends on how much the number in service varied relative to the noise.
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
