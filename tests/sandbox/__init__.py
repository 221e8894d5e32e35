"""Tests of the sandbox's runtime: real servers, real processes, real signals."""
