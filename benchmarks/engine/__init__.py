"""The embedded server against the engine it runs: llama.cpp on its own."""
