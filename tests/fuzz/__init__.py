"""Fuzzing of the pair: a hostile request and a hostile answer at once, judged by what left on either side."""
