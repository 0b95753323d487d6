"""Wait until a vLLM engine that is about to be stopped has finished its work.

Kubernetes runs this before it sends SIGTERM, upon which vLLM breaks running requests off. Routers
see the pod as terminating at once and send it nothing new; --grace-s covers the time that takes.
Then the engine has to be idle for --quiet-s on end, because a request whose audio is still being
decoded counts neither as running nor as waiting. Always exits 0: whatever goes wrong here, the pod
is to stop. Runs with nothing but Python's standard library.
"""

import argparse
import re
import time
import urllib.request


def requests_at_work(origin: str) -> float:
    """Return how many requests are running or waiting in the engine, over all its ranks.

    Raises:
        OSError: the engine does not answer.
        ValueError: a count is not a number.
    """
    with urllib.request.urlopen(f"{origin}/metrics", timeout=10) as response:  # noqa: S310
        page = response.read().decode(errors="replace")
    counts = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)", page, re.M)
    return sum(map(float, counts))


def wait_until_idle(origin: str, quiet_s: float, at_most_s: float, poll_s: float) -> None:
    """Return once the engine has been idle for quiet_s, or is gone, or at_most_s have passed."""
    end = time.monotonic() + at_most_s
    idle_since = None
    silent = 0
    while time.monotonic() < end:
        try:
            is_idle = requests_at_work(origin) == 0
            silent = 0
        except TimeoutError:
            # Busy is not dead.
            is_idle = False
        except (OSError, ValueError):
            silent += 1
            if silent >= 3:
                return
            is_idle = False
        now = time.monotonic()
        if not is_idle:
            idle_since = None
        elif idle_since is None:
            idle_since = now
        if idle_since is not None and now - idle_since >= quiet_s:
            return
        time.sleep(poll_s)


def main() -> None:
    """Wait as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grace-s", type=float, default=5.0)
    parser.add_argument("--quiet-s", type=float, default=5.0)
    parser.add_argument("--at-most-s", type=float, required=True)
    parser.add_argument("--poll-s", type=float, default=1.0)
    arguments = parser.parse_args()
    time.sleep(min(arguments.grace_s, arguments.at_most_s))
    wait_until_idle(
        f"http://127.0.0.1:{arguments.port}",
        arguments.quiet_s,
        max(0.0, arguments.at_most_s - arguments.grace_s),
        arguments.poll_s,
    )


if __name__ == "__main__":
    main()
