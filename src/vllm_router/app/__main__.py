"""`python -m vllm_router.app`, as the vLLM world is used to start its routers."""

from vllm_router.cli import main

if __name__ == "__main__":
    main()
