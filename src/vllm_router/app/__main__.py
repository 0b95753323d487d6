"""`python -m vllm_router.app`, the usual way to start routers for vLLM."""

from vllm_router.cli import main

if __name__ == "__main__":
    main()
