"""The balancing policies: one file per policy and one line each in this table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vllm_router.scheduling.balance import (
    least_loaded,
    least_requests,
    roundrobin,
    session,
    two_choices,
)
from vllm_router.scheduling.balance.view import Candidates, EngineLoad, Policy

__all__ = ["POLICIES", "Candidates", "EngineLoad", "Policy"]

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            least_loaded.POLICY,
            roundrobin.POLICY,
            least_requests.POLICY,
            two_choices.POLICY,
            session.POLICY,
        )
    }
)
