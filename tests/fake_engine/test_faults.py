import pytest
from tests.fake_engine.faults import Faults, FaultsError, read_faults, read_faults_text


def test_an_empty_order_is_good_health() -> None:
    assert read_faults({}) == Faults()
    assert Faults().to_json() == {}


def test_an_order_survives_the_way_through_json() -> None:
    order = {"status": 503, "rate": 0.5, "times": 2, "hang": "body", "models": ("a", "b")}
    assert read_faults(order).to_json() == order
    assert read_faults({"models": ["a"]}).models == ("a",)
    assert read_faults({"status": None}).status is None
    assert read_faults({"delay_s": 1}).delay_s == 1.0


@pytest.mark.parametrize(
    ("order", "name"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"status": "503"}, "status"),
        ({"status": 99}, "status"),
        ({"status": True}, "status"),
        ({"rate": 1.5}, "rate"),
        ({"hang": "never"}, "hang"),
        ({"refuse": 1}, "refuse"),
        ({"models": "a"}, "models"),
        ({"speed": -1}, "speed"),
        ({"delay_s": -1}, "delay_s"),
        ({"answer_bytes_per_s": 0}, "answer_bytes_per_s"),
        ({"rate": True}, "rate"),
    ],
)
def test_a_wrong_order_is_refused_by_name(order: dict[str, object], name: str) -> None:
    with pytest.raises(FaultsError, match=name):
        read_faults(order)


def test_the_command_line_takes_json_and_pairs() -> None:
    expected = Faults(status=503, rate=0.1, refuse=True, hang="answer")
    text = "status=503, rate=0.1,refuse,hang=answer"
    assert read_faults_text(text) == expected
    assert read_faults_text('{"status":503,"rate":0.1,"refuse":true,"hang":"answer"}') == expected
    assert read_faults_text("") == Faults()
    with pytest.raises(FaultsError, match="JSON"):
        read_faults_text("{status")
