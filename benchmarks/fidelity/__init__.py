"""How many words of people arrive: one engine, the router in every format, faster-whisper."""
