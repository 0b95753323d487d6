"""Receive an upload: its bytes go to the spool, and its form is parsed as it arrives.

Refuses an upload as soon as it cannot be served: too large, no form, a malformed form, no disk
space.
"""

from __future__ import annotations

from vllm_router.errors import BadRequest, SpoolFull, TooLarge
from vllm_router.spool.multipart import BadForm, Form, FormReader, boundary_of
from vllm_router.spool.upload import Spool, SpoolFailed, Upload


class UploadReceiver:
    """Receives one upload's bytes and parses its form.

    Args:
        spool: Creates the upload.
        content_type: The request's Content-Type.
        declared_bytes: The request's Content-Length; None if it is chunked.
        max_bytes: Maximum size of an upload.
        max_disk_bytes: Maximum disk space for all uploads together.

    Raises:
        BadRequest: It is not a multipart form.
        TooLarge: Its declared size exceeds the maximum.
    """

    __slots__ = ("_max_bytes", "_max_disk_bytes", "_reader", "_spool", "upload")

    def __init__(
        self,
        spool: Spool,
        content_type: bytes,
        declared_bytes: int | None,
        max_bytes: int,
        max_disk_bytes: int,
    ) -> None:
        try:
            boundary = boundary_of(content_type)
        except BadForm as e:
            raise BadRequest(f"The form cannot be read: {e}.") from e
        if boundary is None:
            raise BadRequest(
                "Send the audio as multipart/form-data, with the fields 'file' and 'model'; the "
                f"Content-Type given is '{content_type.decode('latin-1')[:100]}'."
            )
        self._max_bytes = max_bytes
        self._max_disk_bytes = max_disk_bytes
        if declared_bytes is not None and declared_bytes > max_bytes:
            raise self._too_large()
        self._reader = FormReader(boundary)
        self._spool = spool
        self.upload: Upload = spool.upload(declared_bytes or 0)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The upload is larger than the maximum of {self._max_bytes / 2**20:g} MiB; send a "
            "compressed format such as mp3 or opus, or ask for a higher --max-upload-mb."
        )

    def block(self) -> tuple[bytearray, int]:
        """Return the memory for the next bytes, and the offset in it."""
        try:
            return self.upload.block()
        except SpoolFailed as e:
            raise SpoolFull(_no_room(e), retry_after_s=10) from e

    def adopt(self, block: bytearray, at: int) -> bytearray | None:
        """Take over the memory that holds the first bytes; see `Upload.adopt`."""
        return self.upload.adopt(block, at)

    def wrote(self, count: int) -> None:
        """Parse the bytes just received into the block."""
        block, end = self.upload.wrote(count)
        if self.upload.size_bytes > self._max_bytes:
            raise self._too_large()
        try:
            self._reader.feed(block, end - count, end)
        except BadForm as e:
            raise BadRequest(f"The form cannot be read: {e}.") from e

    def append(self, data: memoryview) -> None:
        """Copy bytes into the upload and parse them."""
        try:
            for block, start, end in self.upload.append(data):
                if self.upload.size_bytes > self._max_bytes:
                    raise self._too_large()
                self._reader.feed(block, start, end)
        except SpoolFailed as e:
            raise SpoolFull(_no_room(e), retry_after_s=10) from e
        except BadForm as e:
            raise BadRequest(f"The form cannot be read: {e}.") from e

    @property
    def must_flush(self) -> bool:
        """Whether the disk must catch up before more bytes are accepted."""
        return self.upload.is_staged_full

    async def flush(self) -> None:
        """Let the disk catch up."""
        if self._spool.bytes_on_disk > self._max_disk_bytes:
            raise SpoolFull("The disk space for uploads is exhausted.", retry_after_s=10)
        try:
            await self.upload.flush()
        except SpoolFailed as e:
            raise SpoolFull(_no_room(e), retry_after_s=10) from e

    async def form(self) -> Form:
        """Return the form of a complete upload.

        Raises:
            BadRequest: The form is malformed.
        """
        if self.upload.is_on_disk:
            await self.flush()
        try:
            return self._reader.finish()
        except BadForm as e:
            raise BadRequest(f"The form cannot be read: {e}.") from e

    def close(self) -> None:
        """Release the upload. May be called twice."""
        self.upload.close()


def _no_room(e: SpoolFailed) -> str:
    return f"The router has no room to hold the upload now: {e}."
