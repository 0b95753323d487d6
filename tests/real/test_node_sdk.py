"""The client tests of tests/clients again, with real engines behind the router."""

from tests.clients.test_node_sdk import *  # noqa: F403
