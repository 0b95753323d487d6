"""One OpenAI-compatible audio address in front of a fleet of Whisper engines on vLLM."""

__version__ = "0.1.0"
