"""What models' engines can do, from several sources; whole requests are tested end to end."""

from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.capability_book import BELIEVED_S
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Ticket, Urgency
from vllm_router.upstream.model_capabilities import FRESH_S, MAX_MODELS, ModelCapabilities

A, B, C = EngineId("http://a"), EngineId("http://b"), EngineId("http://c")


class World:
    """A fleet, a clock, and what is known of the model m."""

    def __init__(self, **stated: Capabilities) -> None:
        self.now = 100.0
        self.fleet = Fleet()
        self.known = ModelCapabilities(self.fleet, stated, lambda: self.now)
        self.ticket = Ticket("r", "m", 1.0, 1, Urgency.SHORT, 0.0)

    def listed(self, *engines: EngineId, **stated: Capabilities) -> None:
        specs = tuple(EngineSpec(e, e, ("m",), capabilities=stated.get(e[-1])) for e in engines)
        self.fleet.apply(Listing(specs), self.now)
        for engine in engines:
            self.fleet.observe_probe(engine, True, 0.1, None, False, self.now)

    def later(self, seconds: float = FRESH_S) -> Capabilities:
        self.now += seconds
        return self.known.of("m")


def test_nothing_is_known_of_a_model_that_nobody_serves() -> None:
    world = World()
    assert world.known.of("m") == Capabilities()
    assert world.known.view("m") == {}


def test_two_engines_are_believed_and_the_only_one() -> None:
    world = World()
    world.listed(A, B)
    world.known.refused_language(world.ticket, A)
    assert world.known.of("m").language is None
    world.known.refused_language(world.ticket, B)
    # At once: the next upload shall not be refused too.
    assert world.known.of("m").language is False
    alone = World()
    alone.listed(A)
    alone.known.refused_format(alone.ticket, A)
    assert alone.known.of("m").verbose_json is False


def test_an_engine_that_becomes_ready_has_all_asked_anew() -> None:
    world = World()
    world.listed(A)
    world.later()
    world.known.refused_language(world.ticket, A)
    assert world.later().language is False
    world.listed(A, B)
    assert world.later().language is None


def test_an_engine_that_restarts_has_all_asked_anew() -> None:
    world = World()
    world.listed(A)
    world.later()
    world.known.refused_length(world.ticket, A, 600.0)
    assert world.later().max_audio_s == 600.0
    for _ in range(20):
        world.fleet.observe_probe(A, False, 0.1, "refused", False, world.now)
    assert world.later().max_audio_s == 600.0
    world.later(60.0)
    for _ in range(20):
        world.fleet.observe_probe(A, True, 0.1, None, False, world.now)
    world.fleet.drain(A, world.now)
    world.fleet.resume(A, world.now)
    world.fleet.observe_probe(A, True, 0.1, None, False, world.now)
    assert world.later().max_audio_s is None


def test_what_is_learned_is_forgotten() -> None:
    world = World()
    world.listed(A)
    world.known.refused_size(world.ticket, A, 1e6)
    assert world.later().max_file_bytes == 1_000_000
    assert world.later(BELIEVED_S).max_file_bytes is None
    assert not world.known.is_news("wav", has_language=False, is_verbose=False)


def test_a_500_that_two_engines_gave_is_of_both() -> None:
    world = World()
    world.listed(A, B)
    world.ticket.excluded.add(A)
    world.known.refused_container(world.ticket, B, "mp4", 500)
    assert world.known.unreadable("m") == ("mp4",)
    other = World()
    other.listed(A, B)
    other.ticket.excluded.add(A)
    other.known.refused_container(other.ticket, B, "mp4", 400)
    other.known.refused_container(other.ticket, B, "wav", 400)
    assert other.known.unreadable("m") == ()


def test_a_success_refutes_what_it_shows_and_nothing_else() -> None:
    world = World()
    world.listed(A)
    world.known.refused_language(world.ticket, A)
    world.known.refused_format(world.ticket, A)
    world.known.refused_length(world.ticket, A, 60.0)
    for _ in range(2):
        world.known.refused_container(world.ticket, A, "mp4", 400)
    world.known.accepted("m", "wav", 10.0, 1000, has_language=False, is_verbose=False)
    assert world.known.of("m") == Capabilities(False, False, 60.0, unreadable=frozenset({"mp4"}))
    world.known.accepted("m", "mp4", 70.0, 1000, has_language=True, is_verbose=True)
    assert world.known.of("m") == Capabilities()


def test_what_was_just_taken_is_not_unlearned_by_refusals() -> None:
    world = World()
    world.listed(A)
    assert not world.known.is_news("wav", has_language=False, is_verbose=False)
    for kind, has_language, is_verbose in (
        ("mp4", False, False), ("wav", True, False), ("wav", False, True),
    ):  # fmt: skip
        assert world.known.is_news(kind, has_language=has_language, is_verbose=is_verbose)
        world.known.accepted("m", kind, 1.0, 1000, has_language=has_language, is_verbose=is_verbose)
    for _ in range(3):
        world.known.refused_language(world.ticket, A)
        world.known.refused_format(world.ticket, A)
        world.known.refused_container(world.ticket, A, "mp4", 500)
    assert world.known.of("m") == Capabilities()


def test_flags_beat_the_engines_file_and_both_beat_what_was_learned() -> None:
    world = World(m=Capabilities(language=True, max_audio_s=60.0))
    world.listed(
        A, B, a=Capabilities(max_audio_s=90.0, verbose_json=True), b=Capabilities(max_file_bytes=9)
    )
    for engine in (A, B):
        world.known.refused_language(world.ticket, engine)
        world.known.refused_format(world.ticket, engine)
        world.known.refused_size(world.ticket, engine, 5.0)
        world.ticket.excluded.add(A)
        world.known.refused_container(world.ticket, B, "mp4", 500)
    assert world.known.of("m") == Capabilities(True, True, 60.0, 9, unreadable=frozenset({"mp4"}))
    assert world.known.view("m")["stated"] == [
        "language", "max_audio_s", "max_file_mb", "verbose_json",
    ]  # fmt: skip


def test_an_edit_of_what_is_stated_counts_within_a_second() -> None:
    world = World()
    world.listed(A, a=Capabilities(language=False))
    assert world.known.of("m").language is False
    world.listed(A)
    assert world.later().language is None


def test_what_engines_say_of_their_contexts_is_shown() -> None:
    world = World()
    world.listed(A, B)
    world.fleet.observe_models(A, ("m",), world.now, {"m": 448})
    world.fleet.observe_models(B, ("m", "n"), world.now, {"m": 32_768, "n": 5})
    assert world.known.view("m") == {"max_model_len": 448}
    world.fleet.observe_models(A, ("m",), world.now)
    assert world.known.view("m") == {"max_model_len": 32_768}


def test_memory_is_bounded() -> None:
    world = World()
    for index in range(MAX_MODELS * 2):
        world.known.of(f"m{index}")
    assert len(world.known._known) <= MAX_MODELS
