"""Who may ask, and what a web page of another site may not: rules that hold for every request and every WebSocket."""
