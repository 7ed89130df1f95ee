"""What a client offers, a namespace for each WebSocket: `llm`, `embedding`, `system`."""
