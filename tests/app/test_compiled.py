from vllm_router.app.compiled import how_it_runs
from vllm_router.spool import multipart


def test_it_tells_how_the_hot_modules_run() -> None:
    assert multipart.__file__ is not None
    is_compiled = not multipart.__file__.endswith(".py")
    assert how_it_runs() == ("compiled" if is_compiled else "interpreted")
