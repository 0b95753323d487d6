"""The tests of the official clients, here with real engines behind the router."""

from tests.clients.test_curl import (  # noqa: F401
    test_a_file_before_its_model,
    test_an_upload_of_unknown_length,
    test_an_upload_that_waits_to_be_asked_for,
)
from tests.clients.test_curl import test_a_stream_prints_events as test_curl_streams  # noqa: F401
