"""The live stream: one session over a WebSocket or Server-Sent Events, and the messages of both."""
