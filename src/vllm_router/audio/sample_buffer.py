"""An audio's samples that may still be needed, by their position in the whole.

Promises: samples are appended at the end and dropped anywhere; dropped samples use no memory.
"""

from vllm_router.audio.wav import Buffer


class SampleBuffer:
    """Holds 16-bit samples; positions are counted in samples from the audio's start."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, bytearray]] = []
        self.end = 0

    def __repr__(self) -> str:
        return f"<SampleBuffer {self.size} up to {self.end}>"

    @property
    def size(self) -> int:
        """Number of samples held."""
        return sum(len(data) for _, data in self._parts) // 2

    def add(self, pcm: Buffer) -> None:
        """Append the next whole samples."""
        if not self._parts or self._parts[-1][0] + len(self._parts[-1][1]) // 2 < self.end:
            self._parts.append((self.end, bytearray()))
        self._parts[-1][1].extend(pcm)
        self.end += len(pcm) // 2

    def drop(self, first: int, past: int) -> None:
        """Drop the held samples from `first` to before `past`."""
        if first >= past:
            return
        kept: list[tuple[int, bytearray]] = []
        for start, data in self._parts:
            end = start + len(data) // 2
            if past <= start or end <= first:
                kept.append((start, data))
                continue
            if past < end:
                rest = data[2 * (past - start) :] if first > start else data
                if first <= start:
                    del data[: 2 * (past - start)]
            if first > start:
                del data[2 * (first - start) :]
                kept.append((start, data))
            if past < end:
                kept.append((past, rest))
        self._parts = kept

    def between(self, first: int, past: int) -> bytes:
        """Return samples that are all held.

        Raises:
            LookupError: Some have been dropped.
        """
        if first == past:
            return b""
        for start, data in self._parts:
            if start <= first and past <= start + len(data) // 2:
                return bytes(memoryview(data)[2 * (first - start) : 2 * (past - start)])
        raise LookupError(f"samples {first} to {past} are not held")
