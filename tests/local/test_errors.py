from vllm_router.local.errors import ApiError, audio_too_long, invalid_audio


def test_the_body_repeats_the_status_and_names_the_field() -> None:
    error = ApiError(404, "No such model.", "NotFoundError", "model")
    assert error.body() == {
        "error": {
            "message": "No such model.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


def test_unusable_audio_is_a_bad_request() -> None:
    assert invalid_audio().status == audio_too_long(700.0).status == 400
    assert "maximum allowed duration of 600s (metadata reports 700.0s)" in str(audio_too_long(700))
