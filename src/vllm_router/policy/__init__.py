"""Pure decisions: state, clock and randomness are arguments."""
