"""The FastAPI application and the composition root."""
