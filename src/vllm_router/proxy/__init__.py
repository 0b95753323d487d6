"""One request's story: facts, dispatch, relay."""
