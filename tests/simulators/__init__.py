"""The simulators, tested as processes on real sockets."""
