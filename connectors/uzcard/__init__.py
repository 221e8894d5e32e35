"""UZCARD, through SVGate: JSON-RPC 2.0 over one HTTPS endpoint."""
