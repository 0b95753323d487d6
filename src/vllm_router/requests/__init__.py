"""The course of one request: receive, read options, get a slot, send, respond, release."""
