import json

from vllm_router.app.openapi import with_uploads
from vllm_router.errors import RouterError
from vllm_router.formats.formats import ResponseFormat


def test_both_uploads_are_described_with_their_form() -> None:
    document = with_uploads({"paths": {"/health": {}}})
    assert set(document["paths"]) == {
        "/health",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }
    for path, name in (("transcriptions", "language"), ("translations", "prompt")):
        operation = document["paths"][f"/v1/audio/{path}"]["post"]
        schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema["required"] == ["file"]
        assert name in schema["properties"]
    translation = document["paths"]["/v1/audio/translations"]["post"]["requestBody"]
    assert "language" not in json.dumps(translation)


def test_every_format_is_offered() -> None:
    text = json.dumps(with_uploads({}))
    for each in ResponseFormat:
        assert f'"{each.value}"' in text


def test_every_status_that_an_error_may_have_is_described() -> None:
    described = with_uploads({})["paths"]["/v1/audio/transcriptions"]["post"]["responses"]
    todo, statuses = list(RouterError.__subclasses__()), set()
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        statuses.add(str(kind.status))
    # Of other routes, or of the engines' own making.
    assert statuses - set(described) <= {"403", "405"}


def test_references_lead_somewhere() -> None:
    document = with_uploads({})
    assert "#/components/schemas/Error" in json.dumps(document)
    assert document["components"]["schemas"]["Error"]["required"] == ["error"]
