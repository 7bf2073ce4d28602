"""The rules of access for every request and every WebSocket: valid callers, and limits for web pages of other sites."""
