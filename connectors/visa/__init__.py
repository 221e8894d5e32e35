"""VISA: ISO 8583:1987 over a lasting TCP socket, many messages in flight."""
