"""Readiness of a vLLM engine: it has just transcribed a moment of silence.

/health answers while an engine hangs; a transcription does not. An engine that is too busy to
answer in time is not taken for dead: if it says that requests are running or waiting, it is ready.
Runs inside the engine's container with nothing but Python's standard library. Exits 0 for ready,
1 otherwise with the reason on stderr.
"""

import argparse
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
import wave

RATE_HZ = 16_000
BOUNDARY = "ready-5d1f0c9a7be84"


def silent_wav(duration_s: float = 0.1) -> bytes:
    """Return a mono 16-bit WAV of silence, 0.1 s of 16 kHz unless told otherwise."""
    out = io.BytesIO()
    with wave.open(out, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(RATE_HZ)
        wav.writeframes(bytes(2 * round(duration_s * RATE_HZ)))
    return out.getvalue()


def form(model: str) -> bytes:
    """Return the multipart body that asks for a transcription of silence."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="silence.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return head.encode() + silent_wav() + f"\r\n--{BOUNDARY}--\r\n".encode()


def transcribe(origin: str, model: str, timeout_s: float) -> None:
    """Have the engine transcribe silence.

    Raises:
        OSError: it could not be reached, took too long (TimeoutError) or refused (HTTPError).
        ValueError: what it answered is no transcription.
    """
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310
        f"{origin}/v1/audio/transcriptions", data=form(model), headers=headers
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        answer = json.load(response)
    if not isinstance(answer, dict) or "text" not in answer:
        raise ValueError(f"not a transcription: {str(answer)[:200]}")


def is_busy(origin: str, timeout_s: float) -> bool:
    """Return whether the engine says that requests are running or waiting."""
    with urllib.request.urlopen(f"{origin}/metrics", timeout=timeout_s) as response:  # noqa: S310
        page = response.read().decode(errors="replace")
    counts = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)", page, re.M)
    return sum(map(float, counts)) > 0


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    arguments = parser.parse_args()
    origin = f"http://127.0.0.1:{arguments.port}"
    # A quarter of the time is kept for asking whether it is busy.
    patience_s = arguments.timeout_s * 0.75
    try:
        transcribe(origin, arguments.model, patience_s)
        return 0
    except urllib.error.HTTPError as error:
        reason = f"{error.code}: {error.read(500).decode(errors='replace')}"
    except (TimeoutError, urllib.error.URLError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if not isinstance(cause, TimeoutError):
            reason = str(cause)
        else:
            try:
                if is_busy(origin, arguments.timeout_s - patience_s):
                    return 0
                reason = f"no answer within {patience_s:g} s, and idle by its own account"
            except (OSError, ValueError) as metrics_error:
                reason = f"no answer within {patience_s:g} s, nor from /metrics: {metrics_error}"
    except (OSError, ValueError) as error:
        reason = str(error)
    print(f"not ready: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
