"""Tests of the drills, each made short."""
