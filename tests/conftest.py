from hypothesis import settings

# A loaded machine is no failure: hypothesis would else fail what takes over 200 ms once.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
