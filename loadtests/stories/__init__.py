"""User stories under load, one module a kind of user; `loadtests/locustfile.py` tells them all."""
