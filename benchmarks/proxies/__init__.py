"""The same uploads through the router and its peers, side by side in one run (see `__main__`)."""
